"""Short runs of every method, whose losses and weights reference.json keeps bit for bit.

    python -m tests.train.reference FILE.json      # runs them with the effssl on the path, and
    writes what they gave

reference.json was written by commit eaf5b10, so that what a run computes is held through every
change of the code. The runs use instructions that every x86-64 processor has, one thread and no
fused multiply-add chosen by the processor, so that the bits are the same on all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SAME_BITS_EVERYWHERE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
_SETS = {
    # 20 steps on handwritten digits, stored raw and cropped on the device, with every operation
    "digits": """--data digits --batch-size 128 --epochs 2 --views 3 --proj-dim 24
        --hflip-prob 0.5 --hue 0.1 --blur-prob 0.3 --solarize-prob 0.2""",
    # 20 steps on images of varied size, stored as JPEG and cropped where they are decoded
    "photographs": """--data folder --batch-size 16 --epochs 5 --views 3 --proj-dim 12
        --image-size 32 --stem small-s2""",
}
_METHODS = {
    "vicreg": "--method vicreg",
    "barlow_twins": "--method barlow_twins --var-weight 1 --weight-ortho 0.1",
    "pooled": "--method barlow_twins --pairing pooled",
    "simclr": "--method simclr",
    "entropy_reconstruction": "--method entropy_reconstruction",
}
_EVERY = "--log-every 1 --probe-every 2 --final-images 100 --workers 1"
_ENCODER = ["--backbone-kwargs", "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}"]
# NAME -> (set, method, processes)
RUNS = {f"{s} {m}": (s, m, 1) for s in _SETS for m in _METHODS}
RUNS |= {
    f"{s} {m}, two processes": (s, m, 2)
    for s, m in (("digits", "barlow_twins"), ("photographs", "vicreg"))
}


def write_photographs(folder: Path) -> None:
    """Write 80 smooth images of varied size in two classes, the same every time."""
    rng = np.random.default_rng(0)
    for i in range(80):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        height, width = rng.integers(40, 90, 2).tolist()
        file = folder / f"class-{i % 2}" / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(file)


def result_of(name: str, work: Path) -> dict[str, Any]:
    """Do a run in the folder `work`, and return what it gave.

    Losses and measures are hexadecimal floats; of weights and stored images there are digests.
    """
    data, method, num_processes = RUNS[name]
    images, run = work / data, work / name.replace(" ", "-").replace(",", "")
    if data == "photographs" and not images.exists():
        write_photographs(images)
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {num_processes}".split()
    flags = " ".join((_SETS[data], _METHODS[method], _EVERY)).split()
    done = subprocess.run(
        [
            *(sys.executable, *(torchrun if num_processes > 1 else []), "-m", "effssl.train"),
            *(*flags, *_ENCODER, "--data-dir", str(images), "--out", str(run)),
        ],
        env=os.environ | SAME_BITS_EVERYWHERE,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    content = b"".join(
        k.encode() + v.contiguous().numpy().tobytes() for k, v in sorted(weights.items())
    )
    stored = hashlib.sha256(
        next((images / "beton").glob("*-train-*.beton")).read_bytes()
    ).hexdigest()
    return {
        "losses": [r["loss"].hex() for r in records if r["kind"] == "train"],
        "probes": [
            {k: float(v).hex() for k, v in r.items() if "/" in k}
            for r in records
            if r["kind"] == "probe"
        ],
        "final": json.loads((run / "result.json").read_text())["final"]["rows"],
        "weights": hashlib.sha256(content).hexdigest(),
        "stored": stored,
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        results = {name: result_of(name, Path(folder)) for name in RUNS}
    about = {"torch": torch.__version__, "runs": results}
    Path(sys.argv[1]).write_text(json.dumps(about, indent=1) + "\n")

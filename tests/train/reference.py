"""Short runs of every method, whose losses and weights reference.json keeps bit for bit.

    python -m tests.train.reference FOLDER NAME...    # does these runs in FOLDER

reference.json was written by commit eaf5b10, which did each run in a process of its own, so that
what a run computes is held through every change of the code. Its alphas and final tables were
renewed once, when alpha took the authors' ranks and probes were solved to their optimum; losses,
weights and stored images stayed. Losses and weights were renewed when compiled loops began to make
a CPU's views: they round otherwise. The first five losses of every run stayed within 1e-6, all of
nine runs within 3e-6; in the other three, on digits, AdamW made up to 1.5% of that. They were once
more when AdamW was fused on CPUs: losses on photographs stayed within 4e-7; the digits' runs were
made shorter at the same time, and those of four losses on photographs left out; and when the
smallest maps got convolutions of their own: losses of one run stayed within 5e-5, all others within
4e-7. Those of two processes were when these got one BatchNorm: since then their losses are those of
one process within 2e-6. Probes and tables of photographs were when clean views came to be resized
as crops are, and so were the digests of stored images, which were of whole files: what was in these
before, without the checksums that they got, was the same bit for bit, as were losses and weights.
torch's part of the runs uses instructions that every x86-64 processor has,
and one thread, so that few bits, if any, depend on the processor; numba's loops are those of the
other tests, compiled already.
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

from effssl import cli
from effssl.data.beton_file import open_file
from effssl.train import loop as train
from tests.conftest import dots_for_pictures

ROOT = Path(__file__).parents[2]
SAME_BITS_EVERYWHERE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
_SETS = {
    # 10 steps on handwritten digits, stored raw and cropped on the device, with every operation
    "digits": """--data digits --optimizer adamw --lr 3e-3 --batch-size 128 --epochs 1
        --warmup-epochs 0.2 --views 3 --proj-dim 24 --hflip-prob 0.5 --hue 0.1 --blur-prob 0.3
        --solarize-prob 0.2""",
    # 20 steps on images of varied size, stored as JPEG and cropped where they are decoded
    "photographs": """--data folder --optimizer adamw --batch-size 16 --epochs 5 --views 3
        --proj-dim 12 --image-size 32 --stem small-s2""",
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
RUNS = {f"digits {m}": ("digits", m, 1) for m in _METHODS}
RUNS |= {"photographs vicreg": ("photographs", "vicreg", 1)}  # no loss knows where views come from
RUNS |= {
    f"{s} {m}, two processes": (s, m, 2)
    for s, m in (("digits", "barlow_twins"), ("photographs", "vicreg"))
}


def made_by() -> dict[str, str]:
    """Return what can move the last bits: torch, and the processor with its cache."""
    names = ("vendor_id", "cpu family", "model", "cache size")
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    info = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return {"torch": torch.__version__, "processor": ", ".join(info.get(n, "?") for n in names)}


def write_photographs(folder: Path) -> None:
    """Write 80 smooth images of varied size in two classes, the same every time."""
    rng = np.random.default_rng(0)
    for i in range(80):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        height, width = rng.integers(40, 90, 2).tolist()
        file = folder / f"class-{i % 2}" / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(file)


def do(names: list[str], folder: Path) -> None:
    """Do runs in `folder`: those of one process in one process, one after the other."""
    alone = [name for name in names if RUNS[name][2] == 1]
    if alone:
        _call([sys.executable, "-m", "tests.train.reference", str(folder), *alone])
    for name in names:
        if name not in alone:
            torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {RUNS[name][2]}"
            _call([sys.executable, *torchrun.split(), "-m", "effssl.train", *_flags(name, folder)])


def result_of(name: str, folder: Path) -> dict[str, Any]:
    """Return what a run in `folder` gave.

    Losses and measures are hexadecimal floats; of weights and stored images there are digests.
    """
    run, images = _run(name, folder), folder / RUNS[name][0]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    content = b"".join(
        k.encode() + v.contiguous().numpy().tobytes() for k, v in sorted(weights.items())
    )
    # Of the bytes of each image, however they lie in the file
    checksums = open_file(next((images / "beton").glob("*-train-*.beton"))).checksums
    assert checksums is not None
    probes = [r for r in records if r["kind"] == "probe"]
    return {
        "losses": [r["loss"].hex() for r in records if r["kind"] == "train"],
        "probes": [{k: float(v).hex() for k, v in r.items() if "/" in k} for r in probes],
        "final": json.loads((run / "result.json").read_text())["final"]["rows"],
        "weights": hashlib.sha256(content).hexdigest(),
        "stored": hashlib.sha256(checksums.tobytes()).hexdigest(),
    }


def _run(name: str, folder: Path) -> Path:
    return folder / name.replace(" ", "-").replace(",", "")


def _flags(name: str, folder: Path) -> list[str]:
    """Return the flags of a run, and make its images."""
    data, method, _ = RUNS[name]
    images = folder / data
    if data == "photographs" and not images.exists():
        write_photographs(images)
    flags = " ".join((_SETS[data], _METHODS[method], _EVERY)).split()
    return [*flags, *_ENCODER, "--data-dir", str(images), "--out", str(_run(name, folder))]


def _call(command: list[str]) -> None:
    environment = os.environ | SAME_BITS_EVERYWHERE
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr


def _main(folder: Path, names: list[str]) -> int:
    with dots_for_pictures():
        for name in names:
            if code := train.main(cli.parse(_flags(name, folder))):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))

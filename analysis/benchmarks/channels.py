"""How fast images of other channels and depths load, per stored byte, beside RGB of 8 bits.

python -m analysis.benchmarks.channels     # two minutes; nothing else should run

Sets of noise of one size are stored raw, as `--channels` stores them, and K random crops of each
image are cut, which is what `ViewStream.load` does. Sets take turns of whole passes, so that a
machine that slows down slows them all; ratios are of the same round, figures medians over rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from analysis.harness import cli
from analysis.harness.tables import markdown
from effssl.data.beton import ensure_beton
from effssl.data.decode import Decoding
from effssl.data.sources import open_source
from effssl.image_config import Augment, Storage
from effssl.run.device import open_runtime
from effssl.run.provenance import machine
from effssl.set_defaults import OF_RGB
from effssl.views.stream import ViewStream

KINDS = [(3, "uint8"), (1, "uint8"), (13, "uint8"), (1, "uint16"), (3, "uint16"), (13, "uint16")]
KINDS += [(1, "float32"), (13, "float32")]


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--size", type=cli.count, default=224, help="side of a view; images have 300 x 400 px")
    add("--views", type=cli.count, default=4)
    add("--images", type=cli.count, default=96)
    add("--rounds", type=cli.count, default=5)
    add("--workers", type=cli.count, default=2)
    args = cli.read_flags(parser, argv)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            print(report(args, Path(folder)))

    return cli.exit_code(work, resumes=False)


def report(args, folder: Path) -> str:
    """Store the sets below `folder`, time them in turns, and return the table."""
    streams = {kind: _stream(args, folder / "_".join(map(str, kind)), *kind) for kind in KINDS}
    seconds = {kind: [_seconds(stream) for _ in range(2)][1:] for kind, stream in streams.items()}
    for _ in range(args.rounds - 1):
        for kind, stream in streams.items():
            seconds[kind].append(_seconds(stream))
    rgb = seconds[KINDS[0]]
    lines = []
    for (channels, values), took in seconds.items():
        size = channels * np.dtype(values).itemsize
        ratios = [size / 3 * a / b for a, b in zip(rgb, took, strict=True)]
        images_per_s = args.images / statistics.median(took)
        lines.append(
            {
                "channels": channels,
                "values": values,
                "images/s": f"{images_per_s:.0f}",
                "stored MB/s": f"{images_per_s * size * 0.12:.0f}",
                "bytes/s beside RGB": f"{statistics.median(ratios):.2f}",
            }
        )
    return f"{markdown(lines)}\n{machine(torch.device('cpu'))}"


def _stream(args, folder: Path, channels: int, kind: str) -> ViewStream:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(args.images):
        noise = rng.integers(0, 256, (300, 400, channels))
        np.save(folder / f"{i}.npy", (noise / 255 if kind == "float32" else noise).astype(kind))
    window = (0.0, 255.0) if kind == "uint16" else None
    source = open_source("folder", folder, "train", decoding=Decoding(window, channels=channels))
    assert source is not None
    storage = Storage(channels=channels, gray_range=window, workers=args.workers)
    looks = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    augment = Augment(views=args.views, image_size=args.size, **looks, **OF_RGB)  # type: ignore[arg-type]
    return ViewStream(
        ensure_beton(source, folder / "beton", "x", storage),
        augment,
        seed=0,
        batch_size=32,
        workers=args.workers,
        runtime=open_runtime("cpu"),
    )


def _seconds(stream: ViewStream) -> float:
    began = time.perf_counter()
    for _ in stream.load(np.arange(len(stream.stored.labels)), 0):
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

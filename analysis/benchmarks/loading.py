"""How many images a second reach the encoder as K views: this loader beside what others do.

python -m analysis.benchmarks.loading --set 32 cifar10 DIR --set 96 folder DIR --set 224 folder DIR
python -m analysis.benchmarks.loading --set 32 cifar10 DIR --step     # a training step's shares
too; always on a GPU

Everyone makes K views (random resized crop; with "all augmentations" also flip, colour jitter,
grayscale: the CIFAR-10 recipe of arXiv 2312.10725) of the same images with the same number of
workers, as normalised floats, which an encoder takes:

- effssl: .beton read once; JPEGs decoded once for K crops; the rest in one pass on the device; -
effssl without FFCV: the same, read by threads; - FFCV, a pipeline per view: the same .beton, K
pipelines, each decoding for itself (FFCV has no grayscale); - torchvision: a DataLoader with
transforms v2 on Pillow images; - lightly's VICReg views and solo-learn's pipeline in a DataLoader,
if these packages are installed.

DataLoaders get small images of one size (which effssl stores raw) from memory, others as JPEG files
of the same longest side and quality. Every one runs in a process of its own, and only one at a
time: they take turns of whole passes, so that a machine that slows down slows them all; ratios are
of the same round. Figures are medians over rounds."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from analysis.benchmarks.cases import Case, chosen_positions
from analysis.benchmarks.loading_report import report
from analysis.benchmarks.step_shares import step_shares
from analysis.benchmarks.turns import COLOUR_ONLY, CONTENDERS, OURS, Turns
from analysis.harness import cli
from effssl import InputError
from effssl.cli import parse
from effssl.data.stored import open_split
from effssl.run.device import open_runtime
from effssl.run.files import check_writable


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    of_set = "pixels of a view, --data and --data-dir of effssl.train; may be repeated"
    name = ("SIZE", "NAME", "DIR")
    add("--set", nargs=3, action="append", required=True, metavar=name, help=of_set)
    add("--views", type=int, nargs="+", default=[1, 2, 4, 8], metavar="K")
    known = list(CONTENDERS)
    loaders = f"of {', '.join(known)}; default: all that are installed"
    add("--loaders", nargs="+", default=known, choices=known, metavar="NAME", help=loaders)
    images = "of 224 px in a pass; of fewer pixels, more"
    add("--images", type=cli.count, default=192, help=images)
    add("--batch", type=cli.count, default=64)
    add("--workers", type=cli.count, default=2)
    stored = "how effssl stores images of varied size"
    add("--store", choices=["auto", "lossless"], default="auto", help=stored)
    add("--rounds", type=cli.count, default=5)
    add("--turn-s", type=float, default=1.0, help="seconds of a turn, at least one pass")
    device = "auto, cpu, cuda or cuda:N: where effssl augments"
    add("--device", default="auto", help=device)
    add("--step", action="store_true", help="a training step's shares, on a CPU too")
    add("--out", type=cli.path, default=Path("runs/throughput"), help="where table and picture go")
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _measure_and_report(args), resumes=False)


def _measure_and_report(args: argparse.Namespace) -> None:
    device = open_runtime(args.device).device
    on_gpu = device.type == "cuda"
    check_writable(args.out, f"--out {args.out}")
    with tempfile.TemporaryDirectory() as folder:
        sets = [one_set(one, args, Path(folder)) for one in args.set]
        loaders = [name for name in dict.fromkeys([OURS, *args.loaders]) if _is_installed(name)]
        with Turns(loaders, str(device)) as turns:
            rows = [
                row
                for base in sets
                for k in [0, *sorted(set(args.views))]
                for row in measure(turns, loaders, base, k, args.rounds, args.turn_s)
            ]
        shares = []
        if args.step or on_gpu:
            runtime = open_runtime(args.device, "bf16" if on_gpu else "fp32")
            shares = [step_shares(base, runtime) for base in sets]
    report(rows, shares, device, args.out)


def one_set(described: list[str], args: argparse.Namespace, folder: Path) -> Case:
    """Store a set for FFCV, and the images of a pass for the DataLoaders. Raises InputError."""
    size, name, data_dir = described
    if not size.isdigit() or int(size) < 1:
        raise InputError(f"--set {size}: the first is the side of a view in pixels")
    flags = ["--data", name, "--data-dir", data_dir, "--workers", str(args.workers)]
    images = parse([*flags, "--store", args.store]).images
    opened = open_split(images, "train")
    assert opened is not None  # train is found, or it raises
    source, stored = opened
    total = len(stored.labels)
    num_images = min(args.images * max(1, 224 // int(size)), total)
    # All workers of a DataLoader have as much to do.
    batch = min(args.batch, num_images // (2 * args.workers) or 1)
    files = folder / (f"{size}.npy" if stored.side else size)
    sizes = {"total": total, "images": num_images, "batch": batch, "workers": args.workers}
    case = Case(int(size), 0, False, **sizes, beton=stored.path, side=stored.side, files=files)
    chosen = stored.positions[chosen_positions(case)]
    bar = tqdm(chosen, desc=f"{size} px: images", leave=False)
    if stored.side:
        np.save(files, np.stack([source.images[i] for i in bar]))
        return case
    files.mkdir()
    longest = images.max_side
    for i in bar:
        image = Image.fromarray(source.images[i])
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        image.save(files / f"{i}.jpg", quality=images.jpeg_quality)
    return case


def measure(
    turns: Turns, loaders: list[str], base: Case, k: int, rounds: int, turn_s: float
) -> list[dict[str, Any]]:
    """Return a row for each loader and kind of augmentation at one K: median images/s, and effssl's
    over it. k: 0 is loading alone, effssl's."""
    of_pass = base if k else _all_images(base)
    cases = [
        (name, of_pass._replace(views=k, colour=colour))
        for name in loaders
        for colour in ((False, True) if k else (False,))
        if (k or name == OURS) and (colour or name not in COLOUR_ONLY)
    ]
    title = f"{base.size} px, {k} views"
    for turn in tqdm(cases, desc=f"{title}, warm-up", leave=False):
        turns.images_per_s(*turn, 0.0)
    speeds: dict[tuple[str, Case], list[float]] = {turn: [] for turn in cases}
    for _ in tqdm(range(rounds), desc=title, leave=False):
        for turn in cases:
            speeds[turn].append(turns.images_per_s(*turn, turn_s))
    return [_row(name, case, own, speeds[OURS, case]) for (name, case), own in speeds.items()]


def _row(name: str, case: Case, speeds: list[float], ours: list[float]) -> dict[str, Any]:
    numbers = {
        "images_per_s": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "effssl_over_it": statistics.median(a / b for a, b in zip(ours, speeds, strict=True)),
    }
    augmentations = "all" if case.colour else "crops"
    about: dict[str, Any] = {"size": case.size, "views": case.views}
    about |= {"augmentations": augmentations, "loader": name}
    sizes = {"images": case.images, "batch": case.batch, "workers": case.workers}
    rounded = {key: float(f"{x:.3g}") for key, x in numbers.items()}
    return {**about, **rounded, "rounds": len(speeds), **sizes}


def _all_images(base: Case) -> Case:
    """Return the case of loading alone: a pass over few images stored raw is over before it
    begins."""
    return base._replace(images=base.total, batch=min(256, base.total)) if base.side else base


def _is_installed(name: str) -> bool:
    package = {"lightly": "lightly", "solo-learn": "solo"}.get(name, "effssl")
    return importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    sys.exit(main())

"""What a linear probe costs: this project's grid against scikit-learn's, on the representations of
a run.

python -m analysis.benchmarks.probes RUN --data-dir DIR     # minutes on two cores; nothing else
should run

Each way fits the same penalties on the same standardised representations, chooses on the
validation split and reads the test split. The ways take turns, so that a machine that slows down
slows them all; times are medians and ranges, and include standardisation and choice. scikit-learn
stops at its own tolerance, which does not follow the penalty, and may take as many iterations as it
needs; "warm" starts each penalty at the solution of the next stronger one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from analysis.harness import cli
from analysis.harness.tables import markdown
from effssl.cli import load
from effssl.data.stored import reopen_data
from effssl.evaluation.encode import backbone_features, open_streams
from effssl.evaluation.probes import L2_GRID, accuracy, best_linear_probe
from effssl.evaluation.protocols import encode_splits
from effssl.models import load_backbone
from effssl.run.device import open_runtime
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine


class Splits(NamedTuple):
    """Representations h [n, dim] and labels y [n] of a run's images, and the number of classes."""

    train_h: Tensor
    train_y: Tensor
    val_h: Tensor
    val_y: Tensor
    test_h: Tensor
    test_y: Tensor
    classes: int


class Outcome(NamedTuple):
    """The penalty that was chosen, and accuracies in [0, 1]."""

    l2: float
    validation: float
    test: float


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("run", type=cli.path, help="a finished run's folder")
    add("--data-dir", type=cli.path, help="of the run's images (default: where they were)")
    add("--out", type=cli.path, default=Path("runs/probe_cost"), help="where summary.md goes")
    add("--images", type=cli.count, default=100_000, help="training images at most")
    add("--repeats", type=cli.count, default=3)
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _measure_and_report(args), resumes=False)


def _measure_and_report(args: argparse.Namespace) -> None:
    splits = encoded(args.run, args.data_dir, args.images)
    check_writable(args.out, f"--out {args.out}")  # before the fits, which take minutes
    ways: dict[str, Callable[[], Outcome]] = {
        "effssl": lambda: ours(splits),
        "scikit-learn": lambda: sklearns(splits, warm=False),
        "scikit-learn, warm": lambda: sklearns(splits, warm=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    outcomes: dict[str, Outcome] = {}
    for way in tqdm([*ways] * args.repeats, desc="fits"):
        began = time.monotonic()
        outcomes[way] = ways[way]()
        seconds[way].append(time.monotonic() - began)
    text = summary(args, splits, seconds, outcomes)
    write_text(args.out / "summary.md", text)
    print(text)


def encoded(run: Path, data_dir: Path | None, num_images: int) -> Splits:
    """Return representations of clean views by the run's backbone. Raises InputError."""
    cfg = load(run / "config.yaml")
    images = dataclasses.replace(cfg.images, data_dir=data_dir or cfg.images.data_dir)
    backbone, _ = load_backbone(run / "backbone.safetensors")
    backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = reopen_data(images)
    streams = open_streams(
        data,
        cfg.augment,
        seed=cfg.run.seed,
        batch_size=cfg.optim.batch_size,
        workers=images.workers,
        runtime=open_runtime("cpu"),
        progress=True,
    )
    encoded_splits = encode_splits(backbone_features(backbone, streams), data, num_images)
    return Splits(
        encoded_splits.train_h,
        encoded_splits.train_y,
        encoded_splits.val_h,
        encoded_splits.val_y,
        *encoded_splits.reported(),
        encoded_splits.classes,
    )


def ours(splits: Splits) -> Outcome:
    """Fit and choose by this project's probe."""
    probe, reached = best_linear_probe(*splits[:4], splits.classes)
    return Outcome(probe.l2, reached, accuracy(probe, splits.test_h, splits.test_y))


def sklearns(splits: Splits, *, warm: bool) -> Outcome:
    """Fit and choose by scikit-learn's, the strongest penalty first."""
    train_h, train_y, val_h, val_y, test_h, test_y = (part.numpy() for part in splits[:6])
    scaler = StandardScaler().fit(train_h)
    train_x, val_x, test_x = (scaler.transform(h) for h in (train_h, val_h, test_h))
    model = LogisticRegression(max_iter=10_000, warm_start=warm)
    best = Outcome(0.0, -1.0, 0.0)
    for l2 in sorted(L2_GRID, reverse=True):
        model.set_params(C=1 / (len(train_x) * l2)).fit(train_x, train_y)
        reached = float(model.score(val_x, val_y))
        if reached > best.validation:
            best = Outcome(l2, reached, float(model.score(test_x, test_y)))
    return best


def summary(
    args: argparse.Namespace,
    splits: Splits,
    seconds: dict[str, list[float]],
    outcomes: dict[str, Outcome],
) -> str:
    about = machine(torch.device("cpu"))
    about["versions"] |= {"scikit-learn": sklearn.__version__}
    lines = [
        {
            "": way,
            "median s": f"{np.median(taken):.2f}",
            "range s": f"{min(taken):.2f} to {max(taken):.2f}",
            "chosen l2": f"{outcomes[way].l2:g}",
            "validation %": f"{100 * outcomes[way].validation:.2f}",
            "test %": f"{100 * outcomes[way].test:.2f}",
        }
        for way, taken in seconds.items()
    ]
    num_images, dim = splits.train_h.shape
    command = "python -m analysis.benchmarks.probes RUN --data-dir DIR"
    return (
        "# What a linear probe costs\n\n"
        f"Five penalties fitted on {num_images:,} representations of {dim} dimensions, "
        f"{splits.classes} classes; {len(splits.val_h):,} validation and {len(splits.test_h):,} "
        f"test images. Representations of `{args.run.name}`. Nothing is random. {args.repeats} "
        f"repeats, in turns.\n\n{markdown(lines)}\n"
        f"`{command} --repeats {args.repeats}`\n\n"
        f"```\n{json.dumps(about, indent=1)}\n```\n"
    )


if __name__ == "__main__":
    sys.exit(main())

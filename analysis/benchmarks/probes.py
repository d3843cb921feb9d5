"""What a linear probe costs: this project's grid in one pass against scikit-learn's, on the representations of a run.

python analysis/probe_cost.py RUN --data-dir DIR     # minutes on two cores; nothing else should run

Each way fits the same five penalties on the same standardised representations, chooses on the validation split and
reads the test split. The ways take turns, so that a machine that slows down slows them all; times are medians and
ranges, and include standardisation and choice. scikit-learn stops at the same size of the gradient (its default), and
may take as many iterations as it needs; "warm" starts each penalty at the solution of the next stronger one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import experiments
import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from effssl import cli
from effssl.evaluation.encode import backbone_features
from effssl.evaluation.finished_run import open_images
from effssl.evaluation.probes import L2_GRID, accuracy, best_linear_probe
from effssl.evaluation.protocols import encode_splits
from effssl.models.backbones import load_backbone
from effssl.run.folder import machine, write_text

Splits = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # h and y of train, validation, test
Outcome = tuple[float, float, float]  # l2, accuracy on validation, on test


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--data-dir", type=Path, help="of the run's images (default: where they were)")
    parser.add_argument("--out", type=Path, default=Path("runs/probe_cost"), help="where summary.md goes")
    parser.add_argument("--images", type=int, default=100_000, help="training images at most")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    return experiments.exit_code(lambda: _measure_and_report(args), resumes=False)


def _measure_and_report(args: argparse.Namespace) -> None:
    splits, classes = encoded(args.run, args.data_dir, args.images)
    experiments.writable(args.out)  # before the fits, which take minutes
    ways: dict[str, Callable[[], Outcome]] = {
        "effssl": lambda: ours(splits, classes),
        "scikit-learn": lambda: sklearns(splits, warm=False),
        "scikit-learn, warm": lambda: sklearns(splits, warm=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    outcomes: dict[str, Outcome] = {}
    for way in tqdm([*ways] * args.repeats, desc="fits"):
        began = time.monotonic()
        outcomes[way] = ways[way]()
        seconds[way].append(time.monotonic() - began)
    text = summary(args, splits, classes, seconds, outcomes)
    write_text(args.out / "summary.md", text)
    print(text)


def encoded(run: Path, data_dir: Path | None, images: int) -> tuple[Splits, int]:
    """Representations of clean views by the run's backbone, and the number of classes."""
    cfg = cli.load(run / "config.yaml")
    where = dataclasses.replace(cfg.images, data_dir=data_dir or cfg.images.data_dir)
    backbone, _ = load_backbone(run / "backbone.safetensors")
    data, clean = open_images(where, cfg.augment, torch.device("cpu"), torch.float32)
    features = backbone_features(backbone.to(memory_format=torch.channels_last), clean._replace(progress=True))
    found = encode_splits(features, data, images)
    return (found.train_h, found.train_y, found.val_h, found.val_y, *found.reported()), found.classes


def ours(splits: Splits, classes: int) -> Outcome:
    train_h, train_y, val_h, val_y, test_h, test_y = splits
    probe, reached = best_linear_probe(train_h, train_y, val_h, val_y, classes)
    return probe.l2, reached, accuracy(probe, test_h, test_y)


def sklearns(splits: Splits, *, warm: bool) -> Outcome:
    train_h, train_y, val_h, val_y, test_h, test_y = (part.numpy() for part in splits)
    scaler = StandardScaler().fit(train_h)
    train_x, val_x, test_x = scaler.transform(train_h), scaler.transform(val_h), scaler.transform(test_h)
    model = LogisticRegression(max_iter=10_000, warm_start=warm)
    best = (0.0, -1.0, 0.0)
    for l2 in sorted(L2_GRID, reverse=True):
        model.set_params(C=1 / (len(train_x) * l2)).fit(train_x, train_y)
        reached = float(model.score(val_x, val_y))
        if reached > best[1]:
            best = (l2, reached, float(model.score(test_x, test_y)))
    return best


def summary(args, splits: Splits, classes: int, seconds: dict[str, list[float]], outcomes: dict[str, Outcome]) -> str:
    made = machine(torch.device("cpu"))
    made["versions"] |= {"scikit-learn": sklearn.__version__}
    lines = [
        "# What a linear probe costs",
        "",
        f"Five penalties fitted on {len(splits[0]):,} representations of {splits[0].shape[1]} dimensions, {classes} "
        f"classes; {len(splits[2]):,} validation and {len(splits[4]):,} test images. Representations of "
        f"`{args.run.name}`. Nothing is random. {args.repeats} repeats, in turns.",
        "",
        "| | median s | range s | chosen l2 | validation % | test % |",
        "|---|---|---|---|---|---|",
    ]
    for way, taken in seconds.items():
        l2, val, test = outcomes[way]
        span = f"{min(taken):.2f} to {max(taken):.2f}"
        lines.append(f"| {way} | {np.median(taken):.2f} | {span} | {l2:g} | {100 * val:.2f} | {100 * test:.2f} |")
    command = f"python analysis/probe_cost.py RUN --data-dir DIR --repeats {args.repeats}"
    return "\n".join([*lines, "", f"`{command}`", "", "```", json.dumps(made, indent=1), "```", ""])


if __name__ == "__main__":
    sys.exit(main())

"""Does staying near the start keep fine-tuning from a shortcut?

python analysis/shortcut.py RUN --data-dir DIR

A pretrained backbone is fine-tuned on few labels of its own set, whose images have a patch in a
corner: its colour is that of the class in 95% of the training images, and of another class in the
others. A group is a class with the patch of its own colour, or with that of another; accuracy is
the mean over groups, and that of the worst one, on test images. Beside each other are

  plain       backbone and head trained
  l2-sp       the same with W sum (theta - theta_0)^2
  fisher      the same with W sum F (theta - theta_0)^2, F of the run's own loss
  head        the head alone
  statistics  the head alone, after BatchNorm has taken its statistics of such images

Rates and W are chosen on validation images, twice: by accuracy on images made as the training
images are, and by the worst group, which takes labels of groups. Asked is, by Student's t over
seeds at 5%, paired by seed (they choose the labels, the patches and the order) and corrected by
Holm for the six answers: does l2-sp or fisher have a better worst group than plain, and fisher a
better one than l2-sp?"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import numpy as np
import pandas as pd
from torch import Tensor, nn

from analysis.harness import cli, runs
from analysis.harness.planted_patches import AGREES, Trial, accuracies, fit, trial_of
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown, write_csv
from analysis.harness.verdicts import differences, over_seeds, parts_table
from effssl import InputError
from effssl.data.splits import class_balanced
from effssl.data.stored import reopen_data
from effssl.evaluation.encode import open_streams
from effssl.evaluation.finetune import Near, Recipe
from effssl.evaluation.finished_run import FinishedRun, open_run
from effssl.evaluation.labelled_views import tuning_batch_size
from effssl.evaluation.ssl_fisher import ssl_fisher
from effssl.run.device import open_runtime
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine

RATES = ((0.03, 0.08), (0.1, 0.1), (0.4, 0.4))  # of backbone and head, for 256 images
WEIGHTS = (1e-3, 1e-2, 1e-1, 1.0)
METHODS = ("plain", "l2-sp", "fisher", "head", "statistics")
CHOICES = ("accuracy", "worst group")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("run", type=cli.path, help="folder of a finished run on a set with labels")
    parser.add_argument(
        "--data-dir", type=cli.path, help="folder of the images (default: the run's)"
    )
    parser.add_argument("--out", type=cli.path, default=Path("runs/shortcut"))
    parser.add_argument("--seeds", type=cli.count, default=3)
    parser.add_argument("--fraction", type=float, default=0.01, help="of the labels")
    parser.add_argument("--epochs", type=cli.count, default=20)
    parser.add_argument("--images", type=cli.count, default=2000, help="to validate and test on")
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(args), resumes=False)


def _study(args: argparse.Namespace) -> None:
    check_writable(args.out, f"--out {args.out}")
    run = open_run(args.run)
    images = run.cfg.images
    if args.data_dir is not None:
        images = dataclasses.replace(images, data_dir=args.data_dir)
    data, runtime = reopen_data(images), open_runtime("auto")
    streams = open_streams(
        data,
        run.cfg.augment,
        seed=run.cfg.run.seed,
        batch_size=256,
        workers=images.workers,
        runtime=runtime,
    )
    backbone, projector = run.backbone.to(runtime.device), run.projector
    if not isinstance(projector, nn.Sequential):
        raise InputError(f"{args.run} has no checkpoint.pt, and so no projector")
    projector.to(runtime.device)
    positions = data.pretrain_positions
    fisher = ssl_fisher(backbone, projector, run.cfg, streams["train"], positions)
    rows = []
    for seed in range(args.seeds):
        trial = trial_of(run, data, streams, seed, args.images)
        rows += list(rows_of(run, trial, fisher, args))
        print(f"seed {seed + 1} of {args.seeds} is done", flush=True)
    table = pd.DataFrame(rows)
    text = f"{summary(table)}\n{runs.origin([machine(runtime.device)], args.command)}\n"
    write_csv(args.out / "runs.csv", table)
    write_text(args.out / "summary.md", text)
    print(f"{text}\n{args.out / 'summary.md'}")


def rows_of(
    run: FinishedRun, trial: Trial, fisher: list[Tensor], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Train by every recipe of every method, and read test for those that validation chooses; a
    recipe whose loss is not finite is none of them. Raises InputError if no other is left."""
    labels = trial.data.train.labels
    part = class_balanced(labels[trial.data.train_positions], args.fraction, trial.seed)
    positions = trial.data.train_positions[part]
    fitted, diverged = [], Counter[str]()
    for method in METHODS:
        for recipe in recipes_of(method, len(positions), args.epochs, fisher):
            adapts = method == "statistics"
            try:
                fitted.append(fit(method, recipe, run.backbone, trial, positions, adapts=adapts))
            except FloatingPointError:
                diverged[method] += 1
    for method, choice in itertools.product(METHODS, CHOICES):
        own = [each for each in fitted if each.method == method]
        if not own:
            raise InputError(f"{method}: the loss is not finite by any recipe")
        best = max(own, key=lambda each: chosen_by(choice, each.val))
        groups = accuracies(best.model, trial, "test", trial.test)
        yield {
            "method": method,
            "chosen by": choice,
            "seed": trial.seed,
            "mean": groups.mean(),
            "worst": groups.min(),
            "own colour": groups[0].mean(),
            "other colour": groups[1].mean(),
            "backbone_lr": best.recipe.backbone_lr,
            "weight": best.recipe.near.weight if best.recipe.near else 0.0,
            "diverged": diverged[method],
        }


def recipes_of(method: str, num_labels: int, epochs: int, fisher: list[Tensor]) -> Iterator[Recipe]:
    """Yield what a method tries: pairs of rates, and weights W if it has one."""
    batch = tuning_batch_size(num_labels)
    steps, scale = epochs * (num_labels // batch), batch / 256
    is_head = method in ("head", "statistics")
    rates = ((0.0, head) for _, head in RATES) if is_head else RATES
    weights: tuple[float, ...] = WEIGHTS if method in ("l2-sp", "fisher") else (0.0,)
    for (backbone_lr, head_lr), weight in itertools.product(rates, weights):
        near = Near(weight, fisher if method == "fisher" else None) if weight else None
        yield Recipe(backbone_lr * scale, head_lr * scale, steps, near=near)


def chosen_by(choice: str, groups: np.ndarray) -> float:
    """Return what validation says of a classifier: see CHOICES."""
    if choice == "worst group":
        return float(groups.min())
    return float(AGREES * groups[0].mean() + (1 - AGREES) * groups[1].mean())


def summary(rows: pd.DataFrame) -> str:
    """Return mean and worst group of every method, and the differences that are asked about."""
    lines, parts = [], []
    for choice, method in itertools.product(CHOICES, METHODS):
        own = rows[(rows["chosen by"] == choice) & (rows["method"] == method)].set_index("seed")
        line: dict[str, Any] = {"chosen by": choice, "method": method, "seeds": len(own)}
        measured = ("mean", "worst", "own colour", "other colour")
        lines.append(line | {f"{name} (%)": mean_std(100 * own[name]) for name in measured})
    for choice, (ours, without) in itertools.product(
        CHOICES, (("l2-sp", "plain"), ("fisher", "plain"), ("fisher", "l2-sp"))
    ):
        of = rows[rows["chosen by"] == choice]
        own, other = (of[of["method"] == method] for method in (ours, without))
        says = f"worst group of {ours} better than that of {without}, chosen by {choice}"
        parts.append(over_seeds(says, differences(own, other, "worst", 100)))
    return f"{markdown(lines)}\n{parts_table(parts)}"


if __name__ == "__main__":
    sys.exit(main())

"""Which learning rate suits which batch and which number of views: the rule of `--lr auto`.

python analysis/rates.py --data-dir DIR                     # CIFAR-10, two CPU cores, Muon
python analysis/rates.py --data-dir DIR --optimizer adamw
python analysis/rates.py --preset digits                    # minutes, to see it work

For every batch B and every K, runs of as many encoded views are trained at five rates, each three
times the last. The best rate of a cell is where a parabola in the logarithm of the rate through the
three points about the highest linear probe (validation) has its top; a top at an end of the grid is
told, and left out of the fit. Then

    log rate = a + b log(B / 64) + c log(K / 4)

is fitted by least squares over the cells; b and c come with 95% intervals by Student's t. A rule
for the batch is taken if the interval of b leaves 0 out, one for K if that of c does."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import stdtrit

from analysis.harness import cli, plots, records, runs, training
from analysis.harness.tables import markdown, write_csv
from effssl.run.files import check_writable, write_text

CONFIG = str(Path(__file__).parents[1] / "configs" / "cifar10_cpu.yaml")
BATCHES, VIEWS = (32, 96, 288), (2, 4, 8)
RATES = {"muon": (6e-3, 2e-2, 6e-2, 0.18, 0.54), "adamw": (2e-4, 6e-4, 2e-3, 6e-3, 1.8e-2)}
VIEWS_PER_IMAGE = 8  # encoded, in a run
PRESETS = {
    "cpu": ("--config", CONFIG, "--fraction", "0.2", "--probe-images", "5000"),
    "digits": ("--data", "digits", "--image-size", "8"),
}
_ENDS = ("--probe-every", "0", "--final-images", "0", "--warmup-epochs", "0.1")


class Fit(NamedTuple):
    """The rule that the cells give: exponents of B / 64 and K / 4, each with half its interval."""

    rate: float  # at B = 64, K = 4
    batch: float
    batch_half: float
    views: float
    views_half: float


def main(argv: list[str] | None = None) -> int:
    parser = cli.training_parser(__doc__, PRESETS, "runs/rates-PRESET", "1")
    parser.add_argument("--optimizer", choices=RATES, default="muon")
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(args))


def wanted_of(args: argparse.Namespace) -> training.Flags:
    """Return name -> flags of all runs."""
    wanted = {}
    cells = itertools.product(range(args.seeds), BATCHES, VIEWS, RATES[args.optimizer])
    for seed, batch, views, rate in cells:
        flags = [*PRESETS[args.preset], *_ENDS, "--data-dir", str(args.data_dir), *args.further]
        flags += ["--optimizer", args.optimizer, "--lr", f"{rate:g}", "--batch-size", str(batch)]
        flags += ["--views", str(views), "--epochs", str(VIEWS_PER_IMAGE // views)]
        flags += ["--seed", str(seed), "--split-seed", str(seed)]
        wanted[f"{args.optimizer}_b{batch}_k{views}_lr{rate:g}_s{seed}"] = flags
    return wanted


def _study(args: argparse.Namespace) -> None:
    args.runs = args.runs or Path(f"runs/rates-{args.preset}")
    args.out = args.out or args.runs / f"rates-{args.optimizer}"
    args.seeds = args.seeds or 1
    check_writable(args.out, f"--out {args.out}")
    wanted = wanted_of(args)
    names = training.complete(wanted, args.runs, parallel=args.parallel, seconds=args.seconds)
    print(f"{runs.finished_of(names, wanted)} runs are finished")
    if not names:
        return
    finished = [records.of_folder(args.runs / name) for name in names]
    table = pd.DataFrame([_row(record) for record in finished])
    best = tops(table)
    text = f"{summary(table, best)}\n{runs.finished_of(names, wanted)} runs finished; "
    text += f"{runs.origin([record['result'] for record in finished], args.command)}\n"
    write_csv(args.out / "runs.csv", table)
    write_csv(args.out / "rates.csv", best)
    plots.write_picture(args.out / "rates.png", picture(table))
    write_text(args.out / "summary.md", text)
    print(f"{text}\n{args.out / 'summary.md'}")


def _row(record: records.Record) -> dict[str, Any]:
    config = record["config"]
    return {
        "batch": config["batch_size"],
        "views": config["views"],
        "lr": float(config["lr"]),
        "seed": config["seed"],
        "linear": record["metrics"][-1]["linear"],
        "seconds": record["result"]["seconds"],
    }


def tops(table: pd.DataFrame) -> pd.DataFrame:
    """Return the best rate of each cell that has all of its rates, and whether it is at an end."""
    rows = []
    for (batch, views), cell in _cells(table):
        by_rate = cell.groupby("lr")["linear"].mean().sort_index()
        if len(by_rate) < 3:
            continue
        at = int(np.argmax(by_rate.to_numpy()))
        is_end = at in (0, len(by_rate) - 1)
        rate = float(by_rate.index[at]) if is_end else _top(by_rate.iloc[at - 1 : at + 2])
        rows.append(
            {
                "batch": batch,
                "views": views,
                "rate": rate,
                "at_end": is_end,
                "linear": float(by_rate.max()),
            }
        )
    return pd.DataFrame(rows)


def _cells(table: pd.DataFrame) -> Iterator[tuple[tuple[int, int], pd.DataFrame]]:
    """Yield each batch and number of views with its rows."""
    for batch, views in sorted(set(zip(table["batch"], table["views"], strict=True))):
        yield (batch, views), table[(table["batch"] == batch) & (table["views"] == views)]


def _top(three: pd.Series) -> float:
    """Return where the parabola in log rate through three points has its top."""
    x, y = np.log(three.index.to_numpy(float)), three.to_numpy()
    square, slope, _ = np.polyfit(x - x[1], y, 2)
    return float(np.exp(x[1] - slope / (2 * square)))


def fit(best: pd.DataFrame) -> Fit | None:
    """Fit the rule to the cells whose best rate is within their grid; None if these are few."""
    within = best[~best["at_end"]]
    if len(within) < 5:
        return None
    design = np.stack(
        [np.ones(len(within)), np.log(within["batch"] / 64), np.log(within["views"] / 4)], 1
    )
    y = np.log(within["rate"].to_numpy())
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    free = len(within) - 3
    variance = float(((y - design @ solution) ** 2).sum() / free)
    halves = stdtrit(free, 0.975) * np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    a, b, c = map(float, solution)
    return Fit(math.exp(a), b, float(halves[1]), c, float(halves[2]))


def summary(table: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return the rule, the best rate of every cell, and what each rate reached."""
    rule = fit(best) if len(best) else None
    said = "Too few cells have their best rate within the grid for a rule."
    if rule is not None:
        said = (
            f"rate = {rule.rate:.2g} (B / 64)^b (K / 4)^c with b = {rule.batch:.2f} +- "
            f"{rule.batch_half:.2f}, c = {rule.views:.2f} +- {rule.views_half:.2f} (95%)."
        )
    rates = sorted(table["lr"].unique())
    lines = []
    for (batch, views), cell in _cells(table):
        top = best[(best["batch"] == batch) & (best["views"] == views)] if len(best) else best
        line: dict[str, Any] = {"B": batch, "K": views}
        for rate in rates:
            reached = cell[cell["lr"] == rate]["linear"]
            line[f"{rate:g}"] = f"{100 * reached.mean():.1f}" if len(reached) else ""
        at_end = " (end)" if len(top) and top["at_end"].iloc[0] else ""
        line["best rate"] = f"{top['rate'].iloc[0]:.2g}{at_end}" if len(top) else ""
        lines.append(line)
    return f"{said}\n\nLinear probe on validation (%), by rate:\n\n{markdown(lines)}"


def picture(table: pd.DataFrame) -> Figure:
    """Draw the linear probe against the rate, a panel a K, a line a batch."""
    figure = Figure(figsize=(10, 3.4))
    views = sorted(table["views"].unique())
    for axis, k in zip(
        figure.subplots(1, len(views), sharey=True, squeeze=False)[0], views, strict=True
    ):
        for index, (batch, cell) in enumerate(table[table["views"] == k].groupby("batch")):
            points = [([rate], 100 * rows["linear"]) for rate, rows in cell.groupby("lr")]
            plots.draw(axis, points, **plots.style(index), label=f"B = {batch}")
        axis.set_xscale("log")
        axis.set_xlabel(f"learning rate, K = {k}")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel(plots.ACCURACY)
    figure.axes[0].legend()
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

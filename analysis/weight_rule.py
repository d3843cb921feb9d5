"""How the best decorrelation weight depends on the projector's width d.

python analysis/weight_rule.py --data-dir DIR                   # CIFAR-10, two CPU cores, 44 short
runs python analysis/weight_rule.py --data-dir DIR --preset gpu

Trains VICReg and Barlow Twins at d in 64, 256, 1024, 4096 by w * d in 1/4, 1, 4, 16, 64 (VICReg:
256 too), where w is the decorrelation weight against the invariance term: redundancy_weight for
Barlow Twins, cov_weight / inv_weight for VICReg (inv_weight = var_weight = 25). If the best w falls
as 1/d (arXiv 2312.10725), the curves of all widths lie on one another against w * d. All accuracies
are of the validation split; the test split is not read. Runs that exist are read, those stopped go
on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import cli, plots, records, runs, training
from analysis.harness.claims import MEASURES
from analysis.harness.methods import NAMES, weight_flags, weight_of
from analysis.harness.presets import WEIGHT_RULE
from analysis.harness.tables import markdown, write_csv
from effssl.run.files import check_writable, write_text

PRODUCTS = {
    "barlow_twins": (0.25, 1.0, 4.0, 16.0, 64.0),
    "vicreg": (0.25, 1.0, 4.0, 16.0, 64.0, 256.0),
}


def main(argv: list[str] | None = None) -> int:
    parser = cli.training_parser(__doc__, WEIGHT_RULE, "runs/weight_rule", "1")
    add = parser.add_argument
    add("--widths", type=cli.count, nargs="+", metavar="D", help="(default: 64, 256, 1024, 4096)")
    products = "values of w * d (default: 1/4 to 64, 256)"
    add("--products", type=float, nargs="+", metavar="WD", help=products)
    add("--methods", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    args = cli.read_flags(parser, argv)
    args.runs = args.runs or Path("runs/weight_rule")
    args.out = args.out or args.runs / "summary"
    return cli.exit_code(lambda: _train_and_report(args))


def _train_and_report(args: argparse.Namespace) -> None:
    preset = WEIGHT_RULE[args.preset]
    common = [*preset.flags, "--data-dir", str(args.data_dir), *args.further]
    wanted = {
        f"{method}_d{dim}_wd{product:g}_s{seed}": [
            *(*common, "--method", method, "--proj-dim", str(dim)),
            *(*weight_flags(method, product / dim), "--seed", str(seed)),
            *("--split-seed", str(seed)),
        ]
        for seed in range(args.seeds or preset.seeds)
        for dim in args.widths or preset.widths
        for method in args.methods
        for product in args.products or PRODUCTS[method]
    }
    check_writable(args.out, f"--out {args.out}")
    limits = {"parallel": args.parallel, "seconds": args.seconds}
    names = training.complete(wanted, args.runs, **limits)
    print(f"{runs.finished_of(names, wanted)} runs are finished")
    if names:
        finished = [runs.of_record(records.of_folder(args.runs / name)) for name in names]
        report(finished, args.out, args.command)


def report(finished: list[runs.Run], out: Path, command: str = "") -> None:
    """Write runs.csv, summary.md and weight_rule.png, and print the table."""
    table = pd.DataFrame([_row(run) for run in finished])
    table = table.sort_values(["method", "dim", "product", "seed"])
    text = f"{runs.origin([run.result for run in finished], command)}\n\n"
    text += markdown(summary(table))
    write_csv(out / "runs.csv", table)
    plots.write_picture(out / "weight_rule.png", picture(table))
    write_text(out / "summary.md", text)
    print(f"{text}\n{out / 'runs.csv'}\n{out / 'weight_rule.png'}")


def _row(run: runs.Run) -> dict[str, Any]:
    settings, weight = run.settings, weight_of(run.settings)
    assert weight is not None
    return {
        "method": settings["method"],
        "dim": settings["proj_dim"],
        "product": round(weight * settings["proj_dim"], 6),
        "weight": weight,
        "seed": settings["seed"],
        **{name: round(run.probe[name], 5) for name in MEASURES},
        "encoded_views": run.result["encoded_views"],
        "seconds": round(run.result["seconds"], 1),
    }


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the mean validation accuracy in % over seeds: a line for each method and width, a
    column for each w * d; the best of a line is bold."""
    products = sorted(table["product"].unique())
    lines = []
    for (method, dim), own in table.sort_values("dim", kind="stable").groupby(["method", "dim"]):
        means = 100 * own.groupby("product")["linear"].mean()
        line: dict[str, Any] = {"method": NAMES[method], "d": dim}
        for product in products:
            shown = f"{means[product]:.1f}" if product in means else ""
            is_best = product in means and means[product] == means.max()
            line[f"w d = {product:g}"] = f"**{shown}**" if is_best else shown
        lines.append(line)
    return lines


def picture(table: pd.DataFrame) -> Figure:
    """Draw accuracy against w and against w d, and the effective rank of z; a line for each
    width."""
    methods = list(table["method"].unique())
    figure = Figure(figsize=(12, 3.4 * len(methods)))
    axes = figure.subplots(len(methods), 3, squeeze=False)
    for line, method in zip(axes, methods, strict=True):
        widths = table[table["method"] == method].groupby("dim")
        for i, (dim, own) in enumerate(widths):
            means = own.groupby("product")[["linear", "z/effective_rank"]].mean()
            colour = mpl.colormaps["viridis"](i / max(1, len(widths) - 0.8))
            look: dict[str, Any] = {"marker": "o", "markersize": 4, "color": colour}
            look["label"] = f"d = {dim}"
            line[0].plot(means.index / dim, 100 * means["linear"], **look)
            line[1].plot(means.index, 100 * means["linear"], **look)
            line[2].plot(means.index, means["z/effective_rank"], **look)
        weight = "cov_weight / inv_weight" if method == "vicreg" else "redundancy_weight"
        line[0].set(xlabel=f"w = {weight}", ylabel=f"{NAMES[method]}\n{plots.ACCURACY}")
        line[1].set(xlabel="w d", ylabel=plots.ACCURACY)
        line[2].set(xlabel="w d", ylabel="effective rank of z", yscale="log")
        for axis in line:
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
        line[0].legend(fontsize=8)
    title = "best decorrelation weight by projector width: against w (left), against w d (middle)"
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

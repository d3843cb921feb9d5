"""Whether the explicit penalty on the projector's last layer helps: |W W' - I|^2 beside the loss.

python analysis/penalty.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/penalty.py --data-dir DIR --preset gpu --seconds 500

Trains at every width d with the rule's decorrelation weight, without the penalty and with several
weights of it (--weight-ortho). The penalty is a sum over the entries of W W', so that one weight
asks as much of each of them at every width. K = 4.

Verdict at each width and weight: is the linear probe more accurate with the penalty than without?
Differences are paired by seed; p over seeds, corrected for the number of questions, says yes or no,
else the answer is open. The runs without the penalty are those of analysis/projector.py."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import claims, cli, plots, verdicts
from analysis.harness.recipes import Recipe, Scale, runs_of, scale_of
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown

WIDTHS = (64, 256, 1024)
PENALTIES = (0.01, 0.1, 1.0)
VIEWS = 4


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    add = parser.add_argument
    add("--widths", type=cli.count, nargs="+", default=WIDTHS, metavar="D", help="projectors'")
    add("--penalties", type=float, nargs="+", default=PENALTIES, metavar="W", help="weights of it")
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(scale_of(args, "penalty")))


def recipes(scale: Scale) -> dict[int, dict[float, Recipe]]:
    """Return the recipes by width, then by the penalty's weight, 0 first."""
    by_width = {}
    for dim in sorted(set(scale.args.widths)):
        plain = Recipe(VIEWS, dim, scale.epochs)
        by_width[dim] = {0.0: plain} | {
            weight: plain._replace(
                extra=("--weight-ortho", repr(weight)), extra_name=f"ortho{weight:g}"
            )
            for weight in sorted(set(scale.args.penalties))
        }
    return by_width


def _study(scale: Scale) -> None:
    planned = recipes(scale)
    wanted = runs_of(scale, [recipe for own in planned.values() for recipe in own.values()])
    if finished := claims.trained(scale, wanted):
        table = claims.table_of(scale, finished)
        text, figure = summary(scale, table, planned), picture(scale, table, planned)
        claims.write(scale, "penalty", table, text, figure, finished, wanted)
        claims.save_records(scale, finished)


def summary(scale: Scale, table: pd.DataFrame, planned: dict[int, dict[float, Recipe]]) -> str:
    """Return the differences to no penalty, and what each recipe reached."""
    parts, lines = [], []
    for dim, own in planned.items():
        for weight, recipe in own.items():
            rows = claims.rows_of(scale, table, recipe)
            if rows.empty:
                continue
            lines.append(
                {
                    "d": dim,
                    "penalty": f"{weight:g}",
                    "seeds": len(rows),
                    "linear (%)": mean_std(100 * rows["linear"]),
                    "kNN (%)": mean_std(100 * rows["knn"]),
                    "rank of h": mean_std(rows["h/effective_rank"]),
                    "rank of z": mean_std(rows["z/effective_rank"]),
                    "off-diagonal of z": mean_std(rows["z/off_diagonal"], "{:.3f}"),
                }
            )
            if weight:
                without = claims.rows_of(scale, table, own[0.0])
                gain = verdicts.differences(rows, without, "linear", 100)
                says = f"d = {dim}, penalty {weight:g}: better than without"
                parts.append(verdicts.over_seeds(says, gain))
    return (
        f"**The explicit penalty, K = {VIEWS}, the rule's decorrelation weight.** Linear and kNN "
        "accuracy on the validation split, mean and standard deviation over seeds.\n\n"
        f"{verdicts.parts_table(parts)}\n{markdown(lines)}"
    )


def picture(scale: Scale, table: pd.DataFrame, planned: dict[int, dict[float, Recipe]]) -> Figure:
    """Draw accuracy, and the effective rank of z, against the penalty's weight, a line a width."""
    figure = Figure(figsize=(8, 3.7))
    axes = figure.subplots(1, 2)
    weights = sorted({weight for own in planned.values() for weight in own})
    for i, (dim, own) in enumerate(planned.items()):
        rows = [(w, claims.rows_of(scale, table, recipe)) for w, recipe in own.items()]
        for axis, column, factor in zip(
            axes, ("linear", "z/effective_rank"), (100, 1), strict=True
        ):
            points = [([weights.index(w)], factor * r[column]) for w, r in rows]
            plots.draw(axis, points, **plots.style(i), label=f"d = {dim}")
    for axis in axes:
        axis.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        axis.set_xlabel("weight of the penalty |W W' - I|²")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(plots.ACCURACY)
    axes[1].set_ylabel("effective rank of z")
    plots.legend_below(figure, axes[0])
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


if __name__ == "__main__":
    sys.exit(main())

"""Claim 2: with more views of every image, features come earlier.

python analysis/views.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/views.py --data-dir DIR --preset gpu --seconds 500

Trains with K = 2, 4, 8 views (d = 256, the rule's weight) for several lengths, each with its own
whole schedule: K = 8 for E epochs, K = 4 for E and 2 E, K = 2 for E, 2 E and 4 E. So they are
compared at equal epochs, where more views are more compute; at equal encoded views; and at equal
seconds, the control that gives K = 2 the time that K = 8 takes (its accuracy is interpolated
between its lengths, linearly in log seconds). The learning rate is one for all K; --rates, and
--preset scarce, choose one for each K first, by as many trials (harness/trials.py).

Verdict: do K = 8 and K = 4 reach more than K = 2, in each of the three ways? Differences are paired
by seed; p over seeds, corrected for the number of questions, says yes or no, else the answer is
open (docs/claims.md)."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import claim_rules, claims, cli, plots, trials, verdicts
from analysis.harness.recipes import Recipe, Scale, runs_of, scale_of
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown

AXES = (
    ("epochs", "epochs", 1.0),
    ("encoded_views", "encoded views (millions)", 1e-6),
    ("seconds", "training seconds", 1.0),
)


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("--views", type=cli.count, nargs="+", default=[2, 4, 8], metavar="K")
    trials.add_rates(parser)
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _claim(scale_of(args, "views"), sorted(set(args.views))))


def recipes(scale: Scale, views: list[int]) -> list[Recipe]:
    """Return for every K the lengths E, 2 E, ... with at most the encoded views of the largest K at
    E."""
    lengths = {k: [scale.epochs << i for i in range(8) if k << i <= max(views)] for k in views}
    return [
        Recipe(k, scale.dim, epochs)
        for k in sorted(views, reverse=True)
        for epochs in sorted(lengths[k], reverse=True)
    ]


def _claim(scale: Scale, views: list[int]) -> None:
    tried = trials.complete(scale, trials.by_views(scale, views))
    planned = tried.at_best_rates(scale, recipes(scale, views))
    wanted = runs_of(scale, planned)
    finished = claims.trained(tried.left(scale), wanted)
    every = [*finished, *tried.records]
    if finished:
        table = claims.table_of(scale, finished)
        text = summary(scale, table, planned) + tried.words(scale, "of as many encoded views")
        figure = picture(scale, table, planned)
        claims.write(scale, "views", table, text, figure, every, wanted | tried.wanted)
    claims.save_records(scale, every)


def summary(scale: Scale, table: pd.DataFrame, planned: list[Recipe]) -> str:
    judged = verdicts.judge(claim_rules.views, table)
    lines = []
    for recipe, own in claims.measured(scale, table, sorted(planned)):
        lines.append(
            {
                "K": recipe.views,
                "epochs": recipe.epochs,
                "seeds": len(own),
                "linear (%)": mean_std(100 * own["linear"]),
                "kNN (%)": mean_std(100 * own["knn"]),
                "encoded views": f"{own['encoded_views'].iloc[0]:,}",
                "seconds": mean_std(own["seconds"], "{:.0f}"),
                "views/s": mean_std(own["views_per_s"], "{:.0f}"),
            }
        )
    return (
        f"**Claim 2, more views give features earlier: {judged.verdict}.** Linear and kNN accuracy "
        "on the validation split, mean and standard deviation over seeds.\n\n"
        f"{verdicts.parts_table(judged.parts)}\n{markdown(lines)}"
    )


def picture(scale: Scale, table: pd.DataFrame, planned: list[Recipe]) -> Figure:
    """Draw accuracy against epochs, encoded views and training seconds."""
    figure = Figure(figsize=(10, 3.7))
    axes = figure.subplots(1, 3, sharey=True)
    kinds = sorted({recipe.views for recipe in planned})
    for axis, (column, label, unit) in zip(axes, AXES, strict=True):
        ticks = set()
        for i, k in enumerate(kinds):
            of_k = [claims.rows_of(scale, table, r) for r in planned if r.views == k]
            points = [(unit * own[column], 100 * own["linear"]) for own in of_k]
            ticks |= {float(f"{x:.2g}") for xs, _ in points for x in xs}
            apart = 1 if column == "seconds" else plots.apart(i, len(kinds))
            plots.draw(axis, points, apart=apart, **plots.style_of_views(k), label=f"K = {k}")
        axis.set_xlabel(label)
        if column == "seconds":
            plots.few_log_ticks(axis)
        else:
            plots.plain_log(axis, sorted(ticks))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(plots.ACCURACY)
    plots.legend_below(figure, axes[0])
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


if __name__ == "__main__":
    sys.exit(main())

"""Claim 2: with more views of every image, features come earlier.

python analysis/views.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/views.py --data-dir DIR --preset gpu --seconds 500

Trains with K = 2, 4, 8 views (d = 256, the rule's weight) for several lengths, each with its own whole schedule: K =
8 for E epochs, K = 4 for E and 2 E, K = 2 for E, 2 E and 4 E. So they are compared at equal epochs, where more views
are more compute; at equal encoded views; and at equal seconds, the control that gives K = 2 the time that K = 8 takes
(its accuracy is interpolated between its lengths, linearly in log seconds). The learning rate is one for all K.

Verdict: does K reach more than K = 2 at all, in each of the three ways? Differences are paired by seed; the answer is
yes or no where the whole 95% interval over seeds says so, else open.
"""

from __future__ import annotations

import sys

import claims
import experiments
import figures
import intervals
from claims import Recipe, Scale
from intervals import Question
from matplotlib.figure import Figure

AXES = (
    ("epochs", "epochs", 1.0),
    ("encoded_views", "encoded views (millions)", 1e-6),
    ("seconds", "training seconds", 1.0),
)


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("--views", type=experiments.count, nargs="+", default=[2, 4, 8], metavar="K")
    args = experiments.read_flags(parser, argv)
    return experiments.exit_code(lambda: _claim(claims.scale(args, "views"), sorted(set(args.views))))


def recipes(scale: Scale, views: list[int]) -> list[Recipe]:
    """For every K the lengths E, 2 E, ... with at most the encoded views of the largest K at E."""
    lengths = {k: [scale.epochs << i for i in range(8) if k << i <= max(views)] for k in views}
    return [Recipe(k, scale.dim, epochs) for k in sorted(views, reverse=True) for epochs in sorted(lengths[k])[::-1]]


def _claim(scale: Scale, views: list[int]) -> None:
    planned = recipes(scale, views)
    wanted = claims.runs(scale, planned)
    if finished := experiments.trained(scale.args, wanted, keep_mb=claims.KEEP_MB):
        rows = claims.rows_of(scale, finished)
        text = summary(scale, rows, planned)
        claims.write(scale, "views", rows, text, picture(scale, rows, planned), finished, wanted)


def questions(scale: Scale, rows: list[dict], planned: list[Recipe]) -> list[Question]:
    """Of every K against the smallest, at equal epochs, encoded views and seconds."""
    fewest, asked = min(r.views for r in planned), []
    for k in sorted({r.views for r in planned} - {fewest}, reverse=True):
        better, short = f"K = {k} better than K = {fewest} at equal", Recipe(k, scale.dim, scale.epochs)
        base = short._replace(views=fewest)
        found = intervals.difference(claims.of(scale, rows, short), claims.of(scale, rows, base))
        asked.append(Question(f"{better} epochs ({claims.epochs(scale.epochs)})", found, 0))
        long = max((r for r in planned if r.views == k), key=lambda r: r.epochs)
        for same in (r for r in planned if r.views == fewest and r.epochs * fewest == long.epochs * k):
            found = intervals.difference(claims.of(scale, rows, long), claims.of(scale, rows, same))
            asked.append(Question(f"{better} encoded views ({long.epochs} and {claims.epochs(same.epochs)})", found, 0))
        found, outside = _at_equal_seconds(scale, rows, long, [r for r in planned if r.views == fewest])
        note = f"{outside} outside K = {fewest}'s runs, against the nearest" if outside else ""
        asked.append(Question(f"{better} seconds (those of {claims.epochs(long.epochs)})", found, 0, note))
    return asked


def _at_equal_seconds(scale: Scale, rows: list[dict], recipe: Recipe, others: list[Recipe]):
    """Of `recipe` less the others' accuracy at its seconds, and for how many seeds that lies outside of their runs."""
    accuracy, seconds = claims.of(scale, rows, recipe), claims.of(scale, rows, recipe, "seconds")
    against, outside = {}, 0
    for seed, at in seconds.items():
        both = [(claims.of(scale, rows, r, "seconds"), claims.of(scale, rows, r)) for r in others]
        if all(seed in s for s, _ in both):
            against[seed], inside = intervals.at_seconds([(s[seed], a[seed]) for s, a in both], at)
            outside += not inside
    return intervals.difference(accuracy, against), outside


def summary(scale: Scale, rows: list[dict], planned: list[Recipe]) -> str:
    asked = questions(scale, rows, planned)
    table = [
        {
            "K": r.views,
            "epochs": r.epochs,
            "seeds": len(claims.of(scale, rows, r)),
            "linear (%)": intervals.mean_std(claims.of(scale, rows, r).values()),
            "kNN (%)": intervals.mean_std(claims.of(scale, rows, r, "knn").values()),
            "encoded views": f"{next(iter(claims.of(scale, rows, r, 'encoded_views').values())):,}",
            "seconds": intervals.mean_std(claims.of(scale, rows, r, "seconds").values(), "{:.0f}"),
            "views/s": intervals.mean_std(claims.of(scale, rows, r, "views_per_s").values(), "{:.0f}"),
        }
        for r in sorted(planned)
        if claims.of(scale, rows, r)
    ]
    return (
        f"**Claim 2, more views give features earlier: {intervals.verdict([q.answer for q in asked])}.** "
        f"Linear and kNN accuracy on the validation split, mean and standard deviation over seeds.\n\n"
        f"{intervals.questions_table(asked)}\n{experiments.markdown(table)}"
    )


def picture(scale: Scale, rows: list[dict], planned: list[Recipe]) -> Figure:
    """Accuracy against epochs, encoded views and training seconds."""
    figure = Figure(figsize=(10, 3.7))
    axes = figure.subplots(1, 3, sharey=True)
    kinds = sorted({r.views for r in planned})
    for axis, (key, label, unit) in zip(axes, AXES, strict=True):
        ticks = set()
        for i, k in enumerate(kinds):
            points = []
            for r in (r for r in planned if r.views == k):
                x = [v * unit for v in claims.of(scale, rows, r, key).values()]
                points.append((x, claims.of(scale, rows, r).values()))
                ticks |= {float(f"{v:.2g}") for v in x}
            apart = 1 if key == "seconds" else figures.apart(i, len(kinds))
            figures.draw(axis, points, apart=apart, **figures.style_of_views(k), label=f"K = {k}")
        axis.set_xlabel(label)
        if key == "seconds":
            figures.few_log_ticks(axis)
        else:
            figures.plain_log(axis, sorted(ticks))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(figures.ACCURACY)
    figures.legend_below(figure, axes[0])
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


if __name__ == "__main__":
    sys.exit(main())

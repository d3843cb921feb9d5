"""Claim 1: orthogonality matters, not the projector's width: with the rule for the decorrelation weight a projector
256 wide does as well as one 8192 wide, and costs less.

python analysis/projector.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/projector.py --data-dir DIR --preset gpu --seconds 500

Trains with projectors of every width d at two weights: the rule's, which falls as 1/d (3.4 / d for Barlow Twins), and
one fixed weight for all widths, the rule's at the widest, as a configuration has that is copied while its width is
changed. For the widest they are one run. The hidden layer is d wide too. K = 4 on small scales; on the paper's K = 2
with batches of 512.

Verdict: is d = 256 with the rule no more than 1 point worse than the widest, and does it take less time? Differences
are paired by seed; the answer is yes or no where the whole 95% interval over seeds says so, else open; cheaper alone
is part of the claim, cheaper and worse is not. Time is of the
whole step: with the small encoder of the CPU scale a projector 8192 wide costs more than the backbone, with a
ResNet-50 on a GPU a small part of it.
"""

from __future__ import annotations

import sys

import claims
import experiments
import figures
import intervals
import torch
from claims import Recipe, Scale
from intervals import Question
from matplotlib.figure import Figure

from effssl import cli
from effssl.evaluation.finished_run import build_encoder

WIDTHS = {
    "cpu": [64, 256, 1024, 8192],
    "gpu": [64, 256, 1024, 8192],
    "paper": [64, 128, 256, 512, 1024, 2048, 4096, 8192],
}
VIEWS, BATCH = {"cpu": 4, "gpu": 4, "paper": 2}, {"cpu": None, "gpu": None, "paper": 512}
MARGIN = 1.0  # points
RULE, FIXED = "the rule's weight", "one fixed weight"


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("--widths", type=experiments.count, nargs="+", metavar="D", help="(default: the preset's)")
    args = experiments.read_flags(parser, argv)
    widths = sorted(set(args.widths or WIDTHS[args.preset]))
    return experiments.exit_code(lambda: _claim(claims.scale(args, "projector"), widths))


def recipes(scale: Scale, widths: list[int]) -> dict[str, list[Recipe]]:
    """Of every width with the rule's weight, and with the widest's."""
    preset = scale.args.preset
    rule = [Recipe(VIEWS[preset], d, scale.epochs, batch=BATCH[preset]) for d in widths]
    fixed = claims.rule(scale.args.method, widths[-1])
    return {RULE: rule, FIXED: [*(r._replace(weight=fixed) for r in rule[:-1]), rule[-1]]}


def _claim(scale: Scale, widths: list[int]) -> None:
    planned = recipes(scale, widths)
    own = [r for r in planned[RULE] if r.dim == scale.dim]
    # What the verdict needs comes first.
    wanted = claims.runs(scale, [planned[RULE][-1], *own, *planned[RULE], *planned[FIXED]])
    if finished := experiments.trained(scale.args, wanted, keep_mb=claims.KEEP_MB):
        rows = claims.rows_of(scale, finished)
        text = summary(scale, rows, planned)
        claims.write(scale, "projector", rows, text, picture(scale, rows, planned), finished, wanted)


def parameters(scale: Scale, recipe: Recipe) -> int:
    """Of the projector; nothing is allocated."""
    cfg = cli.parse(claims.flags_of(scale, recipe, 0))
    with torch.device("meta"):
        projector = build_encoder(cfg).projector
    return sum(p.numel() for p in projector.parameters())


def questions(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]]) -> list[Question]:
    """Of `scale.dim` with the rule against the widest, and of both weights at the smaller widths."""
    wide = planned[RULE][-1]
    asked = []
    for own in (r for r in planned[RULE] if r.dim == scale.dim != wide.dim):
        found = intervals.difference(claims.of(scale, rows, own), claims.of(scale, rows, wide))
        text = f"d = {own.dim} no more than {MARGIN:g} point worse than d = {wide.dim}"
        asked.append(Question(f"{text}, both with {RULE}", found, MARGIN))
    return asked


def gains(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]]) -> list[Question]:
    """What the rule is worth at each width."""
    asked = []
    for rule, fixed in list(zip(planned[RULE], planned[FIXED], strict=True))[:-1]:
        found = intervals.difference(claims.of(scale, rows, rule), claims.of(scale, rows, fixed))
        asked.append(Question(f"d = {rule.dim}: {RULE} better than {FIXED}", found, 0))
    return asked


def time_ratio(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]]) -> intervals.Estimate | None:
    """Seconds of the widest over those of `scale.dim`, paired by seed."""
    wide = claims.of(scale, rows, planned[RULE][-1], "seconds")
    for own in (r for r in planned[RULE][:-1] if r.dim == scale.dim):
        seconds = claims.of(scale, rows, own, "seconds")
        return intervals.estimate(wide[seed] / seconds[seed] for seed in seconds if seed in wide)
    return None


def summary(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]]) -> str:
    asked, ratio, wide = questions(scale, rows, planned), time_ratio(scale, rows, planned), planned[RULE][-1]
    cheaper = "open" if ratio is None else intervals.Question("", ratio._replace(mean=ratio.mean - 1), 0).answer
    accuracy = [q.answer for q in asked]
    said = intervals.verdict(accuracy if "no" in accuracy else [*accuracy, cheaper])
    took = "" if ratio is None else f"d = {wide.dim} took {ratio.mean:.2f} times the seconds of d = {scale.dim}"
    took += f" (95% interval {intervals.interval(ratio, '{:.2f}')}). " if ratio and ratio.n > 1 else ". " * bool(took)
    for q in asked:
        if q.found and q.found.n > 1:
            noise = "within noise" if abs(q.found.mean) <= q.found.half else "beyond noise"
            interval = intervals.interval(q.found, "{:+.1f}")
            took += f"The difference in accuracy is {noise}: {q.found.mean:+.1f} points ({interval}). "
    table = []
    for name, recipes in planned.items():
        for r in recipes:
            if values := claims.of(scale, rows, r):
                row = next(row for row in rows if row["name"] == claims.name_of(scale, r, next(iter(values))))
                table.append(
                    {
                        "weight": name,
                        "d": r.dim,
                        "w d": f"{row['weight'] * r.dim:.3g}",
                        "seeds": len(values),
                        "linear (%)": intervals.mean_std(values.values()),
                        "kNN (%)": intervals.mean_std(claims.of(scale, rows, r, "knn").values()),
                        "rank of h": intervals.mean_std(claims.of(scale, rows, r, "h/effective_rank").values()),
                        "rank of z": intervals.mean_std(claims.of(scale, rows, r, "z/effective_rank").values()),
                        "off-diagonal of z": intervals.mean_std(
                            claims.of(scale, rows, r, "z/off_diagonal").values(), "{:.3f}"
                        ),
                        "seconds": intervals.mean_std(claims.of(scale, rows, r, "seconds").values(), "{:.0f}"),
                        "parameters of the projector": f"{parameters(scale, r):,}",
                    }
                )
    return (
        f"**Claim 1, with the rule a small projector does as well, and cheaper: {said}.** {took}"
        f"K = {wide.views}, {claims.epochs(wide.epochs)}; accuracy on the validation split, mean and standard "
        f"deviation over seeds.\n\n{intervals.questions_table([*asked, *gains(scale, rows, planned)])}\n"
        f"{experiments.markdown(table)}"
    )


def picture(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]]) -> Figure:
    """Accuracy by width and by w d, effective ranks by width, seconds and parameters by width."""
    figure = Figure(figsize=(10, 7))
    (by_width, by_product), (ranks, cost) = figure.subplots(2, 2)
    widths = [r.dim for r in planned[RULE]]
    looks = {RULE: figures.style(1), FIXED: figures.style(0)}
    for name, recipes in planned.items():
        points = [([r.dim], claims.of(scale, rows, r).values()) for r in recipes]
        figures.draw(by_width, points, **looks[name], label=name)
        for key, line in (("h/effective_rank", "-"), ("z/effective_rank", ":")):
            points = [([r.dim], claims.of(scale, rows, r, key).values()) for r in recipes]
            face = looks[name]["color"] if key[0] == "h" else "white"
            figures.draw(ranks, points, **looks[name], linestyle=line, mfc=face, label=f"{key[0]}, {name}")
    for i, d in enumerate(widths):
        both = dict.fromkeys(recipes[i] for recipes in planned.values())
        at_product = [([_product(scale, r)], claims.of(scale, rows, r).values()) for r in both]
        figures.draw(by_product, at_product, **figures.style(i), label=f"d = {d}")
    seconds = [([r.dim], claims.of(scale, rows, r, "seconds").values()) for r in planned[RULE]]
    figures.draw(cost, _of_widest(seconds), **figures.style(1), label="training seconds")
    numbers = [([r.dim], [float(parameters(scale, r))]) for r in planned[RULE]]
    figures.draw(cost, _of_widest(numbers), **figures.style(3), label="projector's parameters")
    for axis in (by_width, ranks, cost):
        axis.set_xlabel("projector's width d")
        figures.plain_log(axis, widths)
    by_product.set_xlabel("weight times width, w d")
    figures.few_log_ticks(by_product)
    by_width.set_ylabel(figures.ACCURACY)
    by_product.set_ylabel(figures.ACCURACY)
    ranks.set(ylabel="effective rank", yscale="log")
    cost.set(ylabel=f"relative to d = {widths[-1]}", yscale="log")
    for axis in (by_width, by_product, ranks, cost):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4 - 2 * (axis is ranks))
    figure.tight_layout()
    return figure


def _product(scale: Scale, recipe: Recipe) -> float:
    weight = claims.rule(scale.args.method, recipe.dim) if recipe.weight is None else recipe.weight
    return weight * recipe.dim


def _of_widest(points: list) -> list:
    """The same over the mean of the last, or nothing where that is missing."""
    last = intervals.estimate(points[-1][1])
    return [(x, [v / last.mean for v in y]) for x, y in points] if last else []


if __name__ == "__main__":
    sys.exit(main())

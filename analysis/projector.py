"""Claim 1: orthogonality matters, not the projector's width: with the rule for the decorrelation
weight a projector 256 wide does as well as one 8192 wide, and costs less.

python analysis/projector.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/projector.py --data-dir DIR --preset gpu --seconds 500

Trains with projectors of every width d at two weights: the rule's, which falls as 1/d (3.4 / d for
Barlow Twins), and one fixed weight for all widths, the rule's at the widest, as a configuration has
that is copied while its width is changed. For the widest they are one run. The hidden layer is d
wide too. K = 4 on small scales; on the paper's K = 2 with batches of 512. The learning rate is one
for all widths; --rates chooses one for each first, at the rule's weight, by as many trials
(harness/trials.py).

Verdict: is d = 256 with the rule no more than 1 point worse than the widest (not decided here if
that is no better than the untrained encoder), does it take less time, and is the narrowest better
with the rule than with the fixed weight, and its z more orthogonal? Differences are paired by seed;
p over seeds, corrected for the number of questions, says yes or no, else the answer is open
(docs/claims.md).

Time is of the whole step: with the small encoder of the CPU scale a projector 8192 wide costs more
than the backbone, with a ResNet-50 on a GPU a small part of it."""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.harness import claim_rules, claims, cli, plots, trials, verdicts
from analysis.harness.methods import rule_weight
from analysis.harness.presets import PROJECTOR
from analysis.harness.recipes import Recipe, Scale, flags_of, in_epochs, runs_of, scale_of
from analysis.harness.records import Record
from analysis.harness.stats import estimate, interval, mean_std
from analysis.harness.tables import markdown
from effssl.cli import parse

RULE, FIXED = "the rule's weight", "one fixed weight"
Planned = dict[str, list[Recipe]]


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    default = "(default: the preset's)"
    parser.add_argument("--widths", type=cli.count, nargs="+", metavar="D", help=default)
    trials.add_rates(parser, "width", default="none")
    args = cli.read_flags(parser, argv)
    chosen = sorted(set(args.widths or PROJECTOR[args.preset].widths))
    return cli.exit_code(lambda: _claim(scale_of(args, "projector"), chosen))


def recipes(scale: Scale, widths: list[int]) -> Planned:
    """Return every width with the rule's weight, and with the widest's."""
    sweep = PROJECTOR[scale.args.preset]
    by_rule = [Recipe(sweep.views, d, scale.epochs, batch=sweep.batch) for d in widths]
    fixed = rule_weight(scale.args.method, widths[-1])
    narrower = [recipe._replace(weight=fixed) for recipe in by_rule[:-1]]
    return {RULE: by_rule, FIXED: [*narrower, by_rule[-1]]}


def _claim(scale: Scale, widths: list[int]) -> None:
    planned = recipes(scale, widths)
    tried = trials.complete(scale, trials.by_widths(scale, planned[RULE]))
    planned = {name: tried.at_best_rates(scale, of, "dim") for name, of in planned.items()}
    own = [recipe for recipe in planned[RULE] if recipe.dim == scale.dim]
    # What the verdict needs comes first.
    wanted = runs_of(scale, [planned[RULE][-1], *own, *planned[RULE], *planned[FIXED]])
    finished = claims.trained(tried.left(scale), wanted)
    every = [*finished, *tried.records]
    if finished:
        table = claims.table_of(scale, finished)
        table["untrained"] = table["name"].map(before_training(finished))
        text = summary(scale, table, planned)
        text += tried.words(scale, f"{in_epochs(scale.epochs)} each")
        figure = picture(scale, table, planned)
        claims.write(scale, "projector", table, text, figure, every, wanted | tried.wanted)
    claims.save_records(scale, every)


def before_training(finished: list[Record]) -> dict[str, float]:
    """Return by name what the linear probe of each run had before its first step, if it looked."""
    return {
        record["name"]: round(probe["linear"], 5)
        for record in finished
        for probe in record["metrics"]
        if probe["kind"] == "probe" and probe["step"] == 0
    }


def parameters(scale: Scale, recipe: Recipe) -> int:
    """Return the number of the projector's parameters; nothing is allocated."""
    from effssl.models import build_encoder  # slow, and not needed for --help

    cfg = parse(flags_of(scale, recipe, 0))
    with torch.device("meta"):
        projector = build_encoder(cfg.model, cfg.augment, seed=0).projector
    return sum(p.numel() for p in projector.parameters())


def gains(scale: Scale, table: pd.DataFrame, planned: Planned) -> list[verdicts.Part]:
    """Return what the rule is worth at each width but the widest."""
    parts = []
    for recipe, other in list(zip(planned[RULE], planned[FIXED], strict=True))[:-1]:
        ours, theirs = (claims.rows_of(scale, table, r) for r in (recipe, other))
        gain = verdicts.differences(ours, theirs, "linear", 100)
        parts.append(verdicts.over_seeds(f"d = {recipe.dim}: {RULE} better than {FIXED}", gain))
    return parts


def time_ratio(scale: Scale, table: pd.DataFrame, planned: Planned) -> str:
    """Say how many times the seconds of `scale.dim` the widest takes, paired by seed."""
    wide = claims.rows_of(scale, table, planned[RULE][-1])
    for recipe in planned[RULE][:-1]:
        if recipe.dim == scale.dim:
            own = claims.rows_of(scale, table, recipe)
            seconds = verdicts.pairs(wide, own, "seconds")
            if ratio := estimate(seconds["ours"] / seconds["others"]):
                times = f"{ratio.mean:.2f} times the seconds of d = {scale.dim}"
                between = interval(ratio, "{:.2f}")
                spread = f" (95% interval {between})" if between else ""
                return f"d = {planned[RULE][-1].dim} took {times}{spread}. "
    return ""


def summary(scale: Scale, table: pd.DataFrame, planned: Planned) -> str:
    judged, wide = verdicts.judge(claim_rules.width, table), planned[RULE][-1]
    parts = verdicts.parts_table(judged.parts)
    return (
        "**Claim 1, with the rule a small projector does as well, and cheaper: "
        f"{judged.verdict}.** {time_ratio(scale, table, planned)}K = {wide.views}, "
        f"{in_epochs(wide.epochs)}; accuracy on the validation split, mean and standard deviation "
        "over seeds.\n\n"
        f"{parts}\nWhat the rule is worth at each width:\n\n"
        f"{verdicts.parts_table(gains(scale, table, planned))}\n"
        f"{markdown(_lines(scale, table, planned))}"
    )


def _lines(scale: Scale, table: pd.DataFrame, planned: Planned) -> list[dict]:
    lines = []
    measured = functools.partial(claims.measured, scale, table)
    named = [(name, own) for name, of_name in planned.items() for own in measured(of_name)]
    for name, (recipe, own) in named:
        lines.append(
            {
                "weight": name,
                "d": recipe.dim,
                "w d": f"{own['weight'].iloc[0] * recipe.dim:.3g}",
                "seeds": len(own),
                "linear (%)": mean_std(100 * own["linear"]),
                "kNN (%)": mean_std(100 * own["knn"]),
                "rank of h": mean_std(own["h/effective_rank"]),
                "rank of z": mean_std(own["z/effective_rank"]),
                "off-diagonal of z": mean_std(own["z/off_diagonal"], "{:.3f}"),
                "seconds": mean_std(own["seconds"], "{:.0f}"),
                "parameters of the projector": f"{parameters(scale, recipe):,}",
            }
        )
    return lines


def picture(scale: Scale, table: pd.DataFrame, planned: Planned) -> Figure:
    """Draw accuracy by width and by w d, effective ranks by width, seconds and parameters by
    width."""
    figure = Figure(figsize=(10, 7))
    (by_width, by_product), (ranks, cost) = figure.subplots(2, 2)
    widths = [recipe.dim for recipe in planned[RULE]]
    rows = {
        recipe: claims.rows_of(scale, table, recipe)
        for recipe in itertools.chain(*planned.values())
    }
    looks = {RULE: plots.style(1), FIXED: plots.style(0)}
    for name, of_name in planned.items():
        points = [([r.dim], 100 * rows[r]["linear"]) for r in of_name]
        plots.draw(by_width, points, **looks[name], label=name)
        for of, line in (("h", "-"), ("z", ":")):
            points = [([r.dim], rows[r][f"{of}/effective_rank"]) for r in of_name]
            face = looks[name]["color"] if of == "h" else "white"
            look = looks[name] | {"linestyle": line, "mfc": face}
            plots.draw(ranks, points, **look, label=f"{of}, {name}")
    for i, d in enumerate(widths):
        both = dict.fromkeys(of_name[i] for of_name in planned.values())
        at_products = [([_product(scale, r)], 100 * rows[r]["linear"]) for r in both]
        plots.draw(by_product, at_products, **plots.style(i), label=f"d = {d}")
    seconds = [([r.dim], rows[r]["seconds"]) for r in planned[RULE]]
    plots.draw(cost, _over_widest(seconds), **plots.style(1), label="training seconds")
    numbers = [([r.dim], [parameters(scale, r)]) for r in planned[RULE]]
    plots.draw(cost, _over_widest(numbers), **plots.style(3), label="projector's parameters")
    for axis in (by_width, ranks, cost):
        axis.set_xlabel("projector's width d")
        plots.plain_log(axis, widths)
    by_product.set_xlabel("weight times width, w d")
    plots.few_log_ticks(by_product)
    by_width.set_ylabel(plots.ACCURACY)
    by_product.set_ylabel(plots.ACCURACY)
    ranks.set(ylabel="effective rank", yscale="log")
    cost.set(ylabel=f"relative to d = {widths[-1]}", yscale="log")
    for axis in (by_width, by_product, ranks, cost):
        axis.grid(alpha=0.3)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17)}
        axis.legend(fontsize=8, ncols=2 if axis is ranks else 4, **below)
    figure.tight_layout()
    return figure


def _product(scale: Scale, recipe: Recipe) -> float:
    rule = rule_weight(scale.args.method, recipe.dim)
    return (rule if recipe.weight is None else recipe.weight) * recipe.dim


def _over_widest(points: list) -> list:
    """Return the points over the mean of the last; nothing if that is missing."""
    last = estimate(points[-1][1])
    return [(x, [v / last.mean for v in y]) for x, y in points] if last else []


if __name__ == "__main__":
    sys.exit(main())

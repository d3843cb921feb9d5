"""Claim 4: the accuracy of the usual recipe in at most half its training time.

python analysis/wallclock.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/wallclock.py --data-dir DIR --preset gpu --seconds 500

The baseline is the authors': K = 2 views, a projector 8192 wide (and its hidden layer), their
weight for it, 4 E epochs. The recommended recipe is K = 4, d = 256, the rule's weight: runs of E, 2
E and 3 E epochs, each with its own whole schedule. The seconds in which it has the baseline's
accuracy are interpolated between them (linearly in log seconds, by seed). Two controls change one
thing each: K = 2 with d = 256 (E, 2 E, 4 E epochs), and K = 4 with d = 8192 (the rule's weight; E,
2 E). `--recipe NAME "FLAGS"` runs K = 4, d = 256 with further flags beside them.

Seconds are those of training, without probes, checkpoints and start. On a CPU several runs share
the machine: if views/s differ much between seeds, other work disturbed them, and the ratios by step
cost are the better ones: there a run's seconds are its steps times the cost of a step, measured
here, all recipes by turns in one process with nothing beside it.

With the small encoder of the CPU scale a projector 8192 wide costs more than the backbone, so the
ratio there is larger than with a ResNet on a GPU. The ratio to K = 2 with d = 256, in which the
projector has no part, is reported beside it.

Verdict: at least 2 times? Yes or no if the whole 95% interval over seeds says so (of log ratios,
paired by seed), else open. If a recipe's shortest run has the accuracy already its seconds are an
upper bound, if none has it a lower one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
import torch

from analysis.benchmarks import kept_steps, step
from analysis.harness import claim_rules, claims, cli, records, training, verdicts
from analysis.harness.recipes import Recipe, Scale, flags_of, name_of, runs_of, scale_of
from analysis.harness.speedups import Speedup, speedup
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown, write_csv
from analysis.harness.wallclock_picture import picture
from effssl.cli import parse

AUTHORS = {
    "barlow_twins": 0.0008,
    "vicreg": 1 / 800,
}  # their weights at d = 8192 (arXiv 2312.10725)
FACTOR = claim_rules.FACTOR
Planned = dict[str, list[Recipe]]
Steps = dict[str, dict[str, float]]  # recipe -> milliseconds of the parts of a step, encoded views
Compared = list[tuple[str, str, Speedup, Speedup]]  # recipe, the other; by seconds, by step cost


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    add, names = parser.add_argument, ("NAME", "FLAGS")
    add("--wide", type=cli.count, default=8192, metavar="D", help="the baseline's width")
    extra = "K = 4 with further flags"
    add("--recipe", nargs=2, action="append", default=[], metavar=names, help=extra)
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _claim(scale_of(args, "wallclock")))


def recipes(scale: Scale) -> Planned:
    """Return name -> the recipe's lengths, shortest first: the baseline, the recommended one,
    controls, the user's own."""
    e, d, wide = scale.epochs, scale.dim, scale.args.wide
    named = {
        f"baseline: K = 2, d = {wide}": [Recipe(2, wide, 4 * e, weight=AUTHORS[scale.args.method])],
        f"K = 4, d = {d}": [Recipe(4, d, n * e) for n in (1, 2, 3)],
        f"K = 2, d = {d}": [Recipe(2, d, n * e) for n in (1, 2, 4)],
        f"K = 4, d = {wide}": [Recipe(4, wide, n * e) for n in (1, 2)],
    }
    for name, flags in scale.args.recipe:
        extra = tuple(shlex.split(flags))
        named[name] = [Recipe(4, d, n * e, extra=extra, extra_name=name) for n in (1, 2, 3)]
    return named


def _claim(scale: Scale) -> None:
    planned = recipes(scale)
    # The verdict's runs of all seeds, then the controls.
    first = [recipe for lengths in list(planned.values())[:2] for recipe in lengths]
    every = [recipe for lengths in planned.values() for recipe in lengths]
    wanted = runs_of(scale, first) | runs_of(scale, every)
    if finished := claims.trained(scale, wanted):
        table = claims.table_of(scale, finished)
        steps = _cost_of_steps(scale, planned)
        table["seconds_by_steps"] = _seconds_by_steps(scale, table, planned, steps)
        compared = comparisons(scale, table, planned)
        out = scale.args.out
        write_csv(out / "steps.csv", [{"recipe": name} | cost for name, cost in steps.items()])
        text = summary(scale, table, planned, steps, compared)
        curves = {
            name: [claims.rows_of(scale, table, r) for r in lengths]
            for name, lengths in planned.items()
        }
        shown = [(label(name, other, faster), faster) for name, other, faster, _ in compared]
        figure = picture(curves, shown, steps, FACTOR)
        claims.write(scale, "wallclock", table, text, figure, finished, wanted)
        claims.save_records(scale, finished)


def _cost_of_steps(scale: Scale, planned: Planned) -> Steps:
    """Return the milliseconds of a step's parts and its encoded views, by recipe; measured once,
    kept beside the runs and among the records."""
    configs = {name: parse(flags_of(scale, lengths[0], 0)) for name, lengths in planned.items()}
    name = f"step_cost_{scale.args.method}"
    file, record = scale.args.runs / f"{name}.json", claims.known_record(scale, name)
    on_gpu = torch.cuda.is_available()
    threads = None if on_gpu else training.threads_each(scale.args.parallel)
    cost = kept_steps.kept_or_measured(configs, file, record, threads=threads)
    if scale.args.save_records:
        new = {"kind": "step_cost", "name": name} | cost
        records.save(claims.records_file(scale), [new])
    views = {name: cfg.optim.batch_size * cfg.augment.views for name, cfg in configs.items()}
    return {name: {**cost["ms"][name], "encoded_views": views[name]} for name in planned}


def _seconds_by_steps(
    scale: Scale, table: pd.DataFrame, planned: Planned, steps: Steps
) -> list[float]:
    """Return what each run would have taken at the cost of its recipe's steps."""
    recipe_of = {
        name_of(scale, recipe, seed): name
        for name, lengths in planned.items()
        for recipe in lengths
        for seed in range(scale.args.seeds)
    }
    return [
        round(count * ms(steps[recipe_of[name]]) / 1000, 2)
        for name, count in zip(table["name"], table["steps"], strict=True)
    ]


def ms(cost: dict[str, float]) -> float:
    """Return the milliseconds of a whole step."""
    return sum(cost[part] for part in step.PARTS)


def comparisons(scale: Scale, table: pd.DataFrame, planned: Planned) -> Compared:
    """Compare every recipe with the baseline, then the recommended one with K = 2 at its width."""
    baseline, recommended, narrow, *_ = planned
    pairs = [(name, baseline) for name in planned if name != baseline] + [(recommended, narrow)]
    compared = []
    for name, other in pairs:
        own = pd.concat([claims.rows_of(scale, table, recipe) for recipe in planned[name]])
        target = claims.rows_of(scale, table, planned[other][-1])
        lengths = len(planned[name])
        faster = speedup(own, target, lengths=lengths)
        by_steps = speedup(own, target, lengths=lengths, clock="seconds_by_steps")
        compared.append((name, other, faster, by_steps))
    return compared


def label(name: str, other: str, faster: Speedup) -> str:
    """Return a comparison in a few words, for the picture."""
    bound = f" ({faster.bound})" if faster.bound in ("at least", "at most") else ""
    return f"{name}\nagainst {other.partition(':')[0]}{bound}"


def summary(
    scale: Scale, table: pd.DataFrame, planned: Planned, steps: Steps, compared: Compared
) -> str:
    judged = verdicts.judge(claim_rules.wallclock, table)
    (_, _, first, by_steps), (last_name, last_other, last, _) = compared[0], compared[-1]
    best = table.sort_values("linear", ascending=False, kind="stable").iloc[0]
    return (
        "**Claim 4, the baseline's accuracy in at most half its training time: "
        f"{judged.verdict}.** {first.shown or '?'} times faster "
        f"({first.interval or 'no interval'}); by step cost {by_steps.shown or '?'} times "
        f"({by_steps.interval or 'no interval'}). {last_name}, to the accuracy of "
        f"{last_other}: {last.shown or '?'} times faster. Best linear accuracy of one run: "
        f"{100 * best['linear']:.1f}% ({best['name']}, {best['encoded_views']:,} encoded views). "
        "All accuracies are of the validation split.\n\n"
        f"{markdown([_compared_line(*each) for each in compared])}\n"
        "Mean and standard deviation over seeds:\n\n"
        f"{markdown(_length_lines(scale, table, planned))}\n"
        f"Milliseconds of the parts of a training step:\n\n{markdown(_step_lines(steps))}"
    )


def _compared_line(name: str, other: str, faster: Speedup, by_steps: Speedup) -> dict[str, Any]:
    bounds = [f"the shortest run has it in {faster.by} seeds"] * bool(faster.by)
    bounds += [f"the longest has it not in {faster.not_by} seeds"] * bool(faster.not_by)
    return {
        "recipe": f"{name}, to the accuracy of {other}",
        "seconds": "" if faster.seconds is None else f"{faster.seconds.mean:.0f}",
        "times faster": faster.shown,
        "95% interval": faster.interval,
        "seeds": faster.log2_ratio.n if faster.log2_ratio else 0,
        f"at least {FACTOR:g}": verdicts.OUTCOMES[faster.outcome(FACTOR)],
        "by step cost": by_steps.shown,
        "its interval": by_steps.interval,
        "note": "; ".join(bounds),
    }


def _length_lines(scale: Scale, table: pd.DataFrame, planned: Planned) -> list[dict[str, Any]]:
    lines = []
    for name, recipe in [(name, r) for name, lengths in planned.items() for r in lengths]:
        own = claims.rows_of(scale, table, recipe)
        if not own.empty:
            lines.append(
                {
                    "recipe": name,
                    "epochs": recipe.epochs,
                    "seeds": len(own),
                    "linear (%)": mean_std(100 * own["linear"]),
                    "kNN (%)": mean_std(100 * own["knn"]),
                    "encoded views": f"{own['encoded_views'].iloc[0]:,}",
                    "seconds": mean_std(own["seconds"], "{:.0f}"),
                    "by step cost": mean_std(own["seconds_by_steps"], "{:.0f}"),
                    "views/s": mean_std(own["views_per_s"], "{:.0f}"),
                }
            )
    return lines


def _step_lines(steps: Steps) -> list[dict[str, Any]]:
    return [
        {"recipe": name}
        | step.shown({part: cost[part] for part in step.PARTS})
        | {"ms for 1,000 encoded views": f"{1000 * ms(cost) / cost['encoded_views']:.0f}"}
        for name, cost in steps.items()
    ]


if __name__ == "__main__":
    sys.exit(main())

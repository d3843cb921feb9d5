"""Claim 4: the accuracy of the usual recipe in at most half its training time.

python analysis/wallclock.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/wallclock.py --data-dir DIR --preset gpu --seconds 500

The baseline is K = 2 views and a projector 8192 wide (and its hidden layer), 4 E epochs. The
recommended recipe is K = 4, d = 256: runs of E, 2 E and 3 E epochs, each with its own whole
schedule. The seconds in which it has the baseline's accuracy are interpolated between them
(linearly in log seconds, by seed). Two controls change one thing each: K = 2 with d = 256 (E, 2 E,
4 E epochs), and K = 4 with d = 8192 (E, 2 E). `--recipe NAME "FLAGS"` runs K = 4, d = 256 with
further flags beside them.

First come the trials (harness/trials.py): learning rate and decorrelation weight are chosen on
validation for both sides, by as many runs of E epochs for each, with a seed that is not reported;
controls take what was chosen for their width. Until all trials are finished nothing else is
trained. What is finished is reported, with a baseline that is not tuned (the authors' weight, the
scale's rate) if there are runs of it, which the verdict does not take.

Seconds are those of training, without probes, checkpoints and start. On a CPU several runs share
the machine: if views/s differ much between seeds, other work disturbed them, and the ratios by step
cost are the better ones: there a run's seconds are its steps times the cost of a step, measured
here, all recipes by turns in one process with nothing beside it. That ratio is the product of two,
which stand beside it: how many times fewer views are encoded, and how many times cheaper a view is.

With the small encoder of the CPU scale a projector 8192 wide costs more than the backbone, so the
ratio there is larger than with a ResNet on a GPU. The ratio to K = 2 with d = 256, in which the
projector has no part, is reported beside it; --wide share takes a baseline whose projector is as
large a part of the encoder as the paper's, 6% (harness/matched_width.py).

Verdict: more than 2 times? Judged by log ratios, paired by seed. If a recipe's shortest run has the
accuracy already its ratio is a lower bound, if none has it an upper one: then the interval is open
on that side, and the answer is that of a sign test."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
import torch

from analysis.benchmarks import kept_steps
from analysis.harness import claims, cli, records, training, trials
from analysis.harness.claim_rules import FACTOR, TUNED, UNTUNED
from analysis.harness.matched_width import matched_width
from analysis.harness.recipes import Recipe, Scale, flags_of, in_epochs, name_of, runs_of, scale_of
from analysis.harness.runs import machine_of
from analysis.harness.tables import write_csv
from analysis.harness.trials import Chosen, Trial
from analysis.harness.wallclock_picture import label, picture
from analysis.harness.wallclock_tables import (
    Planned,
    Steps,
    compared_line,
    comparisons,
    ms,
    step_name,
    summary,
    waterfall,
)
from effssl.cli import parse

AUTHORS = {
    "barlow_twins": 0.0008,
    "vicreg": 1 / 800,
}  # their weights at d = 8192 (arXiv 2312.10725)
BASELINE, RECOMMENDED = "the baseline", "the recommended recipe"  # the sides of the trials


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    add, names = parser.add_argument, ("NAME", "FLAGS")
    wide = "the baseline's width; share: that of the paper's part of the encoder (default: 8192)"
    add("--wide", type=_width, default=8192, metavar="D", help=wide)
    extra = "K = 4 with further flags"
    add("--recipe", nargs=2, action="append", default=[], metavar=names, help=extra)
    rates = "learning rates of the trials, in multiples of the scale's (default: 1/3, 1, 3)"
    add("--rates", type=cli.factor, nargs="+", default=trials.RATES, metavar="F", help=rates)
    weights = "weights of the trials, in multiples of the rule's (default: 0.1, 0.3, 1, 3)"
    add("--weights", type=cli.factor, nargs="+", default=trials.WEIGHTS, metavar="F", help=weights)
    args = cli.read_flags(parser, argv)
    if (args.seeds or 0) > trials.SEED:
        parser.error(f"--seeds {args.seeds}: seed {trials.SEED} is that of the trials")
    return cli.exit_code(lambda: _claim(_with_a_width(scale_of(args, "wallclock"))))


def _width(text: str) -> int | None:
    return None if text == "share" else cli.count(text)


def _with_a_width(scale: Scale) -> Scale:
    if scale.args.wide is None:
        scale.args.wide = matched_width(scale.cfg)
        print(f"--wide share: {scale.args.wide}")
    return scale


def sides(scale: Scale) -> dict[str, list[Trial]]:
    """Return the trials of the baseline and of the recommended recipe."""
    e = scale.epochs
    return {
        BASELINE: trials.grid(scale, Recipe(2, scale.args.wide, e)),
        RECOMMENDED: trials.grid(scale, Recipe(4, scale.dim, e)),
    }


def recipes(scale: Scale, chosen: dict[str, Chosen | None]) -> Planned:
    """Return name -> the recipe's lengths, shortest first: the baseline, the recommended one,
    controls, the user's own; with what was chosen, if it was for both sides."""
    e, d, wide = scale.epochs, scale.dim, scale.args.wide
    best = [each.trial for each in chosen.values() if each]
    is_tuned = len(best) == len(chosen) > 0
    factors = [(t.rate, t.weight) for t in best] if is_tuned else [(1.0, 1.0)] * 2
    for_wide, for_narrow = factors

    def narrow(views: int, lengths: tuple[int, ...]) -> list[Recipe]:
        plain = [Recipe(views, d, n * e) for n in lengths]
        return [trials.with_factors(scale, each, *for_narrow) for each in plain]

    def widest(views: int, lengths: tuple[int, ...]) -> list[Recipe]:
        plain = [Recipe(views, wide, n * e) for n in lengths]
        return [trials.with_factors(scale, each, *for_wide) for each in plain]

    untuned = [Recipe(2, wide, 4 * e, weight=AUTHORS[scale.args.method])]
    named = {
        f"{TUNED if is_tuned else UNTUNED}: K = 2, d = {wide}": (
            widest(2, (4,)) if is_tuned else untuned
        ),
        f"K = 4, d = {d}": narrow(4, (1, 2, 3)),
        f"K = 2, d = {d}": narrow(2, (1, 2, 4)),
        f"K = 4, d = {wide}": widest(4, (1, 2)),
    }
    for name, flags in scale.args.recipe:
        extra = {"extra": tuple(shlex.split(flags)), "extra_name": name}
        named[name] = [each._replace(**extra) for each in narrow(4, (1, 2, 3))]
    return named


def _claim(scale: Scale) -> None:
    tried = trials.complete(scale, sides(scale))
    planned = recipes(scale, tried.chosen)
    # The verdict's runs of all seeds, then the controls.
    first = [recipe for lengths in list(planned.values())[:2] for recipe in lengths]
    every = [recipe for lengths in planned.values() for recipe in lengths]
    wanted = runs_of(scale, first) | runs_of(scale, every)
    finished = claims.trained(tried.left(scale), wanted)
    every_run = [*finished, *tried.records]
    claims.save_records(scale, every_run)
    if finished:
        table = claims.table_of(scale, finished)
        recipe_of = _names(scale, planned)
        table.insert(1, "recipe", [recipe_of[name] for name in table["name"]])
        steps, measured_on = _cost_of_steps(scale, planned, list(table["name"]))
        table["seconds_by_steps"] = _seconds_by_steps(table, planned, steps)
        compared = comparisons(scale, table, planned, steps)
        parts = waterfall(scale, table, planned, steps)
        out = scale.args.out
        write_csv(out / "steps.csv", [{"recipe": name} | cost for name, cost in steps.items()])
        write_csv(out / "ratios.csv", [compared_line(each) for each in compared])
        if tried.records:
            write_csv(out / "trials.csv", tried.table)
        text = summary(scale, table, planned, steps, measured_on, compared, parts)
        text += tried.words(scale, in_epochs(scale.epochs))
        curves = {
            name: [claims.rows_of(scale, table, r) for r in lengths]
            for name, lengths in planned.items()
        }
        shown = [(label(each.name, each.other, each.seconds), each.seconds) for each in compared]
        figure = picture(curves, shown, parts, steps, FACTOR)
        # The trials are among the runs that the line of origin names.
        claims.write(scale, "wallclock", table, text, figure, every_run, wanted | tried.wanted)


def _names(scale: Scale, planned: Planned) -> dict[str, str]:
    """Return name of a run -> name of its recipe."""
    return {
        name_of(scale, recipe, seed): name
        for name, lengths in planned.items()
        for recipe in lengths
        for seed in range(scale.args.seeds)
    }


def _cost_of_steps(scale: Scale, planned: Planned, names: list[str]) -> tuple[Steps, str]:
    """Return the milliseconds of a step's parts and its encoded views, by what makes a step, and on
    what they were measured: once, kept beside the runs and among the records; on this machine if it
    trains some of the runs that are called so."""
    configs = {
        step_name(lengths[0]): parse(flags_of(scale, lengths[0], 0)) for lengths in planned.values()
    }
    name = f"step_cost_{scale.args.method}"
    file, record = scale.args.runs / f"{name}.json", claims.known_record(scale, name)
    on_gpu = torch.cuda.is_available()
    threads = None if on_gpu else training.threads_each(scale.args.parallel)
    trains = scale.args.seconds != 0
    here = trains and any(training.has_result(scale.args.runs / each) for each in names)
    cost = kept_steps.kept_or_measured(configs, file, record, threads=threads, here=here)
    if scale.args.save_records:
        new = {"kind": "step_cost", "name": name} | cost
        records.save(records.file_of(scale.args), [new])
    steps = {
        step: {**cost["ms"][step], "encoded_views": cfg.optim.batch_size * cfg.augment.views}
        for step, cfg in configs.items()
    }
    used = f" ({cost['threads']} used)" if cost.get("threads") else ""
    version = f"commit {cost['versions']['commit']}, {cost['finished']}"
    return steps, f"{machine_of(cost)}{used}, {version}"


def _seconds_by_steps(table: pd.DataFrame, planned: Planned, steps: Steps) -> list[float]:
    """Return what each run would have taken at the cost of its recipe's steps."""
    return [
        round(count * ms(steps[step_name(planned[name][0])]) / 1000, 2)
        for name, count in zip(table["recipe"], table["steps"], strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())

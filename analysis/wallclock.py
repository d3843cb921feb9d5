"""Claim 4: the accuracy of the usual recipe in at most half its training time.

python analysis/wallclock.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/wallclock.py --data-dir DIR --preset gpu --seconds 500

The baseline is the authors': K = 2 views, a projector 8192 wide (and its hidden layer), their weight for it, 4 E
epochs. The recommended recipe is K = 4, d = 256, the rule's weight: runs of E, 2 E and 3 E epochs, each with its own
whole schedule. The seconds in which it has the baseline's accuracy are interpolated between them (linearly in log
seconds, by seed). Two controls change one thing each: K = 2 with d = 256 (E, 2 E, 4 E epochs), and K = 4 with d =
8192 (the rule's weight; E, 2 E). `--recipe NAME "FLAGS"` runs K = 4, d = 256 with further flags beside them.

Seconds are those of training, without probes, checkpoints and start. On a CPU several runs share the machine: where
views/s differ much between seeds, other work disturbed them, and the ratios by step cost are the better ones: there a
run's seconds are its steps times the cost of a step, measured here, all recipes by turns in one process with nothing
beside it.

With the small encoder of the CPU scale a projector 8192 wide costs more than the backbone, so the ratio there is
larger than with a ResNet on a GPU. The ratio to K = 2 with d = 256, in which the projector has no part, is reported
beside it.

Verdict: at least 2 times? Yes or no where the whole 95% interval over seeds says so (of log ratios, paired by seed),
else open. Where a recipe's shortest run has the accuracy already its seconds are an upper bound, where none has it a
lower one.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from typing import Any, NamedTuple

import claims
import experiments
import figures
import intervals
import step_cost
import torch
from claims import Recipe, Scale
from intervals import Estimate, Question
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from effssl import cli
from effssl.config import flat
from effssl.run.folder import machine, write_json

AUTHORS = {"barlow_twins": 0.0008, "vicreg": 1 / 800}  # their weights at d = 8192 (arXiv 2312.10725)
FACTOR = 2.0


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("--wide", type=experiments.count, default=8192, metavar="D", help="the baseline's width")
    parser.add_argument(
        "--recipe", nargs=2, action="append", default=[], metavar=("NAME", "FLAGS"), help="K = 4 with further flags"
    )
    args = experiments.read_flags(parser, argv)
    return experiments.exit_code(lambda: _claim(claims.scale(args, "wallclock")))


def recipes(scale: Scale) -> dict[str, list[Recipe]]:
    """Name -> the recipe's lengths, shortest first: the baseline, the recommended one, controls, the user's own."""
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


class Speedup(NamedTuple):
    """How many times faster one recipe has the final accuracy of another."""

    text: str
    found: Estimate | None  # of log2 of the ratio
    seconds: Estimate | None
    by: int = 0  # seeds in which the ratio is a lower bound
    not_by: int = 0  # an upper one

    @property
    def answer(self) -> str:
        said = Question("", self.found, -math.log2(FACTOR)).answer
        unsafe = (said == "yes" and self.not_by) or (said == "no" and self.by)
        return "open" if unsafe else said

    @property
    def label(self) -> str:
        """For a picture."""
        bound = " (at least)" * bool(self.by and not self.not_by) + " (at most)" * bool(self.not_by and not self.by)
        return self.text.replace(", to the accuracy of ", "\nagainst ").partition(":")[0] + bound

    @property
    def shown(self) -> str:
        if self.found is None:
            return ""
        bound = ">= " * bool(self.by and not self.not_by) + "<= " * bool(self.not_by and not self.by)
        return f"{bound}{2**self.found.mean:.2f}"

    @property
    def interval(self) -> str:
        if self.found is None or self.found.n < 2:
            return ""
        return " to ".join(f"{2 ** (self.found.mean + side * self.found.half):.2f}" for side in (-1, 1))


def speedup(accuracy: list[dict[int, float]], seconds: list[dict[int, float]], target, took, text: str) -> Speedup:
    """accuracy, seconds: of a recipe's lengths, by seed; target, took: the other's accuracy and seconds, by seed. Seeds
    count in which all of them are finished."""
    logs, reached, how = [], [], []
    for seed in target:
        if all(seed in a for a in accuracy):
            points = [(s[seed], a[seed]) for s, a in zip(seconds, accuracy, strict=True)]
            at, said = intervals.seconds_to(points, target[seed])
            logs.append(math.log2(took[seed] / at))
            reached.append(at)
            how.append(said)
    found, at_seconds = intervals.estimate(logs), intervals.estimate(reached)
    return Speedup(text, found, at_seconds, how.count("by"), how.count("not by"))


def speedups(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]], clock: str) -> list[Speedup]:
    """Of every recipe against the baseline, then of the recommended one against K = 2 with its width. clock: the column
    of `rows` with the seconds."""
    baseline, recommended, narrow, *_ = planned
    pairs = [(name, baseline) for name in planned if name != baseline] + [(recommended, narrow)]
    found = []
    for name, other in pairs:
        lengths, last = planned[name], planned[other][-1]
        found.append(
            speedup(
                [claims.of(scale, rows, r) for r in lengths],
                [claims.of(scale, rows, r, clock) for r in lengths],
                claims.of(scale, rows, last),
                claims.of(scale, rows, last, clock),
                f"{name}, to the accuracy of {other}",
            )
        )
    return found


def _claim(scale: Scale) -> None:
    planned = recipes(scale)
    # The verdict's runs of all seeds, then the controls.
    first = [r for lengths in list(planned.values())[:2] for r in lengths]
    wanted = claims.runs(scale, first) | claims.runs(scale, [r for lengths in planned.values() for r in lengths])
    if finished := experiments.trained(scale.args, wanted, keep_mb=claims.KEEP_MB):
        rows = claims.rows_of(scale, finished)
        steps = _cost_of_steps(scale, planned)
        names = {claims.name_of(scale, r, 0)[:-1]: name for name, lengths in planned.items() for r in lengths}
        for row in rows:
            of_step = steps[names[row["name"].removesuffix(str(row["seed"]))]]
            row["seconds_by_steps"] = round(row["steps"] * _ms(of_step) / 1000, 2)
        experiments.write_csv(scale.args.out / "steps.csv", [{"recipe": name} | cost for name, cost in steps.items()])
        text = summary(scale, rows, planned, steps)
        claims.write(scale, "wallclock", rows, text, picture(scale, rows, planned, steps), finished, wanted)


def _cost_of_steps(scale: Scale, planned: dict[str, list[Recipe]]) -> dict[str, dict[str, Any]]:
    """By recipe the milliseconds of a step's parts and its encoded views; measured once, kept beside the runs (remove
    the file to measure again)."""
    settings = {name: cli.parse(claims.flags_of(scale, lengths[0], 0)) for name, lengths in planned.items()}
    ignored = {*cli.RESUME_MAY_CHANGE, "epochs", "warmup_epochs"}
    asked = {name: {k: v for k, v in flat(cfg).items() if k not in ignored} for name, cfg in settings.items()}
    file = scale.args.runs / f"step_cost_{scale.args.method}.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    if kept.get("settings") != asked:
        on_gpu = torch.cuda.is_available()
        threads = None if on_gpu else experiments.threads_each(scale.args.parallel)
        kept = {"settings": asked, "ms": step_cost.measure(settings, threads=threads)}
        kept |= machine(torch.device("cuda" if on_gpu else "cpu"))
        write_json(file, kept)
    views = {name: cfg.optim.batch_size * cfg.augment.views for name, cfg in settings.items()}
    return {name: {**kept["ms"][name], "encoded_views": views[name]} for name in planned}


def _ms(of_step: dict[str, Any]) -> float:
    """Of a whole step."""
    return sum(of_step[part] for part in step_cost.PARTS)


def summary(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]], steps: dict[str, dict]) -> str:
    clocks = {clock: speedups(scale, rows, planned, clock) for clock in ("seconds", "seconds_by_steps")}
    first, by_steps = (found[0] for found in clocks.values())
    last = clocks["seconds"][-1]
    table = [
        {
            "recipe": a.text,
            "seconds": "" if a.seconds is None else f"{a.seconds.mean:.0f}",
            "times faster": a.shown,
            "95% interval": a.interval,
            "seeds": a.found.n if a.found else 0,
            f"at least {FACTOR:g}": a.answer,
            "by step cost": b.shown,
            "its interval": b.interval,
            "note": _note(a),
        }
        for a, b in zip(*clocks.values(), strict=True)
    ]
    lengths = [
        {
            "recipe": name,
            "epochs": r.epochs,
            "seeds": len(accuracy),
            "linear (%)": intervals.mean_std(accuracy.values()),
            "kNN (%)": intervals.mean_std(claims.of(scale, rows, r, "knn").values()),
            "encoded views": f"{next(iter(claims.of(scale, rows, r, 'encoded_views').values())):,}",
            "seconds": intervals.mean_std(claims.of(scale, rows, r, "seconds").values(), "{:.0f}"),
            "by step cost": intervals.mean_std(claims.of(scale, rows, r, "seconds_by_steps").values(), "{:.0f}"),
            "views/s": intervals.mean_std(claims.of(scale, rows, r, "views_per_s").values(), "{:.0f}"),
        }
        for name, all_lengths in planned.items()
        for r in all_lengths
        if (accuracy := claims.of(scale, rows, r))
    ]
    parts = [
        {"recipe": name, "ms a step": f"{_ms(of_step):.1f}"}
        | {part: f"{of_step[part]:.1f}" for part in step_cost.PARTS}
        | {"ms for 1,000 encoded views": f"{1000 * _ms(of_step) / of_step['encoded_views']:.0f}"}
        for name, of_step in steps.items()
    ]
    best = max(rows, key=lambda row: row["linear"])
    return (
        f"**Claim 4, the baseline's accuracy in at most half its training time: {intervals.verdict([first.answer])}.** "
        f"{first.shown or '?'} times faster ({first.interval or 'no interval'}); by step cost {by_steps.shown or '?'} "
        f"times ({by_steps.interval or 'no interval'}). {last.text}: "
        f"{last.shown or '?'} times faster. Best linear accuracy of one run: {100 * best['linear']:.1f}% ("
        f"{best['name']}, {best['encoded_views']:,} encoded views). All accuracies are of the validation split.\n\n"
        f"{experiments.markdown(table)}\nMean and standard deviation over seeds:\n\n{experiments.markdown(lengths)}\n"
        f"Milliseconds of the parts of a training step:\n\n{experiments.markdown(parts)}"
    )


def _note(found: Speedup) -> str:
    said = [f"the shortest run has it in {found.by} seeds"] * bool(found.by)
    return "; ".join(said + [f"the longest has it not in {found.not_by} seeds"] * bool(found.not_by))


def picture(scale: Scale, rows: list[dict], planned: dict[str, list[Recipe]], steps: dict[str, dict]) -> Figure:
    """Accuracy against training seconds, times faster with intervals, and where the time of a step goes."""
    figure = Figure(figsize=(10, 7))
    grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1))
    curves, ratios, parts = (figure.add_subplot(at) for at in (grid[0, :], grid[1, 0], grid[1, 1]))
    for i, (name, lengths) in enumerate(planned.items()):
        points = [(claims.of(scale, rows, r, "seconds").values(), claims.of(scale, rows, r).values()) for r in lengths]
        look = figures.style((3, 1, 0, 2, 4, 5, 6)[i % 7])
        figures.draw(curves, points, **look, label=name)
        target = intervals.estimate(claims.of(scale, rows, lengths[-1]).values())
        if i == 0 and target:
            curves.axhline(target.mean, color=look["color"], linestyle=":", linewidth=1)
    curves.set(xlabel="training seconds", ylabel=figures.ACCURACY)
    figures.few_log_ticks(curves)
    curves.legend(fontsize=8)
    curves.grid(alpha=0.3)
    found = speedups(scale, rows, planned, "seconds")
    figures.forest(ratios, [(s.label, s.found) for s in found])
    powers = range(math.floor(ratios.get_xlim()[0]), math.ceil(ratios.get_xlim()[1]) + 1)
    ratios.set_xticks(list(powers), [f"{2.0**p:g}" for p in powers])
    ratios.axvline(math.log2(FACTOR), color="0.5", linewidth=1, linestyle=":")
    ratios.set_xlabel("times faster (dotted: the claim), 95% interval")
    left = [0.0] * len(steps)
    for i, part in enumerate(step_cost.PARTS):
        width = [1000 * of_step[part] / of_step["encoded_views"] for of_step in steps.values()]
        parts.barh(range(len(steps)), width, left=left, color=figures.style(i)["color"], label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    parts.set_yticks(range(len(steps)), list(steps), fontsize=8)
    parts.invert_yaxis()
    parts.set_xlabel("ms for 1,000 encoded views")
    parts.yaxis.set_minor_locator(NullLocator())
    parts.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1.02, -0.2), ncols=3, frameon=False)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

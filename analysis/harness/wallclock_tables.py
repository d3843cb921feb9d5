"""The tables of wallclock.py: times faster and of what they are made, lengths, steps, trials."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pandas as pd

from analysis.harness import claim_rules, claims, verdicts
from analysis.harness.recipes import Recipe, Scale
from analysis.harness.speedups import INTERVAL, Ratio, Speedup, divided, speedup
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown

Planned = dict[str, list[Recipe]]
Steps = dict[str, dict[str, float]]  # step_name -> milliseconds of its parts, encoded views


class Compared(NamedTuple):
    """A recipe against another's accuracy: times faster by the clock and by step cost, which is
    `fewer_views` times `cheaper_view`."""

    name: str
    other: str
    seconds: Speedup
    by_steps: Speedup
    fewer_views: Speedup
    cheaper_view: float


def step_name(recipe: Recipe) -> str:
    """Return a name for what makes a step cost what it does."""
    name = f"K = {recipe.views}, d = {recipe.dim}"
    return f"{name}, {recipe.extra_name}" if recipe.extra_name else name


def ms(cost: dict[str, float]) -> float:
    """Return the milliseconds of a whole step."""
    return sum(parts_of(cost).values())


def parts_of(cost: dict[str, float]) -> dict[str, float]:
    """Return the milliseconds of each part of a step."""
    return {part: value for part, value in cost.items() if part != "encoded_views"}


def comparisons(
    scale: Scale, table: pd.DataFrame, planned: Planned, steps: Steps
) -> list[Compared]:
    """Compare every recipe with the baseline, then the recommended one with K = 2 at its width."""
    baseline, recommended, narrow, *_ = planned
    pairs = [(name, baseline) for name in planned if name != baseline] + [(recommended, narrow)]
    compared = []
    for name, other in pairs:
        own = _of_all_lengths(scale, table, planned[name])
        target = claims.rows_of(scale, table, planned[other][-1])
        by_clock, by_steps, by_views = (
            speedup(own, target, lengths=len(planned[name]), clock=clock)
            for clock in ("seconds", "seconds_by_steps", "encoded_views")
        )
        ours, theirs = (_ms_a_view(steps[step_name(planned[of][0])]) for of in (name, other))
        compared.append(Compared(name, other, by_clock, by_steps, by_views, theirs / ours))
    return compared


def _of_all_lengths(scale: Scale, table: pd.DataFrame, lengths: list[Recipe]) -> pd.DataFrame:
    return pd.concat([claims.rows_of(scale, table, recipe) for recipe in lengths])


class Part(NamedTuple):
    """A part of the ratio by step cost; the parts multiply out to the whole, seed by seed."""

    name: str
    times: Speedup


def waterfall(scale: Scale, table: pd.DataFrame, planned: Planned, steps: Steps) -> list[Part]:
    """Take apart how many times faster the recommended recipe has the baseline's accuracy by step
    cost: the projector made small at K = 2, then more views; each is fewer encoded views times a
    cheaper view. The last part is the whole.

    Of seeds with runs of all lengths of both; none if there are none, or with one seed.
    """
    baseline, recommended, narrow, *_ = planned
    target = claims.rows_of(scale, table, planned[baseline][-1])
    runs = {name: _of_all_lengths(scale, table, planned[name]) for name in (recommended, narrow)}
    lengths = {name: len(planned[name]) for name in runs}
    target = target[
        [
            all((own["seed"] == seed).sum() == lengths[name] for name, own in runs.items())
            for seed in target["seed"]
        ]
    ]
    if len(target) < 2:
        return []
    whole, small = (
        speedup(runs[name], target, lengths=lengths[name], clock="encoded_views")
        for name in (recommended, narrow)
    )
    ms_of = {name: _ms_a_view(steps[step_name(planned[name][0])]) for name in planned}
    first, wide = planned[recommended][0], planned[baseline][0]
    projector, views = f"projector, d = {wide.dim} to {first.dim}", f"views, K = 2 to {first.views}"

    def cheaper(other: str, name: str) -> Speedup:
        """The cost of a view was measured once, for all seeds."""
        return Speedup((Ratio(ms_of[other] / ms_of[name], ""),) * whole.n)

    together = speedup(
        runs[recommended], target, lengths=lengths[recommended], clock="seconds_by_steps"
    )
    return [
        Part(f"{projector}: fewer views", small),
        Part(f"{projector}: a cheaper view", cheaper(baseline, narrow)),
        Part(f"{views}: fewer views", divided(whole, small)),
        Part(f"{views}: a cheaper view", cheaper(narrow, recommended)),
        Part("together", together),
    ]


def _ms_a_view(cost: dict[str, float]) -> float:
    return ms(cost) / cost["encoded_views"]


def summary(
    scale: Scale,
    table: pd.DataFrame,
    planned: Planned,
    steps: Steps,
    measured_on: str,
    compared: list[Compared],
    parts: list[Part],
) -> str:
    (part,) = (judged := verdicts.judge(claim_rules.wallclock, table)).parts
    seen = "; ".join(filter(None, (part.seen, verdicts.notes(part))))
    best = table.sort_values("linear", ascending=False, kind="stable").iloc[0]
    return (
        "**Claim 4, the baseline's accuracy in at most half its training time: "
        f"{judged.verdict}.** {part.says}: {seen}. Best linear accuracy of one run: "
        f"{100 * best['linear']:.1f}% ({best['name']}, {best['encoded_views']:,} encoded views)."
        "\n\n"
        f"{markdown([compared_line(each) for each in compared])}\n"
        "By step cost the ratio is the product of two: how many times fewer views are encoded, and "
        "how many times cheaper a view is, projector, loss and optimizer included. Mean and "
        "standard deviation over seeds:\n\n"
        f"{markdown(_length_lines(scale, table, planned))}\n"
        f"Milliseconds of the parts of a training step, measured on {measured_on}:\n\n"
        f"{markdown(_step_lines(steps))}"
        f"{_in_parts(parts)}"
    )


def _varies(times: Speedup) -> bool:
    return len({*times.ratios}) > 1 or bool(times.bounds)


def _in_parts(parts: list[Part]) -> str:
    if not parts:
        return ""
    lines = [
        {
            "part": part.name,
            "times": part.times.mean,
            # The cost of a view has none.
            INTERVAL: part.times.interval if _varies(part.times) else "",
            "seeds": part.times.n,
        }
        for part in parts
    ]
    return (
        "\nThe ratio by step cost in parts, which multiply out to the whole for every seed that "
        f"has all of these runs:\n\n{markdown(lines)}"
    )


def compared_line(compared: Compared) -> dict[str, Any]:
    faster = compared.seconds
    return {
        "recipe": f"{compared.name}, to the accuracy of {compared.other}",
        "seconds": faster.mean_seconds,
        "times faster": faster.mean,
        INTERVAL: faster.interval,
        "seeds": faster.n,
        f"more than {claim_rules.FACTOR:g}": verdicts.OUTCOMES[faster.outcome(claim_rules.FACTOR)],
        "by step cost": compared.by_steps.mean,
        "its interval, or range": compared.by_steps.interval,
        "fewer views": compared.fewer_views.mean,
        "cheaper view": f"{compared.cheaper_view:.2f}",
        "note": faster.note,
    }


def _length_lines(scale: Scale, table: pd.DataFrame, planned: Planned) -> list[dict[str, Any]]:
    lines = []
    measured = functools.partial(claims.measured, scale, table)
    named = [(name, own) for name, lengths in planned.items() for own in measured(lengths)]
    for name, (recipe, own) in named:
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
        {"recipe": name, "ms a step": f"{ms(cost):.1f}"}
        | {part: f"{value:.1f}" for part, value in parts_of(cost).items()}
        | {"ms for 1,000 encoded views": f"{1000 * ms(cost) / cost['encoded_views']:.0f}"}
        for name, cost in steps.items()
    ]

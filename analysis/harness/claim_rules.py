"""The rule by which each claim is judged: a function each, whose docstring is the rule in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis.harness.at_rule import at_rule, close, with_rule
from analysis.harness.methods import MEASURED, NAMES, folder_of
from analysis.harness.rules import Judge, Rule, table_rule
from analysis.harness.speedups import Speedup, speedup
from analysis.harness.stats import at_seconds
from analysis.harness.tables import Missing
from analysis.harness.verdicts import (
    Part,
    differences,
    groups,
    only,
    over_seeds,
    pairs,
)

MARGIN = 1.0  # points that count as noise where a claim says "as good as"
FACTOR = 2.0  # times faster
TUNED, UNTUNED = "baseline, tuned", "baseline, untuned"  # how names of the recipes begin


def width(rows: pd.DataFrame) -> list[Part]:
    """With the rule's weight a small projector does as well as the widest, and costs less. Of each
    method in projector/runs.csv, d = 256 (or the width nearest to it) against the widest, both at
    the rule's weight: linear is no more than 1 point worse, and the widest takes more than 1 times
    the seconds; and at the smallest width, at the rule's weight beside the widest's, linear is
    better, and the off-diagonal energy of z is less. The first is not decided here unless the
    widest is better than the untrained encoder, which would else do as well."""
    parts = []
    for (method,), own in groups(with_rule(rows), "method"):
        right = at_rule(own)
        dims = sorted(right["dim"].unique())
        if len(dims) < 2:
            continue
        name, least, widest = NAMES[method], dims[0], dims[-1]
        small = min(dims[:-1], key=lambda dim: abs(math.log(dim / 256)))
        ours, theirs = only(right, dim=small), only(right, dim=widest)
        what = f"{name}, the rule's weight, d = {small:.0f} against {widest:.0f}"
        gap = differences(ours, theirs, "linear", 100)
        as_good = over_seeds(f"{what}: no more than {MARGIN:g} point worse", gap, -MARGIN)
        parts.append(_if_it_trains(as_good, theirs))
        seconds = pairs(theirs, ours, "seconds")
        more = seconds["ours"] / seconds["others"] - 1
        unit = "of its seconds more for the widest"
        parts.append(over_seeds(f"{what}: cheaper", more, unit=unit))
        smallest, wide_weight = only(own, dim=least), theirs["weight"].iloc[0]
        fixed = smallest[close(smallest["weight"], wide_weight, 0.02)]
        gain = differences(only(right, dim=least), fixed, "linear", 100)
        says = f"{name}, d = {least:.0f}: better at the rule's weight than at the widest's"
        parts.append(over_seeds(says, gain))
        less = differences(fixed, only(right, dim=least), "z/off_diagonal")
        says = f"{name}, d = {least:.0f}: z more orthogonal at the rule's weight (off-diagonal)"
        parts.append(over_seeds(says, less, unit=""))
    if not parts:
        raise Missing("projector/runs.csv has no method at two widths with the rule's weight")
    return parts


def _if_it_trains(part: Part, widest: pd.DataFrame) -> Part:
    """Return the part as not decided here, unless the runs that it is judged against, where they
    say what they had before training, are shown to have gained by it."""
    if "untrained" not in widest or widest["untrained"].isna().all():
        return part
    gain = over_seeds("", 100 * (widest["linear"] - widest["untrained"]))
    if gain.outcome == "yes":
        return part
    note = f"control: the widest less the untrained encoder: {gain.seen}"
    return part._replace(outcome="idle", p=1.0, note=note)


def views(rows: pd.DataFrame) -> list[Part]:
    """More views of every image give features sooner. In views/runs.csv, K = 8 and K = 4 against
    K = 2, linear: better on the shortest runs, which have as many epochs; and their longest run
    better than that of K = 2 of as many encoded views, and than K = 2 after as many seconds of
    training, for which its accuracy is interpolated between its runs of that seed, linearly in log
    seconds. Beyond them it is that of the nearest, a bound: after the last the difference is at
    most, before the first at least so much, so that a yes in the one case and a no in the other are
    not decided here."""
    shortest = rows["epochs"].min()
    two, parts = only(rows, views=2), []
    for k in (8, 4):
        own = only(rows, views=k)
        longest = shortest if own.empty else own["epochs"].max()
        better = f"K = {k} better than K = 2 at equal"
        for budget, epochs, same in (
            ("epochs", shortest, shortest),
            ("encoded views", longest, longest * k / 2),
        ):
            gain = differences(only(own, epochs=epochs), only(two, epochs=same), "linear", 100)
            parts.append(over_seeds(f"{better} {budget}", gain))
        parts.append(_at_equal_seconds(f"{better} seconds", only(own, epochs=longest), two))
    return parts


def _at_equal_seconds(says: str, own: pd.DataFrame, others: pd.DataFrame) -> Part:
    """Return the part that asks whether the runs `own` are better than `others` of their seed after
    as many seconds; seeds count that have runs of all lengths."""
    lengths = others["epochs"].nunique()
    gains, where = [], []
    for _, run in own.iterrows():
        of_seed = only(others, seed=run["seed"]).sort_values("epochs")
        if 0 < len(of_seed) == lengths:
            points = list(zip(of_seed["seconds"], of_seed["linear"], strict=True))
            accuracy, lies = at_seconds(points, run["seconds"])
            gains.append(100 * (run["linear"] - accuracy))
            where.append(lies)
    notes = [
        f"{where.count(lies)} {lies} K = 2's runs: {bound} so much"
        for lies, bound in (("before", "at least"), ("after", "at most"))
        if lies in where
    ]
    part = over_seeds(says, gains, note="; ".join(notes))
    undecided = {"yes": "after", "no": "before"}.get(part.outcome) in where
    return part._replace(outcome="idle", p=1.0) if undecided else part


def subset(rows: pd.DataFrame) -> list[Part]:
    """With more views fewer images suffice. In subset/runs.csv, at equal encoded views, linear: K =
    8 on 25% of the images and K = 4 on 50% are no more than 1 point worse than K = 2 on all, and
    better than K = 2 on the same part. A part of the images counts only if K = 2 on it fails: by
    its 95% interval it is more than 1 point worse than K = 2 on all. Else nothing is short of
    images, and both questions are not decided here."""
    parts = []
    for k, part in ((8, 0.25), (4, 0.5)):
        own = only(rows, views=k, part=part)
        two = only(rows, views=2)
        two = two[close(two["encoded_views"], own["encoded_views"].mean(), 0.05)]
        whole, same = only(two, part=1.0), only(two, part=part)
        control = over_seeds("", differences(same, whole, "linear", 100), -MARGIN)
        as_good = f"no more than {MARGIN:g} point worse than K = 2 on all"
        for other, says, at_least, name in (
            (whole, as_good, -MARGIN, "100%"),
            (same, f"better than K = 2 on {part:.0%}", 0.0, f"{part:.0%}"),
        ):
            gain = differences(own, other, "linear", 100)
            named = f"K = {k} on {part:.0%}"
            label = f"{named}\nless K = 2 on {name}"
            asked = over_seeds(f"{named}: {says}", gain, at_least, label=label)
            parts.append(_if_control_fails(asked, control, f"K = 2 on {part:.0%}"))
    return parts


def _if_control_fails(part: Part, control: Part, name: str) -> Part:
    """Return the part as not decided here, unless its control is shown to fail."""
    if "missing" in (part.outcome, control.outcome):
        return part._replace(outcome="missing", p=1.0)
    if control.outcome == "no":
        return part
    note = f"control: {name} less K = 2 on all: {control.seen}"
    return part._replace(outcome="idle", p=1.0, note=note)


def wallclock(rows: pd.DataFrame) -> list[Part]:
    """The baseline's accuracy in at most half its seconds. In wallclock/runs.csv, K = 4 with the
    smallest projector against the baseline, K = 2 with the widest, learning rate and weight of both
    chosen on validation by as many trials: of each seed, the seconds in which K = 4 has the
    baseline's accuracy are interpolated between its runs, linearly in log seconds; the ratio of the
    baseline's seconds to them is above 2, by its logarithm. If its shortest run has that accuracy
    already the ratio is a lower bound, if none has it an upper one; with bounds among the seeds the
    interval is open on that side, and p is that of a sign test, in which a bound that leaves the
    question open counts against; how many seeds this takes at the soonest, if all further ones are
    on the side of most, stands beside it. The part is not measured until the baseline's trials
    are."""
    own = rows[rows["recipe"].str.fullmatch(r"K = 4, d = \d+")]
    own = only(own, dim=own["dim"].min())
    lengths = own["epochs"].nunique()
    says = "K = 4 with the smallest projector"
    if not own.empty:
        says = f"K = 4, d = {own['dim'].min():.0f}"
    says += f": more than {FACTOR:g} times faster to the accuracy of the tuned baseline"
    faster = speedup(own, _baseline(rows, TUNED), lengths=lengths)
    if faster.log2_ratio is None:
        seen = "the baseline with chosen rate and weight is not trained"
        untuned = speedup(own, _baseline(rows, UNTUNED), lengths=lengths)
        if untuned.log2_ratio is not None:
            seen += f"; to the accuracy of the untuned one: {_times(untuned)}"
        return [Part(says, "missing", seen, p=1.0)]
    answer, note = faster.outcome(FACTOR), ""
    if answer == "open" and (needed := faster.seeds_needed(FACTOR)):
        note = f"about {needed} seeds would tell"
        if faster.bounds:
            note = f"with a bound, no fewer than {needed} seeds could tell"
    return [Part(says, answer, _times(faster), note=note, p=faster.p(FACTOR))]


def _baseline(rows: pd.DataFrame, which: str) -> pd.DataFrame:
    return rows[rows["recipe"].str.startswith(which)]


def _times(faster: Speedup) -> str:
    """Return how many times faster, with interval, seeds and bounds, in words."""
    mean = faster.mean.replace(">= ", "at least ").replace("<= ", "at most ")
    if faster.n == 1:
        return f"{mean} times, one seed: no interval"
    spread = f"95% interval {faster.interval}" if not faster.bounds else faster.interval
    seen = f"{mean or 'an unknown number of'} times, {spread}, {faster.n} seeds"
    return f"{seen}; {faster.note}" if faster.note else seen


Rules = dict[str, Rule]  # of one claim, by how it is measured


def _as_measured(
    judge: Judge, command: str, numbers: Sequence[str], *others: Sequence[str]
) -> Rules:
    return {
        how: table_rule(judge, f"{folder_of(command, how)}/runs.csv", numbers, *others)
        for how in MEASURED
    }


WIDTH = _as_measured(
    width,
    "projector",
    ("dim", "weight", "seed", "linear", "z/off_diagonal", "seconds"),
    ("method",),
    ("untrained",),
)
VIEWS = _as_measured(views, "views", ("views", "epochs", "seed", "linear", "seconds"))
SUBSET = _as_measured(subset, "subset", ("views", "part", "seed", "linear", "encoded_views"))
WALLCLOCK = _as_measured(
    wallclock,
    "wallclock",
    ("views", "dim", "epochs", "seed", "linear", "seconds", "encoded_views"),
    ("recipe",),
)

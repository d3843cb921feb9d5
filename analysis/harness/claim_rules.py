"""The rule by which each claim is judged: a function each, whose docstring is the rule in words."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.harness.methods import NAMES, RULES
from analysis.harness.speedups import speedup
from analysis.harness.stats import at_seconds
from analysis.harness.tables import Missing
from analysis.harness.verdicts import (
    Part,
    differences,
    groups,
    only,
    over_seeds,
    pairs,
    table_rule,
)

MARGIN = 1.0  # points that count as noise where a claim says "as good as"
FACTOR = 2.0  # times faster


def _with_rule(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["method"].isin(list(RULES))]


def _at_rule(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[_close(rows["weight"] * rows["dim"], rows["method"].map(RULES), 0.02)]


def _close(ours: pd.Series, others: pd.Series | float, relative: float) -> pd.Series:
    """Return whether two numbers differ by at most a part `relative` of the larger one."""
    return (ours - others).abs() <= relative * np.maximum(np.abs(ours), np.abs(others))


def orthogonality(rows: pd.DataFrame) -> list[Part]:
    """At one width, a decorrelation weight far below the rule's costs orthogonality and accuracy:
    of each method and width in orthogonality/runs.csv, at the rule's weight less at the smallest:
    linear accuracy above 0; and the off-diagonal energy of z at the smallest less at the rule's
    above 0."""
    parts = []
    for (method, dim), own in groups(_with_rule(rows), "method", "dim"):
        least = own["weight"].min()
        right, wrong = _at_rule(own), only(own, weight=least)
        if right.empty or right["weight"].iloc[0] == least:
            continue
        what = f"{NAMES[method]}, d = {dim:.0f}: the rule's weight beside {least * dim:.2g} / d"
        gain = differences(right, wrong, "linear", 100)
        parts.append(over_seeds(f"{what}: more accurate", gain))
        less = differences(wrong, right, "z/off_diagonal")
        says = f"{what}: z more orthogonal (off-diagonal energy falls)"
        parts.append(over_seeds(says, less, unit=""))
    if not parts:
        raise Missing("orthogonality/runs.csv has no width at two weights, one of them the rule's")
    return parts


def width(rows: pd.DataFrame) -> list[Part]:
    """With the rule's weight a small projector does as well as the widest, and costs less. Of each
    method in projector/runs.csv, d = 256 (or the width nearest to it) against the widest, both at
    the rule's weight: linear is no more than 1 point worse, and the widest takes more than 1 times
    the seconds; and at the smallest width, linear is better at the rule's weight than at the
    widest's."""
    parts = []
    for (method,), own in groups(_with_rule(rows), "method"):
        right = _at_rule(own)
        dims = sorted(right["dim"].unique())
        if len(dims) < 2:
            continue
        name, least, widest = NAMES[method], dims[0], dims[-1]
        small = min(dims[:-1], key=lambda dim: abs(math.log(dim / 256)))
        ours, theirs = only(right, dim=small), only(right, dim=widest)
        what = f"{name}, the rule's weight, d = {small:.0f} against {widest:.0f}"
        gap = differences(ours, theirs, "linear", 100)
        parts.append(over_seeds(f"{what}: no more than {MARGIN:g} point worse", gap, -MARGIN))
        seconds = pairs(theirs, ours, "seconds")
        more = seconds["ours"] / seconds["others"] - 1
        unit = "of its seconds more for the widest"
        parts.append(over_seeds(f"{what}: cheaper", more, unit=unit))
        smallest, wide_weight = only(own, dim=least), theirs["weight"].iloc[0]
        fixed = smallest[_close(smallest["weight"], wide_weight, 0.02)]
        gain = differences(only(right, dim=least), fixed, "linear", 100)
        says = f"{name}, d = {least:.0f}: better at the rule's weight than at the widest's"
        parts.append(over_seeds(says, gain))
    if not parts:
        raise Missing("projector/runs.csv has no method at two widths with the rule's weight")
    return parts


def views(rows: pd.DataFrame) -> list[Part]:
    """More views of every image give features sooner. In views/runs.csv, K = 8 and K = 4 against
    K = 2, linear: better on the shortest runs, which have as many epochs; and their longest run
    better than that of K = 2 of as many encoded views, and than K = 2 after as many seconds of
    training, for which its accuracy is interpolated between its runs of that seed, linearly in log
    seconds (beyond them: of the nearest)."""
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
        gains, outside = _at_equal_seconds(only(own, epochs=longest), two)
        note = f"{outside} outside K = 2's runs, against the nearest" if outside else ""
        parts.append(over_seeds(f"{better} seconds", gains, note=note))
    return parts


def _at_equal_seconds(own: pd.DataFrame, others: pd.DataFrame) -> tuple[list[float], int]:
    """Return, for each run of `own`, its accuracy less that of `others` of its seed at its seconds,
    and how many lie outside of those runs; seeds count that have runs of all lengths."""
    lengths = others["epochs"].nunique()
    gains, outside = [], 0
    for _, run in own.iterrows():
        of_seed = only(others, seed=run["seed"])
        if 0 < len(of_seed) == lengths:
            points = list(zip(of_seed["seconds"], of_seed["linear"], strict=True))
            accuracy, inside = at_seconds(points, run["seconds"])
            gains.append(100 * (run["linear"] - accuracy))
            outside += not inside
    return gains, outside


def subset(rows: pd.DataFrame) -> list[Part]:
    """With more views fewer images suffice. In subset/runs.csv, at equal encoded views, linear: K =
    8 on 25% of the images and K = 4 on 50% are no more than 1 point worse than K = 2 on all, and
    better than K = 2 on the same part."""
    parts = []
    for k, part in ((8, 0.25), (4, 0.5)):
        own = only(rows, views=k, part=part)
        for other, says, at_least in (
            (1.0, f"no more than {MARGIN:g} point worse than K = 2 on all", -MARGIN),
            (part, f"better than K = 2 on {part:.0%}", 0.0),
        ):
            two = only(rows, views=2, part=other)
            two = two[_close(two["encoded_views"], own["encoded_views"].mean(), 0.05)]
            gain = differences(own, two, "linear", 100)
            named = f"K = {k} on {part:.0%}"
            label = f"{named}\nless K = 2 on {other:.0%}"
            parts.append(over_seeds(f"{named}: {says}", gain, at_least, label=label))
    return parts


def wallclock(rows: pd.DataFrame) -> list[Part]:
    """The baseline's accuracy in at most half its seconds. In wallclock/runs.csv, K = 4 with the
    smallest projector against the baseline, K = 2 with the widest: of each seed, the seconds in
    which K = 4 has the baseline's accuracy are interpolated between its runs, linearly in log
    seconds; the ratio of the baseline's seconds to them is above 2, by the interval of its
    logarithm. If its shortest run has that accuracy already the ratio is a lower bound, which
    answers no `no`; if none has it an upper one, which answers no `yes`."""
    # The names of runs with further flags do not end so.
    rows = rows[rows["name"].str.contains(r"_e\d+(?:_b\d+)?_s\d+$")]
    if rows.empty:
        raise Missing("wallclock/runs.csv has no run of the baseline's or the recommended recipe")
    dims = sorted(rows["dim"].unique())
    baseline = only(rows, views=2, dim=dims[-1]) if len(dims) > 1 else rows[:0]
    own = only(rows, views=4, dim=dims[0])
    faster = speedup(own, baseline, lengths=own["epochs"].nunique())
    says = f"K = 4, d = {dims[0]:.0f}: more than {FACTOR:g} times faster to the accuracy of "
    says += f"K = 2, d = {dims[-1]:.0f}"
    outcome = faster.outcome(FACTOR)
    if faster.log2_ratio is None:
        return [Part(says, outcome, "no seed has both")]
    (mean, low, high), n = faster.ratio, faster.log2_ratio.n
    spread = (
        f"95% interval {low:.2f} to {high:.2f}, {n} seeds" if n > 1 else "one seed: no interval"
    )
    seen = f"{faster.bound} {mean:.2f} times, {spread}".strip()
    return [Part(says, outcome, seen)]


ORTHOGONALITY = table_rule(
    orthogonality,
    "orthogonality/runs.csv",
    ("dim", "weight", "seed", "linear", "z/off_diagonal"),
    ("method",),
)
WIDTH = table_rule(
    width, "projector/runs.csv", ("dim", "weight", "seed", "linear", "seconds"), ("method",)
)
VIEWS = table_rule(views, "views/runs.csv", ("views", "epochs", "seed", "linear", "seconds"))
SUBSET = table_rule(subset, "subset/runs.csv", ("views", "part", "seed", "linear", "encoded_views"))
WALLCLOCK = table_rule(
    wallclock,
    "wallclock/runs.csv",
    ("views", "dim", "epochs", "seed", "linear", "seconds"),
    ("name",),
)

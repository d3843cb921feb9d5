"""The rule by which each claim is judged: a function each, its docstring the rule; verdicts.py judges by them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from intervals import at_seconds, seconds_to
from verdicts import (
    Missing,
    Part,
    answer,
    differences,
    groups,
    interval,
    mean_of,
    only,
    over_seeds,
    pairs,
    read,
)

from effssl.losses import functional as losses

MARGIN = 1.0  # points that count as noise where a claim says "as good as"
NAMES = {"vicreg": "VICReg", "barlow_twins": "Barlow Twins"}
RULES = {"vicreg": losses.cov_weight(1, 1.0), "barlow_twins": losses.redundancy_weight(1)}  # w d


def _at_rule(row: dict[str, Any]) -> bool:
    return math.isclose(row["weight"] * row["dim"], RULES[row["method"]], rel_tol=0.02)


# Claim 1


def orthogonality(results: Path) -> list[Part]:
    """At one width, a decorrelation weight far below the rule's costs orthogonality and accuracy: of each method and
    width in orthogonality/runs.csv, at the rule's weight less at the smallest: linear accuracy above 0; and the
    off-diagonal energy of z at the smallest less at the rule's above 0."""
    columns = ("dim", "weight", "seed", "linear", "z/off_diagonal")
    rows = [row for row in read(results, "orthogonality/runs.csv", columns, ("method",)) if row["method"] in RULES]
    parts = []
    for (method, dim), own in groups(rows, "method", "dim").items():
        least = min(row["weight"] for row in own)
        right, wrong = [row for row in own if _at_rule(row)], only(own, weight=least)
        if not right or right[0]["weight"] == least:
            continue
        what = f"{NAMES[method]}, d = {dim:.0f}: the rule's weight beside {least * dim:.2g} / d"
        gain = differences(right, wrong, "linear", 100)
        parts.append(over_seeds(f"{what}: more accurate", gain))
        less = differences(wrong, right, "z/off_diagonal")
        parts.append(over_seeds(f"{what}: z more orthogonal (off-diagonal energy falls)", less, unit=""))
    if not parts:
        raise Missing("orthogonality/runs.csv has no width at two weights, one of them the rule's")
    return parts


def width(results: Path) -> list[Part]:
    """With the rule's weight a small projector does as well as the widest, and costs less. Of each method in
    projector/runs.csv, d = 256 (or the width nearest to it) against the widest, both at the rule's weight: linear is no
    more than 1 point worse, and the widest takes more than 1 times the seconds; and at the smallest width, linear is
    better at the rule's weight than at the widest's."""
    rows = read(results, "projector/runs.csv", ("dim", "weight", "seed", "linear", "seconds"), ("method",))
    parts = []
    for (method,), own in groups([row for row in rows if row["method"] in RULES], "method").items():
        right = [row for row in own if _at_rule(row)]
        dims = sorted({row["dim"] for row in right})
        if len(dims) < 2:
            continue
        name, least, widest = NAMES[method], dims[0], dims[-1]
        small = min(dims[:-1], key=lambda dim: abs(math.log(dim / 256)))
        ours, theirs = only(right, dim=small), only(right, dim=widest)
        what = f"{name}, the rule's weight, d = {small:.0f} against {widest:.0f}"
        gap = differences(ours, theirs, "linear", 100)
        parts.append(over_seeds(f"{what}: no more than {MARGIN:g} point worse", gap, -MARGIN))
        times = [slow / fast - 1 for slow, fast in pairs(theirs, ours, "seconds")]
        parts.append(over_seeds(f"{what}: cheaper", times, unit="of its seconds more for the widest"))
        fixed = [row for row in only(own, dim=least) if math.isclose(row["weight"], theirs[0]["weight"], rel_tol=0.02)]
        gain = differences(only(right, dim=least), fixed, "linear", 100)
        parts.append(over_seeds(f"{name}, d = {least:.0f}: better at the rule's weight than at the widest's", gain))
    if not parts:
        raise Missing("projector/runs.csv has no method at two widths with the rule's weight")
    return parts


# Claim 2


def views(results: Path) -> list[Part]:
    """More views of every image give features sooner. In views/runs.csv, K = 8 and K = 4 against K = 2, linear: better
    on the shortest runs, which have as many epochs; and their longest run better than that of K = 2 of as many encoded
    views, and than K = 2 after as many seconds of training, for which its accuracy is interpolated between its runs of
    that seed, linearly in log seconds (beyond them: of the nearest)."""
    rows = read(results, "views/runs.csv", ("views", "epochs", "seed", "linear", "seconds"))
    shortest = min(row["epochs"] for row in rows)
    two, parts = only(rows, views=2), []
    lengths = {row["epochs"] for row in two}
    for k in (8, 4):
        own = only(rows, views=k)
        longest = max((row["epochs"] for row in own), default=shortest)
        for budget, epochs, same in (("epochs", shortest, shortest), ("encoded views", longest, longest * k / 2)):
            gain = differences(only(own, epochs=epochs), only(two, epochs=same), "linear", 100)
            parts.append(over_seeds(f"K = {k} better than K = 2 at equal {budget}", gain))
        gain = []
        for row in only(own, epochs=longest):
            points = [(other["seconds"], other["linear"]) for other in only(two, seed=row["seed"])]
            if points and len(points) == len(lengths):
                gain.append(100 * (row["linear"] - at_seconds(points, row["seconds"])[0]))
        parts.append(over_seeds(f"K = {k} better than K = 2 at equal seconds", gain))
    return parts


# Claim 3


def subset(results: Path) -> list[Part]:
    """With more views fewer images suffice. In subset/runs.csv, at equal encoded views, linear: K = 8 on 25% of the
    images and K = 4 on 50% are no more than 1 point worse than K = 2 on all, and better than K = 2 on the same part."""
    rows = read(results, "subset/runs.csv", ("views", "part", "seed", "linear", "encoded_views"))
    parts = []
    for k, part in ((8, 0.25), (4, 0.5)):
        own = only(rows, views=k, part=part)
        for other, says, at_least in (
            (1.0, f"no more than {MARGIN:g} point worse than K = 2 on all", -MARGIN),
            (part, f"better than K = 2 on {part:.0%}", 0.0),
        ):
            encoded = mean_of(own, "encoded_views") if own else 0.0
            two = [
                row
                for row in only(rows, views=2, part=other)
                if math.isclose(row["encoded_views"], encoded, rel_tol=0.05)
            ]
            parts.append(over_seeds(f"K = {k} on {part:.0%}: {says}", differences(own, two, "linear", 100), at_least))
    return parts


# Claim 4


def wallclock(results: Path) -> list[Part]:
    """The baseline's accuracy in at most half its seconds. In wallclock/runs.csv, K = 4 with the smallest projector
    against the baseline, K = 2 with the widest: of each seed, the seconds in which K = 4 has the baseline's accuracy
    are interpolated between its runs, linearly in log seconds; the ratio of the baseline's seconds to them is above 2,
    by the interval of its logarithm. Where its shortest run has that accuracy already the ratio is a lower bound, which
    answers no `no`; where none has it an upper one, which answers no `yes`."""
    rows = read(results, "wallclock/runs.csv", ("views", "dim", "epochs", "seed", "linear", "seconds"), ("name",))
    rows = [row for row in rows if re.search(r"_e\d+(_b\d+)?_s\d+$", row["name"])]  # others have further flags
    dims = sorted({row["dim"] for row in rows})
    baseline = only(rows, views=2, dim=dims[-1]) if len(dims) > 1 else []
    own = only(rows, views=4, dim=dims[0])
    lengths = {row["epochs"] for row in own}
    ratios, bounds = [], set()
    for row in baseline:
        points = sorted((r["seconds"], r["linear"]) for r in only(own, seed=row["seed"]))
        if points and len(points) == len(lengths):
            at, said = seconds_to(points, row["linear"])
            ratios.append(math.log2(row["seconds"] / at))
            bounds.add({"at": "", "by": "at least", "not by": "at most"}[said])
    says = f"K = 4, d = {dims[0]:.0f}: more than 2 times faster to the accuracy of K = 2, d = {dims[-1]:.0f}"
    if not ratios:
        return [Part(says, "missing", "no seed has both")]
    said = answer(ratios, 1.0)
    if (said == "yes" and "at most" in bounds) or (said == "no" and "at least" in bounds):
        said = "open"
    mean, low, high = (2.0**value for value in np.clip(interval(ratios), -99, 99))
    spread = (
        f"95% interval {low:.2f} to {high:.2f}, {len(ratios)} seeds" if len(ratios) > 1 else "one seed: no interval"
    )
    known = bounds - {""}
    bound = f"{known.pop()} " if len(known) == 1 else "about " * len(known)  # of some seeds at least, of others at most
    return [Part(says, said, f"{bound}{mean:.2f} times, {spread}")]

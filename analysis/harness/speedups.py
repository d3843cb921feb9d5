"""How many times faster one recipe has the accuracy of another."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.harness.stats import Estimate, estimate, seconds_to
from analysis.harness.verdicts import answer


class Speedup(NamedTuple):
    """A ratio of seconds over seeds, and the bounds in it."""

    log2_ratio: Estimate | None
    seconds: Estimate | None  # in which the faster one has the accuracy
    by: int = 0  # seeds whose ratio is a lower bound: the shortest run has the accuracy already
    not_by: int = 0  # seeds whose ratio is an upper bound: not even the longest run has it

    @property
    def bound(self) -> str:
        """What the mean is, beside an estimate: at least, at most, about (some seeds the one, some
        the other), or nothing."""
        if self.by and self.not_by:
            return "about"
        return "at least" if self.by else "at most" if self.not_by else ""

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Mean, low and high end of the 95% interval; the ends of one seed are 2^-99 and 2^99."""
        mean = self.log2_ratio
        assert mean is not None
        low, middle, high = np.exp2(np.clip([mean.low, mean.mean, mean.high], -99, 99))
        return float(middle), float(low), float(high)

    @property
    def shown(self) -> str:
        """How many times faster, with its bound; nothing if that is not known."""
        if self.log2_ratio is None:
            return ""
        bound = {"at least": ">= ", "at most": "<= "}.get(self.bound, "")
        return f"{bound}{self.ratio[0]:.2f}"

    @property
    def interval(self) -> str:
        """The 95% interval; nothing for one seed."""
        if self.log2_ratio is None or self.log2_ratio.n < 2:
            return ""
        _, low, high = self.ratio
        return f"{low:.2f} to {high:.2f}"

    def outcome(self, factor: float) -> str:
        """Return yes, no, open or missing: whether it is more than `factor` times faster. A bound
        on the wrong side decides nothing."""
        if self.log2_ratio is None:
            return "missing"
        outcome = answer(self.log2_ratio, math.log2(factor))
        unsafe = (outcome == "yes" and self.not_by) or (outcome == "no" and self.by)
        return "open" if unsafe else outcome


def speedup(
    own: pd.DataFrame, target: pd.DataFrame, *, lengths: int, clock: str = "seconds"
) -> Speedup:
    """Return how many times faster the runs `own`, of one recipe at several lengths, have the
    accuracy of each run of `target`; paired by seed.

    Seeds count that have runs of all `lengths`. Seconds are interpolated between the runs, linearly
    in their logarithm. clock: the column of the seconds.
    """
    logs, reached, bounds = [], [], []
    for _, other in target.iterrows():
        runs = own[own["seed"] == other["seed"]]
        if 0 < len(runs) == lengths:
            points = list(zip(runs[clock], runs["linear"], strict=True))
            seconds, bound = seconds_to(points, other["linear"])
            logs.append(math.log2(other[clock] / seconds))
            reached.append(seconds)
            bounds.append(bound)
    by, not_by = bounds.count("by"), bounds.count("not by")
    return Speedup(estimate(logs), estimate(reached), by, not_by)

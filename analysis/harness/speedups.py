"""How many times faster one recipe has the accuracy of another."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
from scipy.special import bdtrc

from analysis.harness.stats import Estimate, estimate, p_value, seconds_to, seeds_needed
from analysis.harness.verdicts import LEVEL

INTERVAL = "95% interval, or range of seeds"  # heading of what Speedup.interval says
_SIGNS = {"at least": ">= ", "at most": "<= "}
_TURNED = {"": "", "at least": "at most", "at most": "at least"}


class Ratio(NamedTuple):
    """How many times faster one seed has the accuracy. bound: "" if that is known; "at least" if
    the shortest run has the accuracy already; "at most" if not even the longest run has it; "at
    least, at most" if a quotient of two such is open on both sides."""

    times: float
    bound: str

    def is_surely(self, factor: float) -> int:
        """Return 1 if it is more than `factor`, -1 if less, 0 if the bound leaves both open."""
        if self.times > factor and "at most" not in self.bound:
            return 1
        return -1 if self.times < factor and "at least" not in self.bound else 0


class Speedup(NamedTuple):
    """Ratios of seconds by seed, some of which may be bounds, and the mean seconds."""

    ratios: tuple[Ratio, ...] = ()
    seconds: Estimate | None = None  # in which the faster one has the accuracy

    @property
    def n(self) -> int:
        return len(self.ratios)

    @property
    def bounds(self) -> set[str]:
        return {bound for ratio in self.ratios for bound in ratio.bound.split(", ")} - {""}

    @property
    def log2_ratio(self) -> Estimate | None:
        """The mean of logarithms; with infinite ends if one of them is a bound, as values that are
        cut off vary less than those behind them, and Student's interval would be too short."""
        mean = estimate([math.log2(ratio.times) for ratio in self.ratios])
        return mean._replace(half=math.inf) if mean and self.bounds else mean

    @property
    def mean(self) -> str:
        """How many times faster by the geometric mean, with its bound; nothing if it is not known:
        with bounds on both sides the mean is anything."""
        middle = self.log2_ratio
        if middle is None or len(self.bounds) > 1:
            return ""
        return f"{_SIGNS.get(''.join(self.bounds), '')}{2**middle.mean:.2f}"

    @property
    def mean_seconds(self) -> str:
        """The mean seconds, with their bound: what is at least so much faster takes at most so
        long. Nothing if they are not known."""
        if self.seconds is None or len(self.bounds) > 1:
            return ""
        turned = "".join(_TURNED[bound] for bound in self.bounds)
        return f"{_SIGNS.get(turned, '')}{self.seconds.mean:.0f}"

    @property
    def interval(self) -> str:
        """The 95% interval; with bounds among the seeds the range of what is known of them, open
        where it has no end; nothing for one seed."""
        middle = self.log2_ratio
        if middle is None or middle.n < 2:
            return ""
        if not self.bounds:
            return f"{2**middle.low:.2f} to {2**middle.high:.2f}"
        times = [ratio.times for ratio in self.ratios]
        ends = ["open below" if "at most" in self.bounds else f"{min(times):.2f} (lowest seed)"]
        ends += ["open above" if "at least" in self.bounds else f"{max(times):.2f} (highest seed)"]
        return " to ".join(ends)

    @property
    def note(self) -> str:
        """Which seeds are bounds, and why, in words."""
        counts = {bound: sum(bound in r.bound for r in self.ratios) for bound in self.bounds}
        why = {
            "at least": "the shortest run has the accuracy already: at least so much faster",
            "at most": "the longest run does not have the accuracy: at most so much faster",
        }
        return "; ".join(
            f"in {counts[bound]} of {self.n} seeds {said}"
            for bound, said in why.items()
            if bound in counts
        )

    def p(self, factor: float) -> float:
        """Return the two-sided p that it is `factor` times faster: of Student's t on logarithms; if
        a seed is a bound, of the sign test, where a bound that leaves it open counts against."""
        mean = self.log2_ratio
        if mean is None:
            return 1.0
        if not self.bounds:
            return p_value(mean, math.log2(factor))
        return self._sign_p(factor, self.n)

    def seeds_needed(self, factor: float) -> int | None:
        """Return how many seeds in all would answer it if mean and deviation stayed, None for too
        many; if a seed is a bound, over how many a sign test could answer at the soonest: if all
        further ones were on the side of most."""
        mean, n = self.log2_ratio, self.n
        if mean is None or not self.bounds:
            return mean and seeds_needed(mean, math.log2(factor), LEVEL)
        while self._sign_p(factor, n) > LEVEL:
            n += 1
        return n

    def _sign_p(self, factor: float, n: int) -> float:
        """Return the two-sided p of the sign test over `n` seeds, those measured and further ones
        on the side of most; a bound that leaves it open counts against."""
        sides = [ratio.is_surely(factor) for ratio in self.ratios]
        most = max(sides.count(1), sides.count(-1)) + n - self.n
        return float(min(1.0, 2 * bdtrc(most - 1, n, 0.5))) if most else 1.0

    def outcome(self, factor: float) -> str:
        """Return yes, no, open or missing: whether it is more than `factor` times faster."""
        if self.log2_ratio is None:
            return "missing"
        if self.p(factor) > LEVEL:
            return "open"
        signs = [ratio.is_surely(factor) for ratio in self.ratios]
        above = sum(signs) > 0 if self.bounds else self.log2_ratio.mean > math.log2(factor)
        return "yes" if above else "no"


def divided(whole: Speedup, part: Speedup) -> Speedup:
    """Return what is left of `whole` once it is divided by `part`, seed by seed; the seconds are
    those of `whole`. What is divided by at most so much is at least so much."""
    ratios = tuple(
        Ratio(a.times / b.times, ", ".join(sorted({a.bound, _TURNED[b.bound]} - {""})))
        for a, b in zip(whole.ratios, part.ratios, strict=True)
    )
    return Speedup(ratios, whole.seconds)


def speedup(
    own: pd.DataFrame, target: pd.DataFrame, *, lengths: int, clock: str = "seconds"
) -> Speedup:
    """Return how many times faster the runs `own`, of one recipe at several lengths, have the
    accuracy of each run of `target`; paired by seed.

    Seeds count that have runs of all `lengths`. Seconds are interpolated between the runs in order
    of their encoded views, linearly in their logarithm. clock: the column of the seconds.
    """
    ratios, reached = [], []
    bound_of = {"at": "", "by": "at least", "not by": "at most"}
    for _, other in target.iterrows():
        runs = own[own["seed"] == other["seed"]].sort_values("encoded_views")
        if 0 < len(runs) == lengths:
            points = list(zip(runs[clock], runs["linear"], strict=True))
            seconds, when = seconds_to(points, other["linear"])
            ratios.append(Ratio(float(other[clock] / seconds), bound_of[when]))
            reached.append(seconds)
    return Speedup(tuple(ratios), estimate(reached))

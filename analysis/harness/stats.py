"""From figures by seed to a mean with its interval; and accuracy between runs of several
lengths."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit


class Estimate(NamedTuple):
    """A mean over independent seeds, with Student's 95% interval mean +- half."""

    mean: float
    std: float  # of the seeds (n - 1); nan for one
    half: float  # infinite for one seed
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def estimate(values: Iterable[float]) -> Estimate | None:
    """Return mean, standard deviation and interval; None for no values."""
    x = np.array(list(values), float)
    if len(x) == 0:
        return None
    if len(x) == 1:
        return Estimate(float(x[0]), math.nan, math.inf, 1)
    std = float(x.std(ddof=1))
    quantile = float(stdtrit(len(x) - 1, 0.975))  # of Student's t
    return Estimate(float(x.mean()), std, quantile * std / math.sqrt(len(x)), len(x))


def p_value(mean: Estimate, above: float) -> float:
    """Return the p of Student's t, two-sided, that the mean is `above`; 1 for one seed."""
    if mean.n < 2:
        return 1.0
    away, error = abs(mean.mean - above), mean.std / math.sqrt(mean.n)
    return float(2 * stdtr(mean.n - 1, -away / error)) if error else float(away == 0)


def seeds_needed(mean: Estimate, above: float, level: float, most: int = 1000) -> int | None:
    """Return how many seeds in all would leave Student's p that the mean is `above` at `level` or
    below, if mean and deviation stay what they are; None if more than `most`, and for one seed."""
    if mean.n < 2 or p_value(mean._replace(n=most), above) > level:
        return None
    counts = range(2, most + 1)  # over which p falls
    first = bisect.bisect_left(
        counts, True, key=lambda n: p_value(mean._replace(n=n), above) <= level
    )
    return counts[first]


def holm(p: np.ndarray) -> np.ndarray:
    """Return p [..., parts] corrected for the number of parts, by Holm (Scand. J. Stat. 6, 1979).

    The smallest is multiplied by the number of parts, the next by one less, and so on; none is
    less than one before it. If all that are at most 5% are believed, a false one is among them in
    at most 5% of cases, whatever the parts have to do with each other.
    """
    order = np.argsort(p, axis=-1, kind="stable")
    factors = np.arange(p.shape[-1], 0, -1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1)
    corrected = np.empty_like(steps)
    np.put_along_axis(corrected, order, np.minimum(steps, 1.0), -1)
    return corrected


def at_seconds(points: Sequence[tuple[float, float]], seconds: float) -> tuple[float, str]:
    """Return the accuracy at `seconds` between runs (seconds, accuracy), the shortest run first,
    linear in log seconds, and "at"; of the shortest run and "before" it, of the longest and "after"
    it."""
    points = _in_time(points)
    if seconds < points[0][0]:
        return points[0][1], "before"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= seconds <= x1:
            share = math.log(seconds / x0) / math.log(x1 / x0) if x1 > x0 else 0.0
            return y0 + share * (y1 - y0), "at"
    return points[-1][1], "at" if seconds == points[-1][0] else "after"


def seconds_to(points: Sequence[tuple[float, float]], accuracy: float) -> tuple[float, str]:
    """Return the seconds at which runs (seconds, accuracy), the shortest run first, reach
    `accuracy`, linear in log seconds between them, and "at"; the shortest run's and "by" if that
    has it already; the longest run's and "not by" if none has it."""
    points = _in_time(points)
    if points[0][1] >= accuracy:
        return points[0][0], "at" if points[0][1] == accuracy else "by"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 >= accuracy:
            return x0 * (x1 / x0) ** ((accuracy - y0) / (y1 - y0)), "at"
    return points[-1][0], "not by"


def _in_time(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return runs of growing length with seconds that do not fall. Beside other work a longer run
    may have taken less time than a shorter one; in order of seconds the shorter would drop out, and
    what lies between them be taken from runs further apart."""
    seconds = itertools.accumulate((x for x, _ in points), max)
    return [(x, y) for x, (_, y) in zip(seconds, points, strict=True)]


def interval(estimated: Estimate | None, form: str = "{:.1f}") -> str:
    """Return "low to high", or nothing if there is no interval."""
    if estimated is None or estimated.n < 2:
        return ""
    return f"{form.format(estimated.low)} to {form.format(estimated.high)}"


def mean_std(values: Iterable[float], form: str = "{:.1f}") -> str:
    """Return "mean +- standard deviation", without the latter for one value; nothing for none."""
    estimated = estimate(values)
    if estimated is None:
        return ""
    spread = "" if estimated.n == 1 else f" +- {form.format(estimated.std)}"
    return form.format(estimated.mean) + spread

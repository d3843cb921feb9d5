"""From figures by seed to intervals, from intervals to answers, from answers to a verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import experiments


class Estimate(NamedTuple):
    """Of a mean over independent seeds."""

    mean: float
    std: float  # of the seeds; nan for one
    half: float  # of the 95% interval mean +- half; infinite for one seed
    n: int


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean, standard deviation (n - 1) and the half-width of Student's 95% interval; None for no values."""
    from scipy.stats import t

    x = list(values)
    if not x:
        return None
    mean = sum(x) / len(x)
    if len(x) == 1:
        return Estimate(mean, math.nan, math.inf, 1)
    std = math.sqrt(sum((v - mean) ** 2 for v in x) / (len(x) - 1))
    return Estimate(mean, std, float(t.ppf(0.975, len(x) - 1)) * std / math.sqrt(len(x)), len(x))


def difference(a: dict[int, float], b: dict[int, float]) -> Estimate | None:
    """Of a - b, paired by seed."""
    return estimate(a[seed] - b[seed] for seed in a if seed in b)


def at_seconds(points: Sequence[tuple[float, float]], seconds: float) -> tuple[float, bool]:
    """Accuracy at `seconds` between runs (seconds, accuracy), linear in log seconds, and True; outside of them that of
    the nearest run, and False."""
    points = sorted(points)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= seconds <= x1:
            share = math.log(seconds / x0) / math.log(x1 / x0) if x1 > x0 else 0.0
            return y0 + share * (y1 - y0), True
    nearest = points[0] if seconds < points[0][0] else points[-1]
    return nearest[1], nearest[0] == seconds


def seconds_to(points: Sequence[tuple[float, float]], accuracy: float) -> tuple[float, str]:
    """Seconds at which runs (seconds, accuracy) first reach `accuracy`, linear in log seconds between them, and "at";
    the shortest run's and "by" where that has it already; the longest run's and "not by" where none has it."""
    points = sorted(points)
    if points[0][1] >= accuracy:
        return points[0][0], "at" if points[0][1] == accuracy else "by"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 >= accuracy:
            return x0 * (x1 / x0) ** ((accuracy - y0) / (y1 - y0)), "at"
    return points[-1][0], "not by"


class Question(NamedTuple):
    """A difference that the claim says something about."""

    text: str
    found: Estimate | None  # points of accuracy
    margin: float  # 0: better at all; else no more than this worse
    note: str = ""
    short: str = ""  # for a picture

    @property
    def answer(self) -> str:
        """yes or no where the whole 95% interval lies on one side of -margin; else open."""
        if self.found is None:
            return "open"
        low, high = self.found.mean - self.found.half, self.found.mean + self.found.half
        return "yes" if low > -self.margin else "no" if high < -self.margin else "open"


def verdict(answers: Sequence[str]) -> str:
    """holds: all are yes; holds in part: some are; does not hold: none is, and one at least is no; else not decided."""
    if answers and set(answers) == {"yes"}:
        return "holds"
    if "yes" in answers:
        return "holds in part"
    return "does not hold" if "no" in answers else "not decided"


def questions_table(questions: Sequence[Question]) -> str:
    """Markdown."""
    return experiments.markdown(
        [
            {
                "question": q.text,
                "difference (points)": "" if q.found is None else f"{q.found.mean:+.1f}",
                "95% interval": interval(q.found, "{:+.1f}"),
                "seeds": q.found.n if q.found else 0,
                "answer": q.answer,
                "note": q.note,
            }
            for q in questions
        ]
    )


def interval(found: Estimate | None, form: str = "{:.1f}") -> str:
    """ "low to high", or nothing where there is none."""
    if found is None or found.n < 2:
        return ""
    return f"{form.format(found.mean - found.half)} to {form.format(found.mean + found.half)}"


def mean_std(values: Iterable[float], form: str = "{:.1f}") -> str:
    """ "mean +- standard deviation", without the latter for one value, or nothing."""
    found = estimate(values)
    if found is None:
        return ""
    return form.format(found.mean) + ("" if found.n == 1 else f" +- {form.format(found.std)}")

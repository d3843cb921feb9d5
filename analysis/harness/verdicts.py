"""Verdicts on the claims, by written rules (claim_rules.py, support_rules.py) from the CSVs of analysis/results.

A claim is judged in parts. A part that compares runs takes the differences between runs of one seed: it is `yes` where
the 95% interval of their mean (Student's, over seeds) lies wholly above what the rule asks, `no` where it lies wholly
below, else `open`; one seed has no interval. A part whose results are not there is not measured. The claim holds where
all parts are `yes`; it holds in part where some are; it does not hold where none is and some are `no`; else it is not
decided, or not measured yet. Accuracies are linear probes on the validation split, differences in points of percent.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from intervals import estimate

from effssl import InputError

HOLDS, IN_PART, DOES_NOT = "holds", "holds in part", "does not hold"
NOT_DECIDED, NOT_MEASURED = "not decided", "not measured yet"

Rows = list[dict[str, Any]]


class Missing(Exception):
    """Results that are not there, or lack a column; the message is one line."""


class Part(NamedTuple):
    says: str
    outcome: str  # yes, no, open or missing
    seen: str


class Verdict(NamedTuple):
    verdict: str
    parts: list[Part]


Judge = Callable[[Path], list[Part]]


def decide(results: Path, judges: Iterable[Judge]) -> Verdict:
    """The verdict on the parts that `judges` find in the folder `results`."""
    parts: list[Part] = []
    for judge in judges:
        try:
            parts += judge(results)
        except Missing as reason:
            parts.append(Part(title(judge), "missing", str(reason)))
    outcomes = {part.outcome for part in parts}
    if outcomes <= {"missing"}:
        return Verdict(NOT_MEASURED, parts)
    if "yes" in outcomes:
        return Verdict(HOLDS if outcomes == {"yes"} else IN_PART, parts)
    return Verdict(DOES_NOT if "no" in outcomes else NOT_DECIDED, parts)


def title(judge: Judge) -> str:
    """The first words of its rule."""
    return re.split(r"[.:] ", " ".join((judge.__doc__ or "").split()))[0]


def read(results: Path, name: str, numbers: Sequence[str], texts: Sequence[str] = ()) -> Rows:
    """The rows of results/name that have all of `numbers`, as floats, and `texts`. Raises Missing where the file is
    not there, lacks a column, or has no such row."""
    file = results / name
    if not file.is_file():
        raise Missing(f"{name} is not there")
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        found = list(reader)
    lacking = [column for column in (*numbers, *texts) if column not in (reader.fieldnames or [])]
    if lacking:
        raise Missing(f"{name} has no column {', '.join(lacking)}")
    values = [{key: _number(row[key]) for key in numbers} | {key: row[key] for key in texts} for row in found]
    rows = [row for row in values if all(row[key] is not None for key in (*numbers, *texts))]
    if not rows:
        raise Missing(f"{name} has no row with {', '.join(numbers)}")
    return rows


def read_json(file: Path) -> Any:
    """Raises InputError for a damaged file."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def groups(rows: Rows, *keys: str) -> dict[tuple, Rows]:
    """Rows by their values of `keys`."""
    found: dict[tuple, Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def only(rows: Rows, **wanted: Any) -> Rows:
    """Those rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def mean_of(rows: Rows, key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


def differences(ours: Rows, others: Rows, key: str, factor: float = 1.0) -> list[float]:
    """Of every seed that both have: the mean of ours less that of the others."""
    return [factor * (a - b) for a, b in pairs(ours, others, key)]


def pairs(ours: Rows, others: Rows, key: str) -> list[tuple[float, float]]:
    a, b = (_by_seed(rows, key) for rows in (ours, others))
    return [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]


def _by_seed(rows: Rows, key: str) -> dict[float, float]:
    found: dict[float, list[float]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(row[key])
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95% interval of it; infinite for one value."""
    found = estimate(values)
    assert found is not None
    return found.mean, found.mean - found.half, found.mean + found.half


def answer(values: Sequence[float], above: float) -> str:
    """yes, no or open: whether the interval of the mean lies above `above`, below it, or about it."""
    _, low, high = interval(values)
    return "yes" if low > above else "no" if high < above else "open"


def over_seeds(says: str, values: Sequence[float], above: float = 0.0, unit: str = "points") -> Part:
    """A part that asks for a mean above `above`, judged by the 95% interval over seeds."""
    if not values:
        return Part(says, "missing", "no seed has both")
    mean, low, high = interval(values)
    form = "+.2f" if unit == "points" else "+.3g"
    spread = f"95% interval {low:{form}} to {high:{form}}, {len(values)} seeds"
    seen = f"{mean:{form}} {unit}".strip()
    return Part(says, answer(values, above), f"{seen}, {spread if len(values) > 1 else 'one seed: no interval'}")


def plainly(says: str, holds: bool, seen: str) -> Part:
    """A part without an interval, that is so or not."""
    return Part(says, "yes" if holds else "no", seen)

"""Verdicts on the claims, by written rules, from the rows of a study's table.

This is the only judge: the summaries of the commands and the report page both call it. The rules
stand in claim_rules.py and support_rules.py.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.harness.stats import Estimate, estimate, interval
from analysis.harness.tables import Missing, markdown, read_csv

HOLDS, IN_PART, DOES_NOT = "holds", "holds in part", "does not hold"
NOT_DECIDED, NOT_MEASURED = "not decided", "not measured yet"
OUTCOMES = {
    "yes": "yes",
    "no": "no",
    "open": "open",
    "missing": "not measured",
}  # as they are shown
GENERAL_RULE = (
    "A claim is judged in parts. A part that compares runs takes the differences between runs "
    "of one seed: it is `yes` if the 95% interval of their mean (Student's, over seeds) lies "
    "wholly above what the rule asks, `no` if it lies wholly below, else `open`; one seed has "
    "no interval. A part whose results are not there is not measured. The claim holds if all "
    "parts are `yes`; it holds in part if some are; it does not hold if none is and some are "
    "`no`; else it is not decided, or not measured yet. Accuracies are linear probes on the "
    "validation split, differences in points of percent."
)


class Part(NamedTuple):
    """One part of a claim, answered."""

    says: str
    outcome: str  # yes, no, open or missing
    seen: str
    mean: Estimate | None = None  # of what is compared, over seeds; None if that is no mean
    unit: str = "points"
    note: str = ""
    label: str = ""  # `says` in a few words, for a picture


class Verdict(NamedTuple):
    verdict: str
    parts: list[Part]


Judge = Callable[[pd.DataFrame], list[Part]]


class Rule(NamedTuple):
    """What a rule reads from the folder of all results, and how it judges that: the docstring of
    `judge` is the rule in words."""

    read: Callable[[Path], pd.DataFrame]
    judge: Judge


def table_rule(judge: Judge, name: str, numbers: Sequence[str], texts: Sequence[str] = ()) -> Rule:
    """Return the rule that judges these columns of the CSV file `name`."""
    return Rule(functools.partial(read_csv, name=name, numbers=numbers, texts=texts), judge)


def decide(results: Path, rules: Iterable[Rule]) -> Verdict:
    """Return the verdict on the parts that the rules find in the folder `results`."""
    parts: list[Part] = []
    for rule in rules:
        try:
            rows = rule.read(results)
        except Missing as reason:
            parts.append(Part(title(rule.judge), "missing", str(reason)))
        else:
            parts += judge(rule.judge, rows).parts
    return Verdict(verdict_of(parts), parts)


def judge(rule: Judge, rows: pd.DataFrame) -> Verdict:
    """Return the verdict of one rule on the rows of its table."""
    try:
        parts = rule(rows)
    except Missing as reason:
        parts = [Part(title(rule), "missing", str(reason))]
    return Verdict(verdict_of(parts), parts)


def verdict_of(parts: Iterable[Part]) -> str:
    """Return what the parts of a claim make of it, as GENERAL_RULE says."""
    outcomes = {part.outcome for part in parts}
    if outcomes <= {"missing"}:
        return NOT_MEASURED
    if "yes" in outcomes:
        return HOLDS if outcomes == {"yes"} else IN_PART
    return DOES_NOT if "no" in outcomes else NOT_DECIDED


def words(rule: Judge) -> str:
    """Return the rule in words, on one line."""
    return " ".join((rule.__doc__ or "").split())


def title(rule: Judge) -> str:
    """Return the first words of a rule."""
    return re.split(r"[.:] ", words(rule))[0]


def only(rows: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Return the rows that have these values."""
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows


def groups(rows: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield the rows by their values of `columns`, in the order in which these come first."""
    yield from rows.groupby(list(columns), sort=False)  # type: ignore[misc]


def pairs(ours: pd.DataFrame, others: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one row for each seed that both have: the means of `ours` and of `others`."""
    means = {
        name: rows.groupby("seed")[column].mean()
        for name, rows in (("ours", ours), ("others", others))
    }
    return pd.DataFrame(means).dropna()


def differences(
    ours: pd.DataFrame, others: pd.DataFrame, column: str, factor: float = 1.0
) -> pd.Series:
    """Return ours less the others', times `factor`, for each seed that both have."""
    both = pairs(ours, others, column)
    return factor * (both["ours"] - both["others"])


def answer(mean: Estimate, above: float) -> str:
    """Return yes, no or open: the interval lies above `above`, below it, or about it."""
    return "yes" if mean.low > above else "no" if mean.high < above else "open"


def over_seeds(
    says: str, values: Iterable[float], above: float = 0.0, unit: str = "points", note: str = "",
    label: str = "",
) -> Part:  # fmt: skip
    """Return a part that asks for a mean above `above`, judged by its 95% interval over seeds."""
    mean = estimate(values)
    if mean is None:
        return Part(says, "missing", "no seed has both", None, unit, note, label)
    form = "+.2f" if unit == "points" else "+.3g"
    seen = f"{mean.mean:{form}} {unit}".strip()
    seen += f", {spread(mean, form)}"
    return Part(says, answer(mean, above), seen, mean, unit, note, label)


def spread(mean: Estimate, form: str) -> str:
    """Return the interval and the number of seeds, in words."""
    if math.isinf(mean.half):
        return "one seed: no interval"
    return f"95% interval {mean.low:{form}} to {mean.high:{form}}, {mean.n} seeds"


def plainly(says: str, holds: bool, seen: str) -> Part:
    """Return a part without an interval, which is so or not."""
    return Part(says, "yes" if holds else "no", seen)


def parts_table(parts: Iterable[Part]) -> str:
    """Return parts that were judged over seeds as a Markdown table."""
    rows = []
    for part in parts:
        form, unit = ("{:+.1f}", "") if part.unit == "points" else ("{:+.2f}", f" {part.unit}")
        rows.append(
            {
                "question": part.says,
                "difference (points)": ""
                if part.mean is None
                else form.format(part.mean.mean) + unit,
                "95% interval": interval(part.mean, form),
                "seeds": part.mean.n if part.mean else 0,
                "answer": OUTCOMES[part.outcome],
                "note": part.note,
            }
        )
    return markdown(rows)

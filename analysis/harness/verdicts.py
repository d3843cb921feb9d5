"""Verdicts on the claims, by written rules, from the rows of a study's table.

This is the only judge: the summaries of the commands and the report page both call it. The rules
stand in claim_rules.py and support_rules.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.harness.rules import Rule, title
from analysis.harness.stats import Estimate, estimate, holm, interval, p_value, seeds_needed
from analysis.harness.tables import Missing, markdown

HOLDS, IN_PART, DOES_NOT = "holds", "holds in part", "does not hold"
NOT_DECIDED, NOT_DECIDED_HERE = "not decided", "not decided here"
NOT_MEASURED = "not measured yet"
LEVEL = 0.05  # of a claim with all its parts
OUTCOMES = {
    "yes": "yes",
    "no": "no",
    "open": "open",
    "idle": NOT_DECIDED_HERE,
    "missing": "not measured",
}  # as they are shown
GENERAL_RULE = (
    "A claim is judged in parts, and is all of them. A part that compares runs takes the "
    "differences between runs of one seed. Its p is that of Student's t over seeds, two-sided, "
    "corrected by Holm for the number of the claim's parts, those included that are not measured: "
    "with corrected p of at most 5% the part is `yes` if the mean lies above what the rule asks, "
    "`no` if below; else it is `open`. So a claim without any truth in it gets one `yes` or `no` "
    "or more by chance in at most 5% of cases. Intervals are of 95% for a part by itself, so that "
    "a part may be `open` whose interval lies on one side; one seed has neither. A part whose "
    "control passes it too is not decided here. A part that is no mean over seeds is `yes` or "
    "`no` as it was seen. A claim does not hold if any part is `no`, whatever the others are; it "
    "holds if all are `yes`, and in part if some are; else it is not decided, not decided here if "
    "no part is open, or not measured yet. Beside an open part stands how many seeds would answer "
    "it if mean and deviation stayed, by the strictest of Holm's steps. Accuracies are linear "
    "probes on the validation split, differences in points of percent."
)


class Part(NamedTuple):
    """One part of a claim, answered. `p` is of the part by itself, `corrected` for all parts of the
    claim; both are None if it is no mean over seeds."""

    says: str
    outcome: str  # yes, no, open, idle or missing
    seen: str
    mean: Estimate | None = None  # of what is compared, over seeds; None if that is no mean
    unit: str = "points"
    note: str = ""
    label: str = ""  # `says` in a few words, for a picture
    p: float | None = None
    corrected: float | None = None
    above: float = 0.0  # what the mean is asked to lie above
    needed: int | None = None  # seeds in all that would answer an open part


class Verdict(NamedTuple):
    verdict: str
    parts: list[Part]


def decide(results: Path, rules: Iterable[Rule]) -> Verdict:
    """Return the verdict on the parts that the rules find in the folder `results`."""
    parts: list[Part] = []
    for rule in rules:
        try:
            rows = rule.read(results)
        except Missing as reason:
            parts.append(_missing(rule.judge, reason))
        else:
            parts += _parts(rule.judge, rows)
    return _verdict(parts)


def judge(rule: Callable[[pd.DataFrame], list[Part]], rows: pd.DataFrame) -> Verdict:
    """Return the verdict of one rule on the rows of its table."""
    return _verdict(_parts(rule, rows))


def _parts(rule: Callable[[pd.DataFrame], list[Part]], rows: pd.DataFrame) -> list[Part]:
    try:
        return rule(rows)
    except Missing as reason:
        return [_missing(rule, reason)]


def _missing(rule: Callable, reason: Missing) -> Part:
    return Part(title(rule), "missing", str(reason), p=1.0)


def _verdict(parts: list[Part]) -> Verdict:
    answered = corrected(parts)
    return Verdict(verdict_of(answered), answered)


def corrected(parts: list[Part]) -> list[Part]:
    """Return the parts of one claim with p corrected by Holm; open are those that this leaves above
    5%, with the number of seeds that would answer them."""
    tested = [part for part in parts if part.p is not None]
    by_holm = iter(holm(np.array([part.p for part in tested])).tolist())
    answered = []
    for part in parts:
        p = None if part.p is None else next(by_holm)
        doubted = p is not None and p > LEVEL and part.outcome in ("yes", "no")
        outcome = "open" if doubted else part.outcome
        needed = None
        if outcome == "open" and part.mean is not None:
            # By the strictest of Holm's steps, which the other parts may spare it.
            needed = seeds_needed(part.mean, part.above, LEVEL / len(tested))
        answered.append(part._replace(outcome=outcome, corrected=p, needed=needed))
    return answered


def verdict_of(parts: Iterable[Part]) -> str:
    """Return what the parts of a claim make of it, as GENERAL_RULE says."""
    outcomes = {part.outcome for part in parts}
    if "no" in outcomes:
        return DOES_NOT
    if "yes" in outcomes:
        return HOLDS if outcomes == {"yes"} else IN_PART
    if "open" in outcomes:
        return NOT_DECIDED
    return NOT_DECIDED_HERE if "idle" in outcomes else NOT_MEASURED


def counts(parts: Iterable[Part]) -> str:
    """Return how many parts have each answer, in words."""
    count = Counter(part.outcome for part in parts)
    return ", ".join(f"{count[o]} {shown}" for o, shown in OUTCOMES.items() if count[o])


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
    """Return yes or no, the mean lies above `above` or below it, at 5% for this part by itself;
    else open."""
    if p_value(mean, above) > LEVEL:
        return "open"
    return "yes" if mean.mean > above else "no"


def over_seeds(
    says: str, values: Iterable[float], above: float = 0.0, unit: str = "points", note: str = "",
    label: str = "",
) -> Part:  # fmt: skip
    """Return a part that asks for a mean above `above`, judged over seeds."""
    mean = estimate(values)
    if mean is None:
        return Part(says, "missing", "no seed has both", None, unit, note, label, p=1.0)
    form = "+.2f" if unit == "points" else "+.3g"
    seen = f"{mean.mean:{form}} {unit}".strip()
    seen += f", {spread(mean, form)}"
    p = p_value(mean, above)
    return Part(says, answer(mean, above), seen, mean, unit, note, label, p, above=above)


def spread(mean: Estimate, form: str) -> str:
    """Return the interval and the number of seeds, in words."""
    if math.isinf(mean.half):
        return "one seed: no interval"
    return f"95% interval {mean.low:{form}} to {mean.high:{form}}, {mean.n} seeds"


def shown_p(part: Part) -> str:
    """Return the corrected p; nothing for a part that has none, or of which nothing is measured."""
    if part.corrected is None or part.outcome in ("idle", "missing"):
        return ""
    return f"{part.corrected:.2g}" if part.corrected >= 0.001 else "< 0.001"


def notes(part: Part) -> str:
    """Return what is to be said beside a part's figures."""
    needed = f"about {part.needed} seeds would tell" if part.needed else ""
    return "; ".join(filter(None, (part.note, needed)))


def plainly(says: str, holds: bool, seen: str) -> Part:
    """Return a part without an interval, which is so or not."""
    return Part(says, "yes" if holds else "no", seen)


def parts_table(parts: Iterable[Part]) -> str:
    """Return parts that were judged over seeds as a Markdown table, with p corrected for these."""
    rows = []
    for part in corrected(list(parts)):
        form, unit = ("{:+.1f}", "") if part.unit == "points" else ("{:+.2f}", f" {part.unit}")
        rows.append(
            {
                "question": part.says,
                "difference (points)": ""
                if part.mean is None
                else form.format(part.mean.mean) + unit,
                "95% interval": interval(part.mean, form),
                "seeds": part.mean.n if part.mean else 0,
                "p (Holm)": shown_p(part),
                "answer": OUTCOMES[part.outcome],
                "note": notes(part),
            }
        )
    return markdown(rows)

"""The claims' tables in README.md and docs/: verdicts by the engine, figures of the summaries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import experiments
import verdicts
from report_sections import CLAIMS, SUPPORT

from effssl import InputError

_ANSWERS = {"yes": "yes", "no": "no", "open": "open", "missing": "not measured"}
Row = dict[str, str]


class Claim(NamedTuple):
    """A claim as the verdict engine judges it."""

    title: str
    verdict: str
    parts: list[tuple[str, str, str]]  # what is asked, the answer, what was seen


def judged(results: Path) -> tuple[list[Claim], list[Claim]]:
    """Return the paper's claims and what supports them. Nothing else here knows the verdict engine."""

    def judge(section: Any) -> Claim:
        verdict, parts = verdicts.decide(results, section.judges)
        return Claim(section.title, verdict, [(p.says, _ANSWERS[p.outcome], p.seen) for p in parts])

    return [judge(section) for section in CLAIMS], [judge(section) for section in SUPPORT]


def claims(results: Path) -> str:
    """Return the table of the four claims: verdict, deciding figures, seeds, hardware."""
    folders = {"projector": _width, "views": _views, "subset": _subset, "wallclock": _wallclock}
    rows = []
    for claim, (folder, figures) in zip(judged(results)[0], folders.items(), strict=True):
        summary = results / folder / "summary.md"
        made_on = origin(summary).partition(";")[0]
        asked = rows_of(tables(summary)[0])
        rows.append(
            {
                "claim": claim.title,
                "verdict": f"**{claim.verdict}**",
                "measured (95% interval)": figures(summary),
                "n": asked[0]["seeds"],
                "hardware": made_on,
            }
        )
    return experiments.markdown(rows)


def claim_parts(results: Path, number: int) -> str:
    """Return the verdict on the number-th claim and the table of its parts."""
    claim = judged(results)[0][number - 1]
    rows = [
        {"part": asked, "answer": answer, "measured": seen} for asked, answer, seen in claim.parts
    ]
    return f"Verdict: **{claim.verdict}**.\n\n{experiments.markdown(rows)}"


def support(results: Path) -> str:
    """Return the table of what supports the claims: verdicts, and how many parts have which answer."""
    rows = []
    for claim in judged(results)[1]:
        answers = [answer for _, answer, _ in claim.parts]
        counts = ", ".join(f"{answers.count(a)} {a}" for a in _ANSWERS.values() if a in answers)
        rows.append({"what": claim.title, "verdict": f"**{claim.verdict}**", "parts": counts})
    return experiments.markdown(rows)


def tables(path: Path) -> list[str]:
    """Return the tables of a Markdown file."""
    return re.findall(r"(?:^\|.*\n)+", path.read_text() + "\n", re.MULTILINE)


def origin(path: Path) -> str:
    """Return the line of a summary that names hardware, versions and command.

    Raises InputError if there is none.
    """
    lines = [
        line
        for line in path.read_text().splitlines()
        if "; torch " in line and not line.startswith("|")
    ]
    if not lines:
        raise InputError(f"{path} has no line that says where it was measured")
    return re.sub(r"^\d+ of \d+ runs finished; ", "", lines[0])


def _width(summary: Path) -> str:
    """Return the figures of claim 1."""
    asked, runs = (rows_of(table) for table in tables(summary))
    seconds = {
        row["d"]: row["seconds"].split()[0] for row in runs if row["weight"] == "the rule's weight"
    }
    return (
        f"d = 256 less d = 8192, each at its weight: {_difference(asked, 'd = 256 no more')}, "
        f"in {seconds['256']} s, not {seconds['8192']} s; d = 256 at its weight less at that of 8192: "
        f"{_difference(asked, 'd = 256: the rule')}"
    )


def _views(summary: Path) -> str:
    """Return the figures of claim 2."""
    asked = rows_of(tables(summary)[0])
    return (
        f"K = 8 less K = 2, after one epoch: {_difference(asked, 'K = 8 better than K = 2 at equal epochs')}; "
        f"after as many encoded views: {_difference(asked, 'K = 8 better than K = 2 at equal encoded')}"
    )


def _subset(summary: Path) -> str:
    """Return the figures of claim 3."""
    asked, runs = (rows_of(table) for table in tables(summary))
    two = {row["images"]: row["linear (%)"].split()[0] for row in runs if row["K"] == "2"}
    return (
        f"K = 4 on half the images less K = 2 on all: {_difference(asked, 'K = 4 on 50% no more')}; "
        f"less K = 2 on that half: {_difference(asked, 'K = 4 on 50% better')}; "
        f"K = 8 on a quarter less K = 2 on all: {_difference(asked, 'K = 8 on 25% no more')}; "
        f"but K = 2 has {two['25%']}% on a quarter and {two['100%']}% on all"
    )


def _wallclock(summary: Path) -> str:
    """Return the figures of claim 4."""
    asked = rows_of(tables(summary)[0])
    to_wide, to_narrow = (
        _ratio(asked, f"K = 4, d = 256, to the accuracy of {other}")
        for other in ("baseline", "K = 2")
    )
    return (
        f"K = 4, d = 256 reaches what K = 2, d = 8192 reaches: {to_wide}; "
        f"what K = 2, d = 256 reaches: {to_narrow}"
    )


def _ratio(asked: list[Row], begins: str) -> str:
    row = _row(asked, "recipe", begins)
    low, high = (f"{float(bound):.1f}" for bound in row["95% interval"].split(" to "))
    bound, _, number = row["times faster"].rpartition(" ")
    return f"{bound} {float(number):.1f} times sooner ({low} to {high}){_if_open(row['at least 2'])}".strip()


def _difference(asked: Sequence[Row], begins: str) -> str:
    row = _row(asked, "question", begins)
    return f"{row['difference (points)']} ({row['95% interval']}){_if_open(row['answer'])}"


def _if_open(answer: str) -> str:
    return "" if answer == "yes" else f", {answer}"


def _row(rows: Sequence[Row], column: str, begins: str) -> Row:
    """Return the one row whose cell in `column` begins so."""
    (row,) = [row for row in rows if row[column].startswith(begins)]
    return row


def rows_of(table: str) -> list[Row]:
    """Return the rows of a Markdown table, cells by column."""
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    return [dict(zip(header, line, strict=True)) for line in lines]

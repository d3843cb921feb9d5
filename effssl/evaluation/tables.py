"""Evaluated rows as text: columns for people, all numbers for programs."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MISSING = "-"

Numbers = dict[str, float]  # of a row, by name, as protocols.py gives them
Column = tuple[str, Callable[[Numbers], str]]  # its heading, and a row's cell


def accuracies(rows: dict[str, Numbers], averaged_views: int, few_labels: int) -> list[list[str]]:
    """Return a header and a line a row of accuracies in %; columns that no row has are left out.

    averaged_views: views that were averaged; few_labels: labels a class of the few-label probe;
    both are named in the header. A star marks what was chosen at an end of its grid.
    """
    names = {name for row in rows.values() for name in row if _is_fine_tuned(name)}
    tuned = sorted(names, key=lambda name: (float(name.split("/")[1]), name))
    columns: list[Column] = [
        ("linear", functools.partial(_with_interval, name="linear")),
        ("top-5", functools.partial(_percent, name="linear_top5")),
        (
            f"authors' {averaged_views} views",
            functools.partial(_with_interval, name="averaged/authors"),
        ),
        (f"{averaged_views} crops", functools.partial(_with_interval, name="averaged/crops")),
        ("kNN", functools.partial(_percent, name="knn")),
        (f"{few_labels} labels", _few_labels),
        *((_tuned_heading(name), functools.partial(_percent, name=name)) for name in tuned),
        ("adapted", functools.partial(_percent, name="adapted")),
        ("corrupted", functools.partial(_percent, name="corrupted")),
    ]
    return _cells(rows, columns)


def measures(rows: dict[str, Numbers]) -> list[list[str]]:
    """Return the same of the measures without labels."""
    headings = {
        "effective_rank": ("rank", ".1f"),
        "alpha": ("alpha", ".2f"),
        "lidar": ("LiDAR", ".1f"),
        "off_diagonal": ("off-diag", ".4f"),
        "alignment": ("align", ".3f"),
        "uniformity": ("unif", ".2f"),
    }
    columns: list[Column] = [
        (f"{heading} {letter}", functools.partial(_number, name=f"{letter}/{name}", form=form))
        for name, (heading, form) in headings.items()
        for letter in ("h", "z")
    ]
    return _cells(rows, columns)


def at_ends(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which choices fell on an end of their grid, a line each; all rows' numbers by name."""
    return [
        f"* {row}, {name.removesuffix('_at_end')}: chosen at an end of its grid; what lies beyond "
        "may be better"
        for row, numbers in rows.items()
        for name, count in numbers.items()
        if name.endswith("_at_end") and count
    ]


def as_text(table: list[list[str]]) -> str:
    """Pad columns to one width each."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def as_markdown(table: list[list[str]]) -> str:
    """Write a table as GitHub shows it."""
    header, *lines = [[cell.replace("|", "\\|") for cell in line] for line in table]
    ruled = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled) + "\n"


def as_csv(rows: dict[tuple[str, str], Numbers]) -> str:
    """Write every number of every row, which is known by (run, row); empty if a row has none."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "row", *names])
    writer.writerows(
        [[*label, *(row.get(name, "") for name in names)] for label, row in rows.items()]
    )
    return text.getvalue()


def _cells(rows: dict[str, Numbers], columns: Sequence[Column]) -> list[list[str]]:
    shown = [
        (heading, cell)
        for heading, cell in columns
        if any(cell(row) != MISSING for row in rows.values())
    ]
    lines = [[name, *(cell(row) for _, cell in shown)] for name, row in rows.items()]
    return [["", *(heading for heading, _ in shown)], *lines] if shown else []


def _is_fine_tuned(name: str) -> bool:
    """Say whether the name is that of an accuracy after fine-tuning, not of what comes with it."""
    kind, _, fraction = name.partition("/")
    return kind in ("fine_tuned", "fine_tuned_within") and "_" not in fraction


def _tuned_heading(name: str) -> str:
    """Name a column of fine-tuning by its part of the labels, and by where its rates come from."""
    kind, fraction = name.split("/")
    within = ", chosen within" if kind == "fine_tuned_within" else ""
    return f"tuned {100 * float(fraction):.4g}%{within}"


def _star(row: Numbers, name: str) -> str:
    return "*" if row.get(f"{name}_at_end") else ""


def _number(row: Numbers, name: str, form: str) -> str:
    return format(row[name], form) if name in row else MISSING


def _percent(row: Numbers, name: str) -> str:
    return f"{100 * row[name]:.1f}{_star(row, name)}" if name in row else MISSING


def _with_interval(row: Numbers, name: str) -> str:
    if name not in row:
        return MISSING
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    return f"{100 * row[name]:.1f} ({low:.1f} to {high:.1f}){_star(row, name)}"


def _few_labels(row: Numbers) -> str:
    if "few_labels" not in row:
        return MISSING
    spread = f"{100 * row['few_labels_std']:.1f}{_star(row, 'few_labels')}"
    return f"{100 * row['few_labels']:.1f} +- {spread}"

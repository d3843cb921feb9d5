"""Evaluated rows as text: columns for people, all numbers for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

Row = dict[str, float]  # numbers by name, as protocols.py gives them
MISSING = "-"


def cells(rows: dict[str, Row], averaged_views: int, few_labels: int) -> list[list[str]]:
    """A header and a line per row; columns that no row has are left out."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("linear", lambda row: _with_interval(row, "linear")),
        ("top-5", lambda row: _percent(row, "linear_top5")),
        (f"{averaged_views} views", lambda row: _with_interval(row, "averaged")),
        ("kNN", lambda row: _percent(row, "knn")),
        (f"{few_labels} labels", _few_labels),
        ("corrupted", lambda row: _percent(row, "corrupted")),
        # Fine-tuned, 1% and 10% of labels, alpha, LiDAR, alignment, uniformity, CKA: one line each.
        ("rank h", lambda row: _number(row, "h/effective_rank", ".1f")),
        ("rank z", lambda row: _number(row, "z/effective_rank", ".1f")),
        ("off-diag h", lambda row: _number(row, "h/off_diagonal", ".4f")),
        ("off-diag z", lambda row: _number(row, "z/off_diagonal", ".4f")),
    ]
    shown = [(name, text) for name, text in columns if any(text(row) != MISSING for row in rows.values())]
    lines = [[name, *(text(row) for _, text in shown)] for name, row in rows.items()]
    return [["", *(name for name, _ in shown)], *lines]


def as_text(table: list[list[str]]) -> str:
    """Columns padded to one width."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *rest in table:
        lines.append("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]))
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(table: list[list[str]]) -> str:
    """A table as GitHub shows it."""
    header, *lines = [[cell.replace("|", "\\|") for cell in line] for line in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]) + "\n"


def as_csv(rows: dict[tuple[str, str], Row]) -> str:
    """Every number of every row by (run, row); empty where a row has none."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["run", "row", *names])
    writer.writerows([[*label, *(row.get(name, "") for name in names)] for label, row in rows.items()])
    return written.getvalue()


def _number(row: Row, name: str, form: str) -> str:
    return format(row[name], form) if name in row else MISSING


def _percent(row: Row, name: str) -> str:
    return f"{100 * row[name]:.1f}" if name in row else MISSING


def _with_interval(row: Row, name: str) -> str:
    if name not in row:
        return MISSING
    return f"{100 * row[name]:.1f} ({100 * row[f'{name}_low']:.1f} to {100 * row[f'{name}_high']:.1f})"


def _few_labels(row: Row) -> str:
    return f"{100 * row['few_labels']:.1f} +- {100 * row['few_labels_std']:.1f}" if "few_labels" in row else MISSING

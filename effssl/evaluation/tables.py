"""Evaluated rows as text: columns for people, all numbers for programs."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence

Row = dict[str, float]  # numbers by name, as protocols.py gives them
MISSING = "-"


Column = tuple[str, Callable[[Row], str]]


def accuracies(rows: dict[str, Row], averaged_views: int, few_labels: int) -> list[list[str]]:
    """A header and a line per row; columns that no row has are left out."""
    fractions = sorted({float(name.split("/")[1]) for row in rows.values() for name in row if _is_fine_tuned(name)})
    columns: list[Column] = [
        ("linear", lambda row: _with_interval(row, "linear")),
        ("top-5", lambda row: _percent(row, "linear_top5")),
        (f"{averaged_views} views", lambda row: _with_interval(row, "averaged")),
        ("kNN", lambda row: _percent(row, "knn")),
        (f"{few_labels} labels", _few_labels),
        *((f"tuned {f:.4g}%", _fine_tuned(f / 100)) for f in (100 * fraction for fraction in fractions)),
        ("adapted", lambda row: _percent(row, "adapted")),
        ("corrupted", lambda row: _percent(row, "corrupted")),
    ]
    return _cells(rows, columns)


def measures(rows: dict[str, Row]) -> list[list[str]]:
    """The same of the measures without labels."""
    named = {"effective_rank": ("rank", ".1f"), "alpha": ("alpha", ".2f"), "lidar": ("LiDAR", ".1f")}
    named |= {"off_diagonal": ("off-diag", ".4f"), "alignment": ("align", ".3f"), "uniformity": ("unif", ".2f")}
    columns: list[Column] = [
        (f"{short} {of}", functools.partial(_number, name=f"{of}/{name}", form=form))
        for name, (short, form) in named.items()
        for of in ("h", "z")
    ]
    return _cells(rows, columns)


def _cells(rows: dict[str, Row], columns: Sequence[Column]) -> list[list[str]]:
    shown = [(name, text) for name, text in columns if any(text(row) != MISSING for row in rows.values())]
    lines = [[name, *(text(row) for _, text in shown)] for name, row in rows.items()]
    return [["", *(name for name, _ in shown)], *lines] if shown else []


def _is_fine_tuned(name: str) -> bool:
    return name.startswith("fine_tuned/") and "_" not in name.removeprefix("fine_tuned/")


def _fine_tuned(fraction: float) -> Callable[[Row], str]:
    return lambda row: _percent(row, f"fine_tuned/{fraction:g}")


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

"""Tables and other results: read from files, written to CSV, and shown as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from effssl import InputError
from effssl.evaluation.tables import as_markdown
from effssl.run.files import write_text


class Missing(Exception):
    """Results that are not there, or lack a column; the message is one line."""


def read_csv(
    results: Path,
    name: str,
    numbers: Sequence[str],
    texts: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the columns `numbers`, as floats, and `texts` of results/name, without the rows that
    lack one of the numbers. optional: further columns of numbers, which may be lacking. Raises
    Missing if the file is not there, lacks a column, or has no such row."""
    file = results / name
    if not file.is_file():
        raise Missing(f"{name} is not there")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise Missing(f"{name} is no table: {' '.join(str(error).split())}") from None
    columns = [*numbers, *texts]
    if lacking := [column for column in columns if column not in table]:
        raise Missing(f"{name} has no column {', '.join(lacking)}")
    there = [column for column in optional if column in table]
    table = table[columns + there].copy()
    for column in (*numbers, *there):
        table[column] = pd.to_numeric(table[column], errors="coerce").replace(
            [np.inf, -np.inf], np.nan
        )
    table = table.dropna(subset=columns).reset_index(drop=True)
    if table.empty:
        raise Missing(f"{name} has no row with {', '.join(numbers)}")
    return table


def read_json(file: Path) -> dict[str, Any]:
    """Return what a file of the results holds. Raises InputError for a damaged one."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from None


def write_csv(path: Path, rows: Sequence[dict[str, Any]] | pd.DataFrame) -> None:
    """Write rows of the same keys, the keys first; every value as Python writes it."""
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    write_text(path, table.to_csv(index=False, lineterminator="\n", na_rep="nan"))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of the same keys as a Markdown table; nothing for none."""
    if not rows:
        return ""
    return as_markdown([list(rows[0]), *([str(value) for value in row.values()] for row in rows)])

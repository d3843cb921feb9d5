"""What summary.md of a folder of results says: its tables, and where they were measured."""

from __future__ import annotations

import re
from pathlib import Path

from effssl import InputError


def tables_in(path: Path) -> list[str]:
    """Return the tables of a Markdown file, in order."""
    return re.findall(r"(?:^\|.*\n)+", path.read_text() + "\n", re.MULTILINE)


def origin_of(path: Path) -> str:
    """Return the line of a summary that names hardware, versions and command.

    Raises InputError if there is none.
    """
    lines = path.read_text().splitlines()
    origins = [line for line in lines if "; torch " in line and not line.startswith("|")]
    if not origins:
        raise InputError(f"{path} has no line that says where it was measured")
    return re.sub(r"^\d+ of \d+ runs finished; ", "", origins[0])

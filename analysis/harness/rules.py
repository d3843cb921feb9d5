"""What a rule is: the table that it reads, and a function whose docstring is the rule in words."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.harness.tables import read_csv

Judge = Callable[[pd.DataFrame], list[Any]]  # rows of a table -> parts of a claim, answered


class Rule(NamedTuple):
    """What a rule reads from the folder of all results, and how it judges that: the docstring of
    `judge` is the rule in words."""

    read: Callable[[Path], pd.DataFrame]
    judge: Judge


def table_rule(
    judge: Judge,
    name: str,
    numbers: Sequence[str],
    texts: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Rule:
    """Return the rule that judges these columns of the CSV file `name`, as read_csv takes them."""
    read = functools.partial(read_csv, name=name, numbers=numbers, texts=texts, optional=optional)
    return Rule(read, judge)


def words(rule: Judge) -> str:
    """Return the rule in words, on one line."""
    return " ".join((rule.__doc__ or "").split())


def title(rule: Judge) -> str:
    """Return the first words of a rule."""
    return re.split(r"[.:] ", words(rule))[0]

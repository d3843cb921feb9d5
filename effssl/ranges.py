"""Types of settings that say what values a setting may have; pydantic holds values to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

# For all classes of settings: a field that does not exist is an error, and the docstring below a
# field becomes its description, which `--help` prints.
SETTINGS = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """Return the pair. Raises ValueError if it is no range of positive numbers."""
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("must be two numbers, 0 < low <= high")
    return pair


def local_path(path: str | Path) -> Path:
    """Return a path with `~` and `~user` as these home folders, also where no shell saw it.

    Raises ValueError for a URL: it would become a folder of that name.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(path)):
        raise ValueError("must be a path on this machine, not a URL")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError("no home folder is known of that name") from None


def _apart(pair: tuple[float, float]) -> tuple[float, float]:
    """Return the pair. Raises ValueError if it is no range."""
    if not pair[0] < pair[1]:
        raise ValueError("must be two numbers, low < high")
    return pair


LocalPath = Annotated[Path, AfterValidator(local_path)]
AtLeast1 = Annotated[int, Field(ge=1)]
AtLeast8 = Annotated[int, Field(ge=8)]  # pixels
Finite = Annotated[float, Field(allow_inf_nan=False)]
GrayRange = Annotated[tuple[Finite, Finite], AfterValidator(_apart)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]
NotNegative = Annotated[float, Field(ge=0)]  # infinity is allowed, NaN is not
Part = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
RangeTo1 = Annotated[tuple[float, Annotated[float, Field(le=1)]], AfterValidator(_ascending)]
Weight = NotNegative | Literal["auto"]
PublishedWeight = NotNegative | Literal["auto", "authors"]
OptimizerName = Literal["adamw", "adam", "lars", "sgd"]
SetName = Literal["digits", "cifar10", "cifar100", "stl10", "imagenet", "imagenet100", "folder"]

"""Types of settings that say what values a setting may have; pydantic holds values to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

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


def named_file(text: str) -> str:
    """Return NAME=FILE, with FILE as `local_path` has it. Raises ValueError if it is not that."""
    name, equals, file = text.partition("=")
    if not (name and file):
        raise ValueError("must be NAME=FILE")
    return f"{name}{equals}{local_path(file)}"


def _start(text: str) -> str:
    """Return timm, NAME=FILE or a folder, its path as `local_path` has it."""
    if text == "timm":
        return text
    if is_named_file(text):
        return named_file(text)
    path = str(local_path(text))
    return f"./{path}" if is_named_file(path) else path


def _teacher(text: str) -> str:
    """Return NAME=FILE or a folder. Raises ValueError for timm, which would need a name."""
    if text == "timm":
        raise ValueError("must be NAME=FILE or a run's folder")
    return _start(text)


def is_named_file(text: str) -> bool:
    """Say whether a text is NAME=FILE and not a path that has an = in it: NAME has no slash."""
    return "=" in text and "/" not in text.partition("=")[0]


def absolute_start(start: str) -> str:
    """Return what training starts from with an absolute path."""
    name, equals, file = start.partition("=") if is_named_file(start) else ("", "", start)
    return start if start == "timm" else f"{name}{equals}{Path(file).resolve()}"


def _apart(pair: tuple[float, float]) -> tuple[float, float]:
    """Return the pair. Raises ValueError if it is no range."""
    if not pair[0] < pair[1]:
        raise ValueError("must be two numbers, low < high")
    return pair


def _or_auto(given: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return "auto" if given in ("auto", ["auto"]) else validate(given)


def height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of images; of squares the size is one number."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def size_text(image_size: int | tuple[int, int]) -> str:
    """Return a size as messages have it: `224`, or `96x160` for a height of 96."""
    return str(image_size) if isinstance(image_size, int) else "x".join(map(str, image_size))


def text_of_bytes(num_bytes: float) -> str:
    """Return bytes in GB, or in MB if they are less than a tenth of one."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def _two_sides(given: Any) -> Any:
    """Return one number, by itself or in a list, twice, and all else as it is."""
    sides = given if isinstance(given, list | tuple) else [given]
    return [*sides, *sides] if len(sides) == 1 else sides


def _one_if_square(sides: tuple[int, int]) -> int | tuple[int, int]:
    height, width = sides
    return height if height == width else sides


LocalPath = Annotated[Path, AfterValidator(local_path)]
NamedFile = Annotated[str, AfterValidator(named_file)]
StartFrom = Annotated[str, AfterValidator(_start)]  # timm, NAME=FILE, or a run's folder
TeacherFrom = Annotated[str, AfterValidator(_teacher)]  # the last two of these
AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
AtLeast8 = Annotated[int, Field(ge=8)]  # pixels
StoredSide = Annotated[int, Field(ge=8, le=65_500)]  # pixels, as many as a JPEG can have
MOST_CHANNELS = 512
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
AUTO = 0  # channels, where what the images have is to be found out
ChannelsOrAuto = Annotated[
    int,
    BeforeValidator(lambda given: AUTO if given == "auto" else given),
    Field(ge=0, le=MOST_CHANNELS),
]
# Pixels: the side of squares, or (height, width), which are never equal. Pydantic is given the pair
# alone: of a union it would say what each type wants.
ImageSize = Annotated[
    int | tuple[int, int],
    GetPydanticSchema(
        lambda _, handler: handler(
            Annotated[
                tuple[AtLeast8, AtLeast8],
                BeforeValidator(_two_sides),
                AfterValidator(_one_if_square),
            ]
        )
    ),
]
Epochs = Annotated[float, Field(ge=0, le=1e9)]  # that many steps are a number still
Finite = Annotated[float, Field(allow_inf_nan=False)]
GrayRange = Annotated[tuple[Finite, Finite], AfterValidator(_apart)]
# Pydantic is given the pair alone, as above.
MeasuredRange = Annotated[
    tuple[Finite, Finite] | Literal["auto"],
    GetPydanticSchema(
        lambda _, handler: handler(
            Annotated[tuple[Finite, Finite], AfterValidator(_apart), WrapValidator(_or_auto)]
        )
    ),
]
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
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Decay = Literal["cosine", "linear"]
OptimizerName = Literal["adamw", "adam", "muon", "lars", "sgd"]
Storing = Literal["auto", "lossless"]
LoaderName = Literal["auto", "ffcv", "threads"]
Normalizing = Literal["given", "auto"]
SetName = Literal[
    "digits", "cifar10", "cifar100", "stl10", "imagenet", "imagenet100", "folder", "list", "hf"
]

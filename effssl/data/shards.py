"""Images within Parquet or Arrow files, as Hugging Face datasets are kept; no image is unpacked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.fingerprints import digest
from effssl.data.folders import check_listed, names_in
from effssl.data.image_files import abridged, describe_labels
from effssl.data.list_files import number_labels, text_of
from effssl.data.shard_files import (
    KINDS,
    Row,
    Shard,
    class_names,
    column_of,
    columns_in,
    feature_of,
    forget,
    holds_bytes,
    holds_images,
    open_shard,
)

if TYPE_CHECKING:
    import pyarrow

_USUAL = ("image", "img")  # names of the column with the images
_LARGE_GIB = 1.0  # of a row group, which is read whole


class Columns(NamedTuple):
    """Which columns to read; None is for what is found."""

    image: str | None = None
    label: str | None = None


UNNAMED = Columns()


class Sharded(NamedTuple):
    """The images of one split of such files."""

    rows: list[Row]
    labels: np.ndarray  # int64 [images], -1 if unlabelled
    classes: list[str]
    fingerprint: str  # see sources.Source
    identity: str
    notes: list[str]  # sentences about what was found, and what is not read


def read_shards(
    data_dir: Path, split: str, columns: Columns = UNNAMED, *, labels: bool = True
) -> Sharded | None:
    """Find the images of a split, "train" or "test", in the shards below a folder, or in one file.

    A shard is of the split that a folder on the way to it spells, or else a word of its name
    (`train-00000-of-00002.parquet`); if none does, all are trained on. What is held out is test, or
    else val, or val too if no row of test has a label. columns: where the images and the labels
    are. labels: if they are to be known.

    Returns None if there is no such split. Raises InputError for files that cannot be read, columns
    that are not there or not clear, and classes in test alone.
    """
    shards = _shards(data_dir)
    image = _image_column(data_dir, shards, columns.image)
    label = _label_column(data_dir, shards[0].schema, columns.label) if labels else None
    held_out = _held_out(shards, label)
    train = [s for s in shards if s.split in ("train", None)]
    chosen = train if split == "train" else [s for s in shards if s.split == held_out]
    if not chosen:
        if split == "train":
            raise InputError(f"{data_dir}: no shard has the split train")
        return None
    rows = [row for shard in chosen for row in _rows(shard, image)]
    if not rows:
        raise InputError(f"{data_dir}: the shards of {split} have no rows")
    numbers, classes = np.full(len(rows), -1, np.int64), list[str]()
    if label is not None:
        of_train = _texts(train, label)
        of_rows = of_train if split == "train" else _texts(chosen, label)
        order = class_names(shards[0].schema, label)
        numbers, classes = number_labels(data_dir, of_train, of_rows, order)
    sizes = "\n".join(f"{s.name} {s.group_rows} {s.group_bytes}" for s in chosen)
    identity = digest(os.fsencode(f"{image}\n{sizes}") + numbers.tobytes())
    times = [s.path.stat().st_mtime_ns for s in chosen]
    notes = [f"{split}: {data_dir} has {describe_labels(numbers, classes)}"]
    if split == "train":
        notes += _about(shards, held_out)
    fingerprint = digest(f"{identity} {times}".encode())
    return Sharded(rows, numbers, classes, fingerprint, identity, notes)


def _shards(data_dir: Path) -> list[Shard]:
    """Open the footers of all shards, in the order of their paths' parts."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError("--data hf needs pyarrow: pip install -e '.[hf]'")
    if data_dir.is_file():
        files, root = [data_dir], data_dir.parent
    elif data_dir.is_dir():
        files, root = _below(data_dir), data_dir
    else:
        raise InputError(f"--data-dir {data_dir}: no such folder")
    kinds = sorted({file.suffix.lower() for file in files})
    if not kinds or not {*kinds} <= {*KINDS}:
        raise InputError(f"no {' or '.join(KINDS)} in {data_dir}; --data hf reads no other files")
    if len(kinds) > 1:
        raise InputError(
            f"{data_dir} has both {' and '.join(kinds)}, which may be the same images twice; "
            "--data-dir has to name the folder of one of them"
        )
    forget()
    shards = [open_shard(file, file.relative_to(root)) for file in files]
    spelled = [s for s in shards if s.split is not None]
    if spelled and len(spelled) < len(shards):
        without = [s.name for s in shards if s.split is None]
        raise InputError(f"{data_dir}: {abridged(without)}: of no split, where others are of one")
    return shards


def _below(folder: Path) -> list[Path]:
    found, unlisted, waiting = [], list[str](), [folder]
    while waiting:
        here = waiting.pop()
        for name, is_folder in names_in(here, unlisted):
            if is_folder:
                waiting.append(here / name)
            # cache-*.arrow is what the library keeps of its own computations.
            elif Path(name).suffix.lower() in KINDS and not name.startswith((".", "cache-")):
                found.append(here / name)
    check_listed(unlisted)
    return sorted(found)


def _rows(shard: Shard, column: str) -> list[Row]:
    places = [(g, at) for g, count in enumerate(shard.group_rows) for at in range(count)]
    return [
        Row(shard.path, column, group, at, f"{shard.name}/row {number}")
        for number, (group, at) in enumerate(places)
    ]


def _held_out(shards: Sequence[Shard], label: str | None) -> str:
    """Return which split is kept for the end: no figure could be given for a test without labels,
    as published sets often have it."""
    splits = {shard.split for shard in shards}
    test = [shard for shard in shards if shard.split == "test"]
    if test and "val" in splits and label is not None and not any(_texts(test, label)):
        return "val"
    return "test" if "test" in splits else "val"


def _about(shards: Sequence[Shard], held_out: str) -> list[str]:
    """Say what is not read, and what takes much memory."""
    other = "val" if held_out == "test" else "test"
    left = sum(sum(s.group_rows) for s in shards if s.split == other)
    notes = [f"not read: {left} images of {other}, as {held_out} is held out"] if left else []
    if shards[0].path.suffix.lower() == ".parquet":
        largest = max(max(s.group_bytes, default=0) for s in shards) / 2**30
        if largest > _LARGE_GIB:
            notes.append(
                f"a row group takes {largest:.1f} GiB, of which each process that stores images "
                "holds two; files written with smaller row groups take less"
            )
    return notes


def _image_column(data_dir: Path, shards: Sequence[Shard], wanted: str | None) -> str:
    """Return the column with the images, which all shards have to have."""
    schema = shards[0].schema
    found = [name for name in schema.names if holds_images(schema, name)]
    if wanted is None:
        likely = found if len(found) == 1 else [name for name in found if name in _USUAL]
        if len(likely) != 1:
            raise InputError(
                f"{data_dir}: which column has the images is not clear, of {columns_in(schema)}; "
                "--image-column says it"
            )
        wanted = likely[0]
    for shard in shards:
        if wanted not in shard.schema.names:
            raise InputError(_lacks(shard.path, wanted, shard.schema))
        if not holds_bytes(shard.schema.field(wanted).type):
            kind = shard.schema.field(wanted).type
            raise InputError(f"{shard.path}: column {wanted} has no encoded images but {kind}")
    return wanted


def _label_column(data_dir: Path, schema: pyarrow.Schema, wanted: str | None) -> str | None:
    """Return the column with the labels, or None if there is none."""
    if wanted is not None:
        if wanted not in schema.names:
            raise InputError(_lacks(data_dir, wanted, schema))
        return wanted
    if "label" in schema.names:
        return "label"
    found = [name for name in schema.names if feature_of(schema, name).get("_type") == "ClassLabel"]
    if len(found) > 1:
        raise InputError(
            f"{data_dir}: several columns have labels, {abridged(found)}; --label-column says "
            "which to take (--no-labels: none)"
        )
    return found[0] if found else None


def _texts(shards: Sequence[Shard], column: str) -> list[str]:
    """Return the labels of all rows as texts, "" for none."""
    texts: list[str] = []
    for shard in shards:
        if column not in shard.schema.names:
            raise InputError(_lacks(shard.path, column, shard.schema))
        names = class_names(shard.schema, column)
        values = column_of(shard.path, column)
        if names:
            values = [names[v] if v is not None and 0 <= v < len(names) else "" for v in values]
        texts += map(text_of, values)
    return texts


def _lacks(where: Path, column: str, schema: pyarrow.Schema) -> str:
    return f"{where} has no column {column}; it has {columns_in(schema)}"

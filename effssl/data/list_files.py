"""Images that a file lists: CSV, TSV or Parquet with a path, and perhaps a label and a split."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.image_files import abridged, describe_labels
from effssl.data.split_folders import SPELLINGS, split_of

COLUMNS = ("path", "label", "split")
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}

Columns = dict[str, list[str]]


class Listed(NamedTuple):
    """The images of one split that a file lists."""

    names: list[str]  # paths as the file has them
    paths: list[Path]
    labels: np.ndarray  # int64 [images], -1 if unlabelled
    classes: list[str]
    notes: list[str]  # sentences about what was found, and what is not read


def read_list(file: Path, split: str, *, labels: bool = True) -> Listed | None:
    """Read the images of a split: "train" or "test".

    Columns are known by the names in the first line: `path`, which is relative to the file's
    folder, `label`, any text, empty if there is none, and `split`, train, val or test by any of
    their spellings. Without `split` all are trained on. Rows of test are held out, or else those of
    val, or val too if no row of test has a label. Classes are in order, of numbers if all are.
    labels: if they are to be known.

    Returns None if no image has that split. Raises InputError for a file that cannot be read, has
    no paths, splits of other names, or classes in test alone, and for images that are not there.
    """
    columns = _read(file)
    if not labels:
        columns.pop("label", None)
    wanted, notes = _rows_of(file, split, columns)
    if not wanted:
        if split == "train":
            raise InputError(f"{file}: no image has the split train")
        return None
    names = [columns["path"][row] for row in wanted]
    if repeated := _repeated(file, columns["path"]):
        raise InputError(
            f"{file}: {len(repeated)} paths are there more than once: {abridged(repeated)}"
        )
    paths = [file.parent / name for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(names)} images are not there: {abridged(missing)} "
            f"(paths are taken from {file.parent})"
        )
    numbers = np.full(len(wanted), -1, np.int64)
    classes: list[str] = []
    if "label" in columns:
        numbers, classes = _labels(file, columns, wanted)
    said = [f"{split}: {file} lists {describe_labels(numbers, classes)}"]
    return Listed(names, paths, numbers, classes, said + notes)


def _repeated(file: Path, names: Sequence[str]) -> list[str]:
    """Return the paths that are there more than once, however they are spelled: an image of test
    must not be trained on."""
    folder = os.path.abspath(file.parent)
    paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
    count = Counter(paths)
    spelled = dict(zip(paths, names, strict=True))
    return [spelled[path] for path, times in count.items() if times > 1]


def _rows_of(file: Path, split: str, columns: Columns) -> tuple[list[int], list[str]]:
    """Return which rows are of a split, and sentences about those that are of none."""
    if "split" not in columns:
        return (list(range(len(columns["path"]))) if split == "train" else []), []
    splits = [split_of(each) for each in columns["split"]]
    unknown = Counter(n for n, s in zip(columns["split"], splits, strict=True) if s is None)
    if unknown:
        named = abridged([f"{name or '(empty)'}, {n} rows" for name, n in unknown.most_common()])
        spelled = ", ".join(name for names in SPELLINGS.values() for name in names)
        raise InputError(f"{file}: splits have to be one of {spelled}, not: {named}")
    held_out = _held_out(splits, columns)
    rows = [i for i, s in enumerate(splits) if s == ("train" if split == "train" else held_out)]
    other = "val" if held_out == "test" else "test"
    left = splits.count(other) if split == "train" else 0
    return rows, [f"not read: {left} images of {other}, as {held_out} is held out"] if left else []


def _held_out(splits: Sequence[str | None], columns: Columns) -> str:
    """Return which split is kept for the end, as shards.py does: no figure could be given for a
    test without labels."""
    of_test = [row for row, split in enumerate(splits) if split == "test"]
    has_figure = "label" not in columns or any(columns["label"][row] for row in of_test)
    return "test" if of_test and (has_figure or "val" not in splits) else "val"


def _labels(file: Path, columns: Columns, wanted: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """Number the labels of rows by the classes of train; one class alone is none."""
    train, _ = _rows_of(file, "train", columns)
    of_train, of_wanted = ([columns["label"][row] for row in rows] for rows in (train, wanted))
    return number_labels(file, of_train, of_wanted)


def number_labels(
    file: Path, of_train: Sequence[str], texts: Sequence[str], order: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """Number texts, "" for none, by the classes of train; one class alone is none.

    order: of the classes, if it is known; else that of numbers if all are, or of texts.
    Returns (int64 [texts], -1 for none; classes). Raises InputError for texts that train lacks.
    """
    found = {*of_train} - {""}
    classes = [name for name in order if name in found] if order else in_order(found)
    if len(classes) < 2:
        return np.full(len(texts), -1, np.int64), []
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    unknown = sorted({text for text in texts if text not in number})
    if unknown:
        raise InputError(f"{file}: test has classes that train lacks: {abridged(unknown)}")
    return np.array([number[text] for text in texts], np.int64), classes


def in_order(classes: set[str]) -> list[str]:
    """Sort classes: as numbers if all are, else as texts. Of equal numbers, 1 and 01, texts decide:
    the order must not be another in each process."""
    texts = sorted(classes)
    return sorted(texts, key=int) if all(map(_is_integer, texts)) else texts


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _read(file: Path) -> Columns:
    """Return the columns that are known, as texts without the spaces around them."""
    if not file.is_file():
        raise InputError(
            f"--data-dir {file}: no such file; --data list takes a CSV, TSV or Parquet"
        )
    try:
        found = _of_parquet(file) if file.suffix.lower() == ".parquet" else _of_text(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{file} cannot be read: {reason}") from None
    if "path" not in found:
        raise InputError(
            f"{file} has no column path; it has {abridged(list(found)) or 'none'} (the first line "
            "names the columns)"
        )
    if not found["path"]:
        raise InputError(f"{file} lists no images")
    return found


def _of_text(file: Path) -> Columns:
    if file.suffix.lower() not in _DELIMITERS:
        kinds = ", ".join([*_DELIMITERS, ".parquet"])
        raise InputError(f"{file}: --data list knows {kinds}")
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter=_DELIMITERS[file.suffix.lower()])
        header, *rows = [(lines.line_num, line) for line in lines if line] or [(0, [])]
    names = [name.strip().lower() for name in header[1]]
    short = [number for number, row in rows if len(row) != len(names)]
    if short:
        raise InputError(
            f"{file}: {len(short)} rows have not the {len(names)} columns of the first line, the "
            f"first in line {short[0]}"
        )
    columns = {name: [row[i].strip() for _, row in rows] for i, name in enumerate(names)}
    return columns if "path" not in columns else {k: columns[k] for k in COLUMNS if k in columns}


def _of_parquet(file: Path) -> Columns:
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{file} needs pyarrow: pip install -e '.[parquet]'")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from None
    by_name = {name.strip().lower(): name for name in table.column_names}
    if "path" not in by_name:
        return {name: [] for name in by_name}
    return {
        k: [text_of(value) for value in table[by_name[k]].to_pylist()]
        for k in COLUMNS
        if k in by_name
    }


def text_of(value: object) -> str:
    """Return a value of a column as text without the spaces around it, "" for null and NaN, which
    some tools write for it."""
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if is_missing else str(value).strip()

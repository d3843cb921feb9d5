"""Representations as a file: .npz for NumPy, .parquet for pandas and others."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from effssl import InputError
from effssl.data.image_files import printable
from effssl.embed.representations import Embedded
from effssl.run.files import atomic, check_writable


def check_target(to: Path) -> None:
    """Raise InputError if `save` could not write this file. Nothing is made."""
    if to.suffix not in (".npz", ".parquet"):
        raise InputError(f"--to {to}: the file's name must end in .npz or .parquet")
    if to.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        how_to = "install effssl with the extra: pip install -e '.[parquet]'"
        raise InputError(f"--to FILE.parquet needs pyarrow; {how_to}")
    if to.is_dir():
        raise InputError(f"--to {to} cannot be written: it is a folder")
    folder = to.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--to {to} cannot be written: there is no folder {folder}")
    check_writable(folder, f"--to {to}")


def save(embedded: Embedded, to: Path) -> None:
    """Write a .npz or .parquet file, whole or not at all.

    A .npz holds names, representations, labels and classes, as Embedded does; a .parquet has a row
    for each image: name (printable: it cannot hold other than UTF-8), label and class (null if
    there is none), representation. Raises InputError if the file cannot be written.
    """
    write = _write_npz if to.suffix == ".npz" else _write_parquet
    with atomic(to) as temporary:
        write(embedded, temporary)


def _write_npz(embedded: Embedded, file: Path) -> None:
    with file.open("wb") as out:  # to a path NumPy would add a suffix
        np.savez(
            out,
            names=np.array(embedded.names),
            representations=embedded.representations,
            labels=embedded.labels,
            classes=np.array(embedded.classes, dtype=np.str_),
        )


def _write_parquet(embedded: Embedded, file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    h, labels, classes = embedded.representations, embedded.labels, embedded.classes
    class_names = [classes[label] if label >= 0 else None for label in labels]
    columns = {
        "name": pyarrow.array([printable(name) for name in embedded.names], pyarrow.string()),
        "label": pyarrow.array(labels, mask=labels < 0),
        "class": pyarrow.array(class_names, pyarrow.string()),
        "representation": pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(h.ravel()), h.shape[1]
        ),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), file)

"""A vector for each image, from a file, by the images' names."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effssl import InputError
from effssl.data.image_files import abridged, printable


def read_vectors(file: Path, names: Sequence[str]) -> np.ndarray:
    """Read the vectors of the images of these names, in their order, as float32 [images, width].

    The file is as `effssl embed` writes it: a .npz of `names` and `representations`, or a .parquet
    of `name` and `representation`; it may have further images. Raises InputError for other files,
    and for images that it lacks.
    """
    what = f"--paired {file}"
    if not file.is_file():
        raise InputError(f"{what}: no such file")
    try:
        known, vectors = _of_parquet(file) if file.suffix == ".parquet" else _of_npz(file)
        if vectors.dtype.kind not in "fiub":
            raise ValueError(f"representations are {vectors.dtype}, not numbers")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{what}: must be a .npz of names [images] and representations [images, width], or a "
            f".parquet of name and representation: {' '.join(str(error).split())[:200]}"
        ) from None
    if vectors.ndim != 2 or len(known) != len(vectors):
        shapes = f"{len(known)} names, representations {list(vectors.shape)}"
        raise InputError(f"{what}: must have a vector for each name, not {shapes}")
    row_of = {name: row for row, name in enumerate(known)}
    wanted = [printable(name) for name in names] if file.suffix == ".parquet" else list(names)
    lacking = [name for name in wanted if name not in row_of]
    if lacking:
        raise InputError(
            f"{what}: has no vector of {len(lacking)} of {len(names)} images: {abridged(lacking)}; "
            f"it names {abridged([str(name) for name in known[:3]])}"
        )
    chosen = vectors[[row_of[name] for name in wanted]].astype(np.float32)
    if not np.isfinite(chosen).all():
        raise InputError(f"{what}: has vectors that are not finite")
    return chosen


def _of_npz(file: Path) -> tuple[list[str], np.ndarray]:
    opened = np.load(file, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("it is one array without names")
    with opened:
        names = opened["names"]
        if names.ndim != 1:
            raise ValueError(f"names are {list(names.shape)}")
        return names.tolist(), opened["representations"]


def _of_parquet(file: Path) -> tuple[list[str], np.ndarray]:
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError("--paired FILE.parquet needs pyarrow: pip install -e '.[parquet]'")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file, columns=["name", "representation"])
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from None
    vectors = table["representation"].combine_chunks()
    if not hasattr(vectors, "value_lengths"):
        raise ValueError(f"representation is {vectors.type}, not lists of numbers")
    widths = vectors.value_lengths().unique().to_pylist()  # None of a row without a list
    if len(widths) != 1 or not widths[0]:
        found = ", ".join(map(str, widths)) or "no rows"
        raise ValueError(f"representations must be of one width, not {found}")
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    return table["name"].to_pylist(), flat.reshape(len(table), widths[0])

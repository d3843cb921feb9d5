"""Parts of the labels, kept in text files so that others can train on the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from filelock import FileLock

from effssl import InputError
from effssl.data.beton import Beton
from effssl.data.fingerprints import digest
from effssl.data.splits import class_balanced, per_class
from effssl.run.files import write_text


def label_fraction(
    folder: Path,
    name: str,
    beton: Beton,
    train_positions: np.ndarray,
    *,
    fraction: float,
    seed: int,
) -> np.ndarray:
    """Choose a class-balanced part of the labelled images among `train_positions`.

    Returns sorted positions in `beton`. They are those in
    FOLDER/NAME-labels-FRACTION-seedSEED-DIGEST.txt, one a line below a header; the first call
    writes it. The digest is of the set and of the labelled images among `train_positions`, so that
    sets and splits of them in one folder have files of their own.
    fraction: in (0, 1], of the images that are left to train on once the validation split is cut;
    at least one image of every class is chosen.
    Raises InputError if the file is not of this set, these images, fraction and seed, or names
    other than labelled training images, and if it cannot be read or written.
    """
    labelled = train_positions[beton.labels[train_positions] >= 0]
    header = {
        "set": name,
        "identity": beton.identity,
        "fraction": f"{fraction:g}",
        "seed": str(seed),
        "split": digest(labelled.tobytes()),  # a part of a smaller one would fit, but has too few
    }
    known_by = digest(f"{beton.identity} {header['split']}".encode())[:10]
    file = folder / f"{name}-labels-{fraction:g}-seed{seed}-{known_by}.txt"
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # Processes that come here at once write the same, but through one temporary file.
            with FileLock(file.with_suffix(".lock")):
                write_text(file, _content(header, _drawn(beton.labels, labelled, fraction, seed)))
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{file} cannot be read or written: {reason}; --beton-dir names another folder"
        ) from None
    noted = dict(line[1:].strip().partition(": ")[::2] for line in lines if line.startswith("#"))
    for key, value in header.items():
        if noted.get(key) != value:
            raise InputError(
                f"{file} is of another {key}: {noted.get(key)}, not {value}; remove it to draw anew"
            )
    return _positions(file, lines, labelled)


def _drawn(labels: np.ndarray, labelled: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a class-balanced part of the positions, and at least one of every class."""
    of_positions = labels[labelled]
    balanced = class_balanced(of_positions, fraction, seed)
    return labelled[np.union1d(balanced, per_class(of_positions, 1, seed))]


def _content(header: dict[str, str], positions: np.ndarray) -> str:
    lines = [f"# {key}: {value}" for key, value in header.items()]
    return "\n".join([*lines, *map(str, positions.tolist())]) + "\n"


def _positions(file: Path, lines: list[str], labelled: np.ndarray) -> np.ndarray:
    """Read the lines below the header. Raises InputError if they do not fit the set."""
    try:
        numbers = [int(line) for line in lines if line and not line.startswith("#")]
        positions = np.array(numbers, dtype=np.int64)
    except (ValueError, OverflowError):
        raise InputError(f"{file} does not hold one position a line") from None
    if len(positions) == 0:
        raise InputError(f"{file} does not fit: it is empty")
    others = np.setdiff1d(positions, labelled)
    if len(others):
        raise InputError(
            f"{file} does not fit: position {others[0]} is no labelled training image of this split"
        )
    if len(np.unique(positions)) != len(positions):
        raise InputError(f"{file} does not fit: it repeats some positions")
    return np.sort(positions)

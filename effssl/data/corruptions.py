"""Corrupted test images as NumPy files, in the layout of CIFAR-10-C and CIFAR-100-C (arXiv 1903.12261)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effssl import InputError

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}


def open_corruptions(folder: Path, classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """FOLDER/labels.npy, a CORRUPTION.npy each -> (labels int64 [n], {corruption: uint8 [n, side, side, 3], mapped}).

    Raises InputError where a file is missing, damaged or of another shape than the labels.
    """
    labels = _mapped(folder / "labels.npy")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or not labels.min() >= 0:
        raise InputError(f"{folder / 'labels.npy'} is not a list of labels")
    if labels.max() >= classes:
        raise InputError(f"{folder / 'labels.npy'} has label {labels.max()}, but the set has {classes} classes")
    images = {file.stem: _mapped(file) for file in sorted(folder.glob("*.npy")) if file.name != "labels.npy"}
    if not images:
        raise InputError(f"{folder} has no CORRUPTION.npy beside labels.npy")
    for name, each in images.items():
        if each.dtype != np.uint8 or each.ndim != 4 or each.shape[0] != len(labels) or each.shape[3] != 3:
            found = f"{each.dtype} {list(each.shape)}"
            raise InputError(f"{folder / name}.npy is {found}, not uint8 [{len(labels)}, height, width, 3]")
    return labels.astype(np.int64), images


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from None

"""Corrupted test images as NumPy files, in the layout of CIFAR-10-C and CIFAR-100-C.

They are those of Hendrycks and Dietterich, arXiv 1903.12261.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effssl import InputError

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}  # as they are published


def open_corruptions(folder: Path, num_classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Open FOLDER/labels.npy and the files CORRUPTION.npy beside it.

    Returns (labels int64 [n], {corruption: images}); the images are uint8 [n, height, width, 3],
    mapped, not read. Raises InputError if a file is missing, damaged or of another shape than the
    labels, or if a label is `num_classes` or more.
    """
    labels_file = folder / "labels.npy"
    labels = _mapped(labels_file)
    is_integer = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not is_integer or len(labels) == 0 or labels.min() < 0:
        raise InputError(f"{labels_file} is not a list of labels")
    if labels.max() >= num_classes:
        raise InputError(
            f"{labels_file} has label {labels.max()}, but the set has {num_classes} classes"
        )
    files = sorted(file for file in folder.glob("*.npy") if file != labels_file)
    if not files:
        raise InputError(f"{folder} has no CORRUPTION.npy beside labels.npy")
    images = {file.stem: _mapped(file) for file in files}
    for file in files:
        array = images[file.stem]
        is_image = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
        if not is_image or len(array) != len(labels):
            raise InputError(
                f"{file} is {array.dtype} {list(array.shape)}, not uint8 [{len(labels)}, height, "
                "width, 3]"
            )
    return labels.astype(np.int64), images


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())}") from None

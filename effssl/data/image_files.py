"""Image files below a folder: found, and labelled by their folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from effssl import InputError
from effssl.data.decode import Decoded, Decoding, decode

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)


class ImageFiles:
    """Image files, decoded on access to upright RGB."""

    def __init__(self, paths: Sequence[Path], decoding: Decoding):
        self.paths, self.decoding = paths, decoding

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> np.ndarray:
        """Decode an image to uint8 [height, width, 3]. Raises InputError as `decoded` does."""
        return self.decoded(position).pixels

    def decoded(self, position: int) -> Decoded:
        """Decode an image. Raises InputError naming the file if it cannot be used."""
        return decode(self.paths[position], self.decoding)


def images_below(folder: Path, decoding: Decoding) -> tuple[ImageFiles, np.ndarray, list[str]]:
    """Find all images below a folder, sorted by path.

    Returns (images, labels, classes), the last two as class_labels gives them. Raises InputError if
    there are no images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = image_paths(folder)
    if not paths:
        raise InputError(f"no images in {folder} (looked for .jpg, .png, .webp, ... at any depth)")
    classes = sorted({class_of(path, folder) for path in paths} - {""})
    return ImageFiles(paths, decoding), *class_labels(paths, folder, classes)


def image_paths(
    root: Path, *, without: Sequence[Path] = (), only: frozenset[str] = frozenset()
) -> list[Path]:
    """List the images below `root`, sorted.

    Links are followed; folders that are not `is_read` and those of `without` are left out, hidden
    files too. With `only`, just the images in root's folders of these names are listed.
    """
    paths: list[Path] = []
    for folder, names, files in os.walk(root, followlinks=True):
        here = Path(folder)
        names[:] = [name for name in names if is_read(name) and here / name not in without]
        if only and here == root:
            names[:] = [name for name in names if name in only]
            continue
        paths += [here / file for file in files if is_image(file)]
    return sorted(paths)


def has_images(root: Path) -> bool:
    """Say whether there is an image below `root`, at any depth."""
    for _, names, files in os.walk(root, followlinks=True):
        names[:] = filter(is_read, names)
        if any(map(is_image, files)):
            return True
    return False


def subfolders(folder: Path) -> list[Path]:
    """List the folders in `folder` that are read, sorted."""
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if is_read(e.name) and e.is_dir())


def is_read(folder_name: str) -> bool:
    """Say whether images are looked for in a folder: in none that is hidden."""
    return not folder_name.startswith(".")


def is_image(file_name: str) -> bool:
    """Say whether a file is taken for an image."""
    return Path(file_name).suffix.lower() in SUFFIXES and not file_name.startswith(".")


def class_of(path: Path, root: Path) -> str:
    """Return the first folder below `root` on the way to the image; "" for a loose one."""
    first, *others = path.relative_to(root).parts
    return first if others else ""


def class_labels(
    paths: Sequence[Path], root: Path, classes: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Number the class of each image.

    Returns (labels int64 [paths], -1 for loose images; classes by printable names). One class says
    nothing to a probe: with fewer than two no image has a label, and no class is returned.
    """
    named = list(classes) if len(classes) > 1 else []
    number = {name: i for i, name in enumerate(named)}
    labels = [number.get(class_of(path, root), -1) for path in paths]
    return np.array(labels, dtype=np.int64), [printable(name) for name in named]


def printable(name: str) -> str:
    """Return a file's name as text that UTF-8 can hold; other bytes are shown as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def describe_labels(labels: np.ndarray, classes: Sequence[str]) -> str:
    """Say which classes images have: "12 images in 2 classes (cat, dog), 1 without a label"."""
    num_images, num_unlabelled = len(labels), int((labels < 0).sum())
    if num_unlabelled == num_images:
        return f"{num_images} images, no labels"
    named = f"{num_images} images in {len(classes)} classes ({abridged(classes)})"
    return f"{named}, {num_unlabelled} without a label" if num_unlabelled else named


def abridged(names: Sequence[str], at_most: int = 5) -> str:
    """List the first names, and count the others."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def common_side(paths: Sequence[Path], largest: int = 96) -> int | None:
    """Return the side of the images if all are squares of one small size, else None.

    Only headers are read; damaged ones say nothing.
    """
    common = None
    for path in paths:
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception:  # it is named when it is decoded
            continue
        if width != height or width > largest or common not in (None, width):
            return None
        common = width
    return common

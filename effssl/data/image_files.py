"""Image files below a folder: found, and labelled by their folders."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from effssl import InputError
from effssl.data.bands import ARRAYS
from effssl.data.decode import Decoded, Decoding, Readable, decode
from effssl.data.file_paths import FilePaths
from effssl.data.folders import check_listed, is_read, may_be_folder, names_in

# What Pillow opens too: documents, drawings, videos, icons, textures, and data that it only names.
NO_PHOTOGRAPHS = {
    *("EPS", "PDF", "PSD", "WMF", "MPEG", "FLI", "ICO", "CUR", "ICNS", "GBR", "XBM", "XPM"),
    *("BLP", "FTEX", "IPTC", "BUFR", "GRIB", "HDF5"),
}


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of files that are taken for images: what Pillow reads as photographs."""
    by_suffix = Image.registered_extensions()  # this loads Pillow's plugins
    taken = {*Image.OPEN, "MPO"} - NO_PHOTOGRAPHS  # MPO: JPEGs that cameras join
    return frozenset(suffix for suffix, kind in by_suffix.items() if kind in taken)


class FoundFiles(NamedTuple):
    """Files below a folder."""

    images: FilePaths
    others: Counter[str]  # suffix -> files that are not taken for images


class ImageFiles:
    """Image files, or images in an archive, decoded on access.

    names: what they are called, if not by their paths below the set's folder.
    """

    def __init__(
        self,
        paths: Sequence[Path] | Sequence[Readable],
        decoding: Decoding,
        names: Sequence[str] | None = None,
    ):
        self.paths, self.decoding, self.names = paths, decoding, names

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> np.ndarray:
        """Decode an image to [height, width, channels]. Raises InputError as `decoded` does."""
        return self.decoded(position).pixels

    def decoded(self, position: int) -> Decoded:
        """Decode an image. Raises InputError naming the file if it cannot be used."""
        return decode(self.paths[position], self.decoding)


def images_below(
    folder: Path, decoding: Decoding, *, folders_are_classes: bool = True
) -> tuple[ImageFiles, np.ndarray, list[str], list[str]]:
    """Find all images below a folder, sorted by path.

    Returns (images, labels, classes, notes): labels and classes as class_labels gives them, and
    sentences about what was found. Raises InputError if there are no images, and as find_images
    does.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths, others = find_images(folder, arrays=decoding.has_arrays)
    if not paths:
        raise InputError(no_images(folder, others))
    folders = classes_of(paths, folder) if folders_are_classes else []
    labels, classes = class_labels(paths, folder, folders)
    notes = [f"{folder} has {describe_labels(labels, classes)}", *about_others(folder, others)]
    return ImageFiles(paths, decoding), labels, classes, notes


def no_images(folder: str | Path, others: Counter[str]) -> str:
    """Return the message about a folder without images."""
    there = f"; there are files of other kinds: {counted(others)}" if others else ""
    if {".parquet", ".arrow"} & {*others}:
        there += "; --data hf reads images within .parquet and .arrow"
    if found := [suffix for suffix in ARRAYS if suffix in others]:
        there += f"; --channels reads {' and '.join(found)} as images"
    return f"no images in {folder} (looked for .jpg, .png, .webp, ... at any depth{there})"


def about_others(folder: Path, others: Counter[str]) -> list[str]:
    """Return the sentence that counts the files that are not taken for images, if there are any."""
    return [f"not read in {folder}, as not taken for images: {counted(others)}"] if others else []


def counted(others: Counter[str]) -> str:
    """Count files by suffix: "12 .heic, 1 without a suffix"."""
    return abridged([f"{n} {suffix or 'without a suffix'}" for suffix, n in others.most_common()])


def find_images(
    root: Path,
    *,
    without: Sequence[Path] = (),
    only: frozenset[str] = frozenset(),
    arrays: bool = False,
) -> FoundFiles:
    """Look for images below `root`, at any depth.

    Links are followed; folders that are not `is_read` and those of `without` are left out, hidden
    files too. With `only`, just root's folders of these names are looked into; arrays: see
    is_image. Raises InputError if a folder cannot be listed, and as names_in does.
    """
    others: Counter[str] = Counter()
    folders: list[Path] = []
    folder_of: list[int] = []
    names: list[str] = []
    unlisted: list[str] = []
    # Folders to look into, and files that were found beside them, in the order of paths' parts.
    waiting: list[Path | tuple[int, list[str]]] = [root]
    while waiting:
        here = waiting.pop()
        if not isinstance(here, Path):
            number, found = here
            names += found
            folder_of += [number] * len(found)
            continue
        passed: list[str] = []
        beside: list[str] = []
        parts: list[Path | tuple[int, list[str]]] = [(len(folders), beside)]
        for name, is_folder in names_in(here, unlisted):
            if is_folder:
                is_wanted = not only or here != root or name in only
                if is_wanted and here / name not in without:
                    beside = []
                    parts += [here / name, (len(folders), beside)]
            elif not is_image(name, arrays=arrays):
                passed.append(name)
            elif not only or here != root:
                beside.append(name)
        folders.append(here)
        waiting += reversed(parts)
        if not (only and here == root) and not any(name.endswith(".beton") for name in passed):
            others.update(Path(n).suffix.lower() for n in passed if not n.startswith("."))
    check_listed(unlisted)
    return FoundFiles(FilePaths(folders, np.array(folder_of, np.int64), names), others)


def has_images(root: Path, *, arrays: bool = False) -> bool:
    """Say whether there is an image below `root`, at any depth, or may be one, in a folder that
    cannot be listed; arrays: see is_image."""
    waiting, seen = [os.fspath(root)], set[str]()
    while waiting:
        here = os.path.realpath(waiting.pop())
        if here in seen:  # by another link
            continue
        seen.add(here)
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if not may_be_folder(entry):
                        if is_image(entry.name, arrays=arrays):
                            return True
                    elif is_read(entry.name):
                        waiting.append(entry.path)
        except OSError:
            return True
    return False


def is_image(file_name: str, *, arrays: bool = False) -> bool:
    """Say whether a file is taken for an image; arrays: those of ARRAYS too."""
    _, dot, suffix = file_name.rpartition(".")
    kind = f"{dot}{suffix.lower()}"
    return (kind in suffixes() or (arrays and kind in ARRAYS)) and file_name[0] != "."


def classes_of(paths: FilePaths, root: Path) -> list[str]:
    """Return the first folders below `root` on the way to images, sorted."""
    return sorted({_class_of(folder, root) for folder in paths.used_folders()} - {""})


def _class_of(folder: Path, root: Path) -> str:
    return next(iter(folder.relative_to(root).parts), "")


def class_labels(
    paths: FilePaths, root: Path, classes: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Number the class of each image.

    Returns (labels int64 [paths], -1 for loose images; classes by printable names). One class says
    nothing to a probe: with fewer than two no image has a label, and no class is returned.
    """
    named = list(classes) if len(classes) > 1 else []
    number = {name: i for i, name in enumerate(named)}
    labels = paths.by_folder(lambda folder: number.get(_class_of(folder, root), -1))
    return labels, [printable(name) for name in named]


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

"""Several folders, archives, lists or shards of images as one set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effssl import InputError
from effssl.data.archives import is_archive
from effssl.data.decode import Readable
from effssl.data.file_paths import FilePaths, joined_paths
from effssl.data.fingerprints import digest
from effssl.data.headers import Sides, side_of
from effssl.data.image_files import ImageFiles, describe_labels
from effssl.data.list_files import in_order
from effssl.data.sources import Source


def open_joined(
    places: Sequence[Path],
    split: str,
    open_one: Callable[[Path, str], Source | None],
    sides: Sides,
) -> Source | None:
    """Find the images of a split in several places, in their order.

    places: folders or files, each with train and perhaps test. split: "train" or "test".
    open_one: open_source of one place, all with the same settings, which asks for no side. sides:
    those that are known of joined sets. Classes are told by their names: those of one name are one
    class. Images of the first place are named as they would be without the others, those of the
    others by their whole paths.

    Returns None if no place has that split. Raises InputError as open_source does, and if a place
    lies within another.
    """
    _check_apart(places)
    trains = [open_one(place, "train") for place in places]
    every = trains if split == "train" else [open_one(place, split) for place in places]
    classes = _merged([train.classes for train in trains if train is not None])
    number = {name: i for i, name in enumerate(classes)}
    images: list[ImageFiles] = []
    names: list[str] = []
    labels: list[np.ndarray] = []
    parts: list[Source] = []
    for place, part in zip(places, every, strict=True):
        if part is None:
            continue
        assert isinstance(part.images, ImageFiles)
        names += _names(part.images, place, is_first=place == places[0])
        images.append(part.images)
        labels.append(np.array([*(number[c] for c in part.classes), -1], np.int64)[part.labels])
        parts.append(part)
    if not parts:
        return None
    numbers = np.concatenate(labels)
    fingerprint, identity = (
        digest(repr((known_by, classes)).encode())
        for known_by in ([p.fingerprint for p in parts], [p.identity for p in parts])
    )
    paths, decoding = _paths(images), images[0].decoding
    notes = [note for part in parts for note in part.notes]
    return Source(
        ImageFiles(paths, decoding, names),
        numbers,
        classes,
        fingerprint,
        identity,
        side_of(paths, decoding, fingerprint, sides),
        [*notes, f"{split}: {describe_labels(numbers, classes)} in all"],
    )


def _check_apart(places: Sequence[Path]) -> None:
    """Raise InputError if a place lies within another: its images would be there twice."""
    whole = [place.resolve() for place in places]
    for i, inner in enumerate(whole):
        for j, outer in enumerate(whole):
            is_within = outer in inner.parents and not is_archive(inner)
            if i != j and (inner == outer or is_within):
                raise InputError(
                    f"--more-dirs: {places[i]} lies within {places[j]}, so that its images would "
                    "be there twice"
                )


def _merged(classes: Sequence[Sequence[str]]) -> list[str]:
    """Return all classes: in the order that they share, or else sorted."""
    named = [list(each) for each in classes if each]
    if not named or all(each == named[0] for each in named):
        return named[0] if named else []
    return in_order({name for each in named for name in each})


def _names(images: ImageFiles, place: Path, *, is_first: bool) -> list[str]:
    """Return what the images of a place are called: those of the first as they are without others,
    the others' by their whole paths."""
    names = images.names
    if names is None:
        assert isinstance(images.paths, FilePaths)
        names = images.paths.texts(place)
    if is_first:
        return list(names)
    # A list is a file, and what it names lies beside it; an archive has its images within.
    below = place.resolve()
    inside = below if place.is_dir() or is_archive(place) else below.parent
    return [str(inside / name) for name in names]


def _paths(images: Sequence[ImageFiles]) -> Sequence[Path] | Sequence[Readable]:
    of_each = [each.paths for each in images]
    of_files = [paths for paths in of_each if isinstance(paths, FilePaths)]
    if len(of_files) == len(of_each):
        return joined_paths(of_files)
    every: list[Any] = [path for paths in of_each for path in paths]
    return every

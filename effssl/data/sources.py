"""Where images come from: a name and a folder -> images, labels and a fingerprint of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from effssl import InputError
from effssl.data import torchvision_sets
from effssl.data.archives import Archived, is_archive, read_archive
from effssl.data.decode import DEFAULT, Decoding
from effssl.data.digits import DIGITS_SIDE, read_digits
from effssl.data.fingerprints import digest, fingerprints, of_no_labels
from effssl.data.headers import NONE_KNOWN, Sides, side_of
from effssl.data.image_files import (
    ImageFiles,
    about_others,
    abridged,
    class_labels,
    classes_of,
    describe_labels,
    find_images,
    no_images,
    printable,
)
from effssl.data.list_files import read_list
from effssl.data.shards import UNNAMED, Columns, Sharded, read_shards
from effssl.data.split_folders import check_nested, find_split_folders, has_train_folder

IMAGENET100_CLASSES = Path(__file__).with_name("imagenet100_classes.txt")


class ImageSequence(Protocol):
    """Images by position, each [height, width, channels]: uint8 RGB, or what --channels keeps."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> np.ndarray: ...


class Source(NamedTuple):
    """One split of a set, not yet stored."""

    images: ImageSequence
    labels: np.ndarray  # int64 [images], -1 if unlabelled
    classes: list[str]
    fingerprint: str  # changes when any image or label does, and when a file is touched or moved
    identity: str  # of names, sizes and labels: stays when the files are copied elsewhere
    side: int | None  # in pixels if all images are squares of one size, else None
    notes: Sequence[str] = ()  # what was found, and what is not read, to be said to the user


def open_source(
    name: str,
    data_dir: Path,
    split: str,
    *,
    labels: bool = True,
    decoding: Decoding = DEFAULT,
    columns: Columns = UNNAMED,
    sides: Sides = NONE_KNOWN,
) -> Source | None:
    """Find a set's images; those of torchvision's sets are downloaded if they are missing.

    name: a set of `config.SetName`. split: "train" (all there is to pretrain on) or "test". labels:
    if they are to be known; else no image has one. decoding: how image files are decoded. columns:
    where the images and labels of `hf` are. sides: those that are known, by fingerprints, or None
    not to ask for it; of small squares of a set that is not among them all headers are read.
    Returns None if the set has no such split. Raises InputError with the ways out if there are no
    images.
    """
    source: Source | None
    if name == "digits":
        images, numbers, classes, content = read_digits(split)
        source = Source(images, numbers, classes, content, content, DIGITS_SIDE)
    elif name in torchvision_sets.SETS:
        source = _torchvision_set(name, data_dir, split, labels, decoding)
    elif name == "list":
        source = _of_list(data_dir, split, labels, decoding, sides)
    elif name == "hf":
        source = _of_parts(read_shards(data_dir, split, columns, labels=labels), decoding, sides)
    elif name == "folder" and is_archive(data_dir):
        source = _of_parts(
            read_archive(data_dir, split, labels=labels, arrays=decoding.has_arrays),
            decoding,
            sides,
        )
    else:
        listed = IMAGENET100_CLASSES.read_text().split() if name == "imagenet100" else []
        only = frozenset(listed)
        source = _class_folders(name, data_dir, split, labels, decoding, only=only, sides=sides)
    if decoding.has_arrays and source is not None and not isinstance(source.images, ImageFiles):
        raise InputError(f"--channels is for image files; those of {name} are RGB of 8 bits")
    return source if labels or source is None else _without_labels(source)


def names_of(source: Source, positions: np.ndarray, root: Path, split: str) -> list[str]:
    """Name images by their paths below `root` or in a list, or by split and number if they are no
    files."""
    images = source.images
    if isinstance(images, ImageFiles):
        if images.names is not None:
            return [images.names[position] for position in positions]
        return [str(Path(str(images.paths[i])).relative_to(root)) for i in positions]
    return [f"{split}/{position}" for position in positions]


def part_of(source: Source, positions: np.ndarray) -> Source:
    """Return the images at some positions as a source of its own."""
    known_by = source.fingerprint, source.identity
    fingerprint, identity = (digest(name.encode() + positions.tobytes()) for name in known_by)
    images = source.images
    return source._replace(
        images=ImageFiles(
            [images.paths[i] for i in positions],
            images.decoding,
            None if images.names is None else [images.names[i] for i in positions],
        )
        if isinstance(images, ImageFiles)
        else [images[i] for i in positions],
        labels=source.labels[positions],
        fingerprint=fingerprint,
        identity=identity,
    )


def _without_labels(source: Source) -> Source:
    fingerprint, identity = map(of_no_labels, (source.fingerprint, source.identity))
    return source._replace(
        labels=np.full_like(source.labels, -1),
        classes=[],
        fingerprint=fingerprint,
        identity=identity,
    )


def check_is_there(name: str, data_dir: Path) -> None:
    """Raise InputError, with the way out, if open_source had to download the set or found no folder
    of it."""
    of_torchvision = torchvision_sets.SETS.get(name)
    if of_torchvision is not None:
        is_there = (data_dir / of_torchvision.folder).is_dir() or has_train_folder(data_dir)
    else:
        is_file, is_dir = data_dir.is_file(), data_dir.is_dir()
        may_be_a_file = {"list": is_file, "hf": is_file or is_dir, "digits": True}
        is_there = may_be_a_file.get(name, is_dir or (name == "folder" and is_archive(data_dir)))
    if not is_there:
        raise InputError(
            f"the run's images ({name}) are not in {data_dir}; --data-dir names where they are"
        )


def _torchvision_set(
    name: str, data_dir: Path, split: str, labels: bool, decoding: Decoding
) -> Source | None:
    """Take torchvision's files, or else class folders, or else what torchvision downloads."""
    _, folder, side = torchvision_sets.SETS[name]
    if not (data_dir / folder).is_dir():
        if has_train_folder(data_dir):
            return _class_folders(name, data_dir, split, labels, decoding, side=side)
        torchvision_sets.download(name, data_dir)
    images, numbers, classes = torchvision_sets.read_split(name, data_dir, split)
    files = sorted(path for path in (data_dir / folder).iterdir() if path.is_file())
    relative = [file.relative_to(data_dir) for file in files]
    return Source(images, numbers, classes, *fingerprints(files, relative, numbers), side)


def _class_folders(
    name: str,
    data_dir: Path,
    split: str,
    labels: bool,
    decoding: Decoding,
    *,
    side: int | None = None,
    only: frozenset[str] = frozenset(),
    sides: Sides = NONE_KNOWN,
) -> Source | None:
    """Find the images of class folders.

    They are train/CLASS/*, or else CLASS/* or loose (unlabelled) images in data_dir itself; test/
    or val/ may lie beside (split_folders has their spellings).
    labels: if folders are classes. side: what the set's images must measure. only: the classes to
    take, all of which must be there; all classes if it is empty.
    """
    arrays = decoding.has_arrays
    folders = find_split_folders(data_dir, arrays=arrays)
    root = train_root = folders.train
    has_train = train_root != data_dir
    apart = [] if has_train or split == "test" else folders.apart
    paths, others = find_images(train_root, without=folders.apart, only=only, arrays=arrays)
    if labels:
        check_nested(paths, train_root, is_train=has_train)
    classes = classes_of(paths, train_root)
    absent = sorted(only.difference(classes))
    if absent:
        raise InputError(
            f"{train_root} has no images of {len(absent)} of the {len(only)} classes of {name}: "
            f"{abridged(absent)}"
        )
    if not labels:
        classes = []
    if split == "test":
        if folders.held_out is None:
            return None
        root = folders.held_out
        paths, others = find_images(root, only=only, arrays=arrays)
        unknown = sorted({*classes_of(paths, root)} - {*classes})
        if unknown and classes:
            raise InputError(f"{root} has classes that {train_root} lacks: {abridged(unknown)}")
    if not paths:
        outside = f" outside of {abridged(list(map(str, apart)))}" if apart else ""
        raise InputError(no_images(f"{root}{outside}", others))
    alone = ""
    if len(classes) == 1:
        alone = f" (one folder alone is no class: {printable(classes[0])})"
    numbers, classes = class_labels(paths, root, classes)
    known_by = fingerprints(paths.texts(), paths.texts(data_dir), numbers)
    if name == "folder":
        side = side_of(paths, decoding, known_by[0], sides)
    notes = [f"{split}: {root} has {describe_labels(numbers, classes)}{alone}"]
    notes += about_others(root, others) + (folders.notes if split == "train" else [])
    return Source(ImageFiles(paths, decoding), numbers, classes, *known_by, side, notes)


def _of_parts(found: Archived | Sharded | None, decoding: Decoding, sides: Sides) -> Source | None:
    """Take the images that are parts of other files."""
    if found is None:
        return None
    parts, numbers, classes, fingerprint, identity, notes = found
    images = ImageFiles(parts, decoding, [part.name for part in parts])
    side = side_of(parts, decoding, fingerprint, sides)
    return Source(images, numbers, classes, fingerprint, identity, side, notes)


def _of_list(
    file: Path, split: str, labels: bool, decoding: Decoding, sides: Sides
) -> Source | None:
    """Take the images that a file lists."""
    listed = read_list(file, split, labels=labels)
    if listed is None:
        return None
    names, paths, numbers, classes, notes = listed
    known_by = fingerprints(paths, names, numbers)
    images = ImageFiles(paths, decoding, names)
    side = side_of(paths, decoding, known_by[0], sides)
    return Source(images, numbers, classes, *known_by, side, notes)

"""The splits of a folder of images: train/, val/ and test/, by their usual spellings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effssl import InputError
from effssl.data.file_paths import FilePaths
from effssl.data.folders import is_read, subfolders
from effssl.data.image_files import abridged, has_images, is_image

SPELLINGS = {  # in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# A name made of these words and numbers alone (train2017, images_val, hold-out) is no class, but
# which split it is is not for us to guess.
_SPLIT = "training|train|trn|validation|valid|val|dev|testing|test|tst|evaluation|eval"
_SPLIT += r"|hold[\W_]*out|held[\W_]*out"
_FILLER = r"[\W_\d]|set|split|data|images?|imgs?|pics|photos|new|old|all|small|full|orig|copy"
ALIKE = re.compile(f"(?:{_FILLER})*(?:{_SPLIT})(?:{_FILLER}|{_SPLIT})*", re.IGNORECASE)


class SplitFolders(NamedTuple):
    """Which folders hold the splits of a set."""

    train: Path  # the set's own folder if it has no train/
    held_out: Path | None  # what is kept for the end
    apart: list[Path]  # folders that are not trained on, should they lie in `train`
    notes: list[str]  # a sentence about each folder that is not read


def split_of(name: str) -> str | None:
    """Return the split that a folder's name spells, or None."""
    return next((split for split, names in SPELLINGS.items() if name.lower() in names), None)


def has_train_folder(data_dir: Path) -> bool:
    """Say whether there is a train/, by any spelling."""
    return data_dir.is_dir() and any(split_of(f.name) == "train" for f in subfolders(data_dir))


def find_split_folders(data_dir: Path, *, arrays: bool = False) -> SplitFolders:
    """Find train/, and test/ or val/ as what is held out; arrays: see is_image.

    Of test/ and val/ the former is held out, unless it has no class folders and val/ has: then no
    figure could be given for test/. Raises InputError if the folder is not there, if a split is
    there twice, and for a folder with images whose name is like a split's, as it would be trained
    on or left out.
    """
    if data_dir.is_file():
        raise InputError(
            f"--data-dir {data_dir}: a file, of which .zip and .tar are read with --data folder, "
            "and lists with --data list; what compresses a whole .tar has to be undone first"
        )
    if not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir}: no such folder")
    folders = subfolders(data_dir)
    others = [f for f in folders if split_of(f.name) is None and has_images(f, arrays=arrays)]
    train, val, test = told_apart(data_dir, folders, others)
    notes = []
    inside = [] if train is None else list(data_dir.iterdir())
    loose = [path for path in inside if is_image(path.name, arrays=arrays)]
    if train is not None and others + loose:
        beside = _listed(others + loose)
        notes.append(f"not read: {beside}, as images beside {train} are of no split")
    held_out = test or val
    if test is not None and val is not None:
        if not _has_classes(test, arrays) and _has_classes(val, arrays):
            held_out = val
            notes.append(f"not read: {test}, which has no class folders; {val} is held out instead")
        else:
            notes.append(
                f"not read: {val}, as {test} is held out; what is chosen is chosen on a part of "
                "the training images"
            )
    apart = [folder for folder in (val, test) if folder is not None]
    return SplitFolders(train or data_dir, held_out, apart, notes)


def told_apart(
    data_dir: Path, folders: Sequence[Path], with_images: Sequence[Path]
) -> list[Path | None]:
    """Return which of a set's folders hold train, val and test, None for a split without one.

    Raises InputError if a split is there twice, and for a folder with images whose name is like a
    split's. An archive's folders need not be there to be listed.
    """
    found = [_only(folders, split) for split in SPELLINGS]
    alike = [f for f in with_images if split_of(f.name) is None and ALIKE.fullmatch(f.name)]
    if alike:
        raise InputError(
            f"{_listed(alike)}: by its name a split of {data_dir}, but which is not clear; rename "
            "it to train, val or test, or move it away (if it is a class, move all classes into "
            f"{data_dir / 'train'})"
        )
    return found


def check_nested(paths: FilePaths, root: Path, *, is_train: bool) -> None:
    """Raise InputError if folders with the names of splits lie deeper than splits are looked for.

    What is held out there would be trained on. paths: the training images, below `root`. is_train:
    root is train/ itself, where a class may have the name train.
    """
    with_images = set(paths.used_folders())
    folders = {parent for folder in with_images for parent in (folder, *folder.parents)}
    nested = []
    for folder in folders.difference([root, *root.parents]):
        split = split_of(folder.name)
        is_class = folder.parent == root and is_train and split == "train"
        if split is not None and not is_class:
            nested.append(folder)
    if nested:
        raise InputError(
            f"{_listed(sorted(nested))}: folders with the names of splits lie among the training "
            "images; --data-dir must name the folder that train/ and test/ lie in (--no-labels "
            "takes all as they are, if folders mean nothing here)"
        )


def check_outside(out: Path, places: Sequence[Path]) -> None:
    """Raise InputError if a run's folder lies where the images of a set are looked for: its
    pictures would be a class of the next run. Beside a train/ and in hidden folders none are."""
    for place in places:
        root, whole = place.resolve(), out.resolve()
        is_within = root in (whole, *whole.parents) and not has_train_folder(place)
        if is_within and all(map(is_read, whole.relative_to(root).parts)):
            raise InputError(
                f"--out {out} lies among the images of {place}, where the run's pictures would be "
                "taken for more of them; --out has to name a folder elsewhere"
            )


def _only(folders: Sequence[Path], split: str) -> Path | None:
    """Return the folder of a split. Raises InputError if there are several; links count once."""
    spelled = [folder for folder in folders if split_of(folder.name) == split]
    if len({folder.resolve() for folder in spelled}) > 1:
        raise InputError(
            f"{_listed(spelled)}: the {split} split is there more than once; move away or join all "
            "but one"
        )
    return spelled[0] if spelled else None


def _has_classes(folder: Path, arrays: bool) -> bool:
    return any(has_images(subfolder, arrays=arrays) for subfolder in subfolders(folder))


def _listed(folders: Sequence[Path]) -> str:
    return abridged([str(folder) for folder in folders])

"""The images that rows are judged on: a run's own set, or another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.corruptions import FOLDERS, open_corruptions
from effssl.data.stored import OWN_SETS, SPLITS, Data, open_data, reopen_data
from effssl.evaluation import protocols
from effssl.evaluation.finished_run import FinishedRun
from effssl.image_config import Augment, Images
from effssl.job_config import Evaluation


class Corruptions(NamedTuple):
    """Corrupted test images."""

    labels: np.ndarray  # int64 [n]
    images: dict[str, np.ndarray]  # by corruption: uint8 [n, height, width, 3]


class ImageSet(NamedTuple):
    """A set of images, and how views are made of them."""

    images: Images
    augment: Augment
    data: Data
    is_own: bool  # what the run was trained on, also if it has moved or is cut another way


def open_probed(run: FinishedRun, settings: Evaluation) -> ImageSet:
    """Open the set to probe on: the settings' or, if they name none, the run's own.

    Raises InputError if it has no labels, or if test has a class that train lacks.
    """
    images = probed_images(run.cfg.images, settings)
    is_named_alike = images.data == run.cfg.images.data
    data = reopen_data(images) if is_named_alike else open_data(images)
    _check_labels(data, images)
    is_own = is_named_alike and _are_of(run, images, data)
    return ImageSet(images, probed_augment(run.cfg.augment, settings), data, is_own)


def open_own(run: FinishedRun, probed: ImageSet) -> Data:
    """Open the images that a run was trained on, cut as they were then, whatever is probed on.

    Raises InputError if they are no longer there.
    """
    images = own = run.cfg.images
    if probed.is_own:  # they may have moved since, or have got labels
        images = replace(probed.images, fraction=own.fraction, gray_range=own.gray_range)
    return probed.data if images == probed.images else reopen_data(images)


def _are_of(run: FinishedRun, images: Images, data: Data) -> bool:
    """Say whether a set that has the name of a run's is the one that the run was trained on.

    One name stands for all sets of a user's own, so these are known by their files' names, sizes
    and labels, or by the folders that they lie in.
    """
    if images.data not in OWN_SETS or data.known_by == run.known_by:
        return True
    return _places(images) == _places(run.cfg.images)


def _places(images: Images) -> list[Path]:
    return [place.resolve() for place in (images.data_dir, *images.more_dirs)]


def probed_images(of_run: Images, settings: Evaluation) -> Images:
    """Say where the images come from that are probed on."""
    images = of_run
    if settings.data not in (None, of_run.data):
        shared = ("val_fraction", "split_seed", "workers", "loader", "skip_corrupt", "channels")
        images = Images(data=settings.data, **{name: getattr(of_run, name) for name in shared})
        if images.channels == 3 and images.data not in OWN_SETS:
            images = replace(images, channels=None)  # of 8 bits they are the same
    if settings.data_dir is not None:  # its .beton files lie there too, and it may have labels
        places = replace(images, data_dir=settings.data_dir, more_dirs=settings.more_dirs)
        images = replace(places, beton_dir=None, labels=True)
    elif settings.more_dirs:
        raise InputError("--more-dirs is for the set in --data-dir, which is not given")
    may_differ = ("beton_dir", "fraction", "workers", "gray_range", "max_image_gib")
    of_shards = ("image_column", "label_column")
    given = {name: getattr(settings, name) for name in (*may_differ, *of_shards)}
    images = replace(images, **{name: v for name, v in given.items() if v is not None})
    return replace(images, skip_corrupt=images.skip_corrupt or settings.skip_corrupt)


def probed_augment(of_run: Augment, settings: Evaluation) -> Augment:
    """Say how views are made of the images that are probed on."""
    if settings.image_size is None:
        return of_run
    return replace(of_run, image_size=settings.image_size)


def find_corruptions(
    probed: ImageSet, settings: Evaluation
) -> tuple[Corruptions | None, str | None]:
    """Open the corrupted test images, if there are any; and return a note if they are missing.

    Raises InputError if they are damaged, or if --robustness-dir names a folder without them or is
    given where the backbone takes other channels than theirs, which are RGB.
    """
    folder, images, channels = settings.robustness_dir, probed.images, probed.augment.channels
    if folder is None:
        if images.data not in FOLDERS:
            return None, None
        folder = images.data_dir / FOLDERS[images.data]
        if not folder.is_dir():
            return None, f"no column of corrupted images: no {folder}"
        if channels != 3:
            return None, "no column of corrupted images: they are RGB"
    elif channels != 3:
        raise InputError(
            f"--robustness-dir: its images are RGB, but the run's have {channels} channels"
        )
    return Corruptions(*open_corruptions(folder, len(probed.data.train.classes))), None


def _check_labels(data: Data, images: Images) -> None:
    if len(protocols.labelled_positions(data)) == 0:
        raise InputError(f"{images.data} in {images.data_dir} has no labels to probe with")
    if protocols.reported_split(data) == "validation":
        return
    of_train, of_test = _classes_of(data)
    if absent := of_test - of_train:
        classes = _named(sorted(absent), data.train.classes)
        raise InputError(f"{images.data} in {images.data_dir}: train lacks {classes}")


def about_classes(data: Data) -> str | None:
    """Return a note about classes of train that no reported image has; None if there are none."""
    if protocols.reported_split(data) == "validation":
        return None
    of_train, of_test = _classes_of(data)
    absent = sorted(of_train - of_test)
    return f"test lacks {_named(absent, data.train.classes)}" if absent else None


def _classes_of(data: Data) -> tuple[set[int], set[int]]:
    """Return the labels of train and of test."""
    of_train, of_test = (set(data.stored(split).labels.tolist()) - {-1} for split in SPLITS)
    return of_train, of_test


def _named(labels: list[int], classes: list[str]) -> str:
    """List the first five classes by name, and count the others."""
    names = [classes[label] if label < len(classes) else str(label) for label in labels[:5]]
    return ", ".join(names) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")

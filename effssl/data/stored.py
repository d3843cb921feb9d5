"""A set of images as training sees it: found, stored and split."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.beton import Beton, ensure_beton
from effssl.data.decode import Decoding
from effssl.data.sources import Source, check_is_there, open_source
from effssl.data.splits import of_all, train_and_validation
from effssl.image_config import Images, Storage
from effssl.run import distributed

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


class Data(NamedTuple):
    """A set, stored and split; positions are int64 into the .beton of train, sorted."""

    train: Beton
    test: Beton | None
    train_positions: np.ndarray  # what probes and classifiers may be fitted on
    val_positions: np.ndarray  # what choices are made by
    pretrain_positions: np.ndarray  # the training positions, or all

    def stored(self, split: Split) -> Beton:
        """Return a split that the set has."""
        beton = self.train if split == "train" else self.test
        assert beton is not None
        return beton


def open_split(storage: Storage, split: Split) -> tuple[Source, Beton] | None:
    """Find a split of the set, say what was found, and store it if it is not stored yet.

    Returns None if the set has no such split. Raises InputError for anything about the images that
    the user has to mend.
    """
    decoding = Decoding(storage.gray_range, storage.max_image_gib, 2 * storage.max_side)
    source = open_source(
        storage.data, storage.data_dir, split, labels=storage.labels, decoding=decoding
    )
    if source is None:
        return None
    if distributed.is_first():
        for note in source.notes:
            print(note, flush=True)
    folder = storage.beton_dir or storage.data_dir / "beton"
    return source, ensure_beton(source, folder, f"{storage.data}-{split}", storage)


def reopen_data(images: Images) -> Data:
    """Do what open_data does for a run that was trained on these images, so without a download.

    Raises InputError too if they are not there.
    """
    check_is_there(images.data, images.data_dir)
    return open_data(images)


def open_data(images: Images) -> Data:
    """Find the set, store what is not stored yet, and cut the validation split from train.

    Raises InputError for anything about the images that the user has to mend.
    """
    train_split, test_split = (open_split(images, split) for split in SPLITS)
    assert train_split is not None  # open_source finds train or raises
    _, train = train_split
    test = test_split[1] if test_split is not None else None
    positions, validation = train_and_validation(
        train.labels, images.val_fraction, images.fraction, images.split_seed
    )
    if len(positions) == 0:
        raise InputError(
            f"--fraction {images.fraction} of {len(train.labels)} images leaves none to train on"
        )
    pretrain = positions
    if not images.hold_out:
        pretrain = of_all(train.labels, images.fraction, images.split_seed)
    return Data(train, test, positions, validation, pretrain)

"""Where images come from, how they are stored and how they reach the device."""

from __future__ import annotations

import types
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import torch

# Where it finds TBB (OpenCV brings it) numba takes it, and its layer leaks 7 KB at every batch that FFCV reads.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # type: ignore[attr-defined]

# FFCV sets torch's thread count, to 1 when it is imported and to the loader's workers later: training would run on
# one core, and its results depend on --workers. Everything that imports FFCV lies in this package, so this is first.
_threads = torch.get_num_threads()
import ffcv.loader.epoch_iterator
import ffcv.pipeline.compiler

torch.set_num_threads(_threads)
ffcv.pipeline.compiler.ch = types.SimpleNamespace(set_num_threads=lambda count: None)
# Our pipelines end on the CPU; FFCV would take memory and streams on the first GPU all the same.
ffcv.loader.epoch_iterator.IS_CUDA = False

from effssl import InputError
from effssl.config import SetName, Storage
from effssl.data.beton import Beton, ensure_beton
from effssl.data.sources import Source, open_source
from effssl.data.splits import train_and_validation

SPLITS = ("train", "test")


class Data(NamedTuple):
    """A set, stored and split. Positions are int64 into the .beton of train."""

    train: Beton
    test: Beton | None
    train_positions: np.ndarray
    val_positions: np.ndarray


def open_split(storage: Storage, split: str) -> tuple[Source, Beton] | None:
    """Find one of the set's SPLITS, and store it if it is not stored yet; None when the set has no such split.

    Raises InputError for anything about the images that the user has to mend.
    """
    source = open_source(storage.data, storage.data_dir, split)
    if source is None:
        return None
    return source, ensure_beton(
        source,
        storage.beton_dir or storage.data_dir / "beton",
        f"{storage.data}-{split}",
        max_side=storage.max_side,
        jpeg_quality=storage.jpeg_quality,
        workers=storage.workers,
        skip_corrupt=storage.skip_corrupt,
    )


def open_data(
    name: SetName,
    data_dir: Path,
    *,
    beton_dir: Path | None,
    val_fraction: float,
    fraction: float,
    split_seed: int,
    max_side: int,
    jpeg_quality: int,
    workers: int,
    skip_corrupt: bool = False,
) -> Data:
    """Find the set, store what is not stored yet, and cut the validation split from train.

    Raises InputError for anything about the images that the user has to mend.
    """
    storage = Storage(name, data_dir, beton_dir, max_side, jpeg_quality, workers, skip_corrupt)
    train, test = (found and found[1] for found in (open_split(storage, split) for split in SPLITS))
    assert train is not None  # open_source finds train or raises
    positions, validation = train_and_validation(train.labels, val_fraction, fraction, split_seed)
    if len(positions) == 0:
        raise InputError(f"--fraction {fraction} of {len(train.labels)} images leaves none to train on")
    return Data(train, test, positions, validation)

"""Where images come from, how they are stored and how they reach the device."""

from __future__ import annotations

import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

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
from effssl.data.beton import Beton, ensure_beton
from effssl.data.datasets import open_source
from effssl.data.splits import train_and_validation


class Data(NamedTuple):
    """A set, stored and split. Positions are int64 into the .beton of train."""

    train: Beton
    test: Beton | None
    train_positions: np.ndarray
    val_positions: np.ndarray


def open_data(
    name: str,
    data_dir: Path,
    *,
    beton_dir: Path | None,
    val_fraction: float,
    fraction: float,
    split_seed: int,
    max_side: int,
    jpeg_quality: int,
    workers: int,
) -> Data:
    """Find the set, store what is not stored yet, and cut the validation split from train.

    Raises InputError for anything about the images that the user has to mend.
    """
    stored: list[Beton | None] = []
    for split in ("train", "test"):
        source = open_source(name, data_dir, split)
        store = {"max_side": max_side, "jpeg_quality": jpeg_quality, "workers": workers}
        stored.append(source and ensure_beton(source, beton_dir or data_dir / "beton", f"{name}-{split}", **store))
    train, test = stored
    assert train is not None  # open_source finds train or raises
    positions, validation = train_and_validation(train.labels, val_fraction, fraction, split_seed)
    if len(positions) == 0:
        raise InputError(f"--fraction {fraction} of {len(train.labels)} images leaves none to train on")
    return Data(train, test, positions, validation)

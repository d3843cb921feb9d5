"""Augmented views with the labels of their images, to train classifiers on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from effssl import InputError
from effssl.data.beton import Beton
from effssl.data.splits import class_balanced, epoch_order
from effssl.views.stream import ViewStream


class LabelledViews(NamedTuple):
    """Augmented views with labels, an epoch at a time: a function of seed and epoch alone."""

    epoch: Callable[[int], Generator[tuple[Tensor, Tensor], None, None]]
    """epoch -> (views float32 [views, batch, 3, size, size], normalised, labels int64 [batch]), on
    the device."""
    steps_per_epoch: int


def label_fraction(
    folder: Path,
    name: str,
    beton: Beton,
    train_positions: np.ndarray,
    *,
    fraction: float,
    seed: int,
) -> np.ndarray:
    """Sorted positions in `beton` of a class-balanced part of the labelled images among `train_positions`.

    They are those in FOLDER/NAME-labels-FRACTION-seedSEED.txt, one a line below a header, which is written on the first
    call: others can train on the same labels. fraction: in (0, 1], of the images that are left to train on once the
    validation split is cut; at least one image of every class.
    Raises InputError where the file is not of this set, fraction and seed, or names other than labelled training
    images, and where it cannot be read or written.
    """
    labelled = train_positions[beton.labels[train_positions] >= 0]
    header = {
        "set": name,
        "identity": beton.identity,
        "fraction": f"{fraction:g}",
        "seed": str(seed),
    }
    file = folder / f"{name}-labels-{fraction:g}-seed{seed}.txt"
    try:
        if not file.exists():
            chosen = labelled[class_balanced(beton.labels[labelled], fraction, seed)]
            lines = [
                *(f"# {key}: {value}" for key, value in header.items()),
                *map(str, chosen.tolist()),
            ]
            folder.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".tmp")
            temporary.write_text("\n".join(lines) + "\n")
            temporary.replace(file)
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read or written: {getattr(error, 'strerror', None) or error}"
        ) from None
    noted = dict(line[1:].strip().partition(": ")[::2] for line in lines if line.startswith("#"))
    for key, value in header.items():
        if noted.get(key) != value:
            raise InputError(
                f"{file} is of another {key}: {noted.get(key)}, not {value}; remove it to draw anew"
            )
    try:
        positions = np.array(
            [int(line) for line in lines if line and not line.startswith("#")], dtype=np.int64
        )
    except (ValueError, OverflowError):
        raise InputError(f"{file} does not hold one position a line") from None
    others = np.setdiff1d(positions, labelled)
    if len(others) or len(np.unique(positions)) != len(positions) or len(positions) == 0:
        what = (
            f"position {others[0]} is no labelled training image of this split"
            if len(others)
            else "it repeats some"
        )
        raise InputError(f"{file} does not fit: {what if len(positions) else 'it is empty'}")
    return np.sort(positions)


def labelled_views(stream: ViewStream, positions: np.ndarray, *, seed: int) -> LabelledViews:
    """Give the stream's views of the images at `positions` their labels, and a random order.

    Images without a label are left out. All batches are of the stream's size; what is left of an
    epoch is left out (see even_batch_size).

    Args:
        stream: makes the views.
        positions: int64, into the stream's split.
        seed: of the order.

    Raises:
        InputError: if there are fewer images than a batch.
    """
    labels, batch_size = stream.stored.labels, stream.batch_size
    positions = positions[labels[positions] >= 0]
    steps = len(positions) // batch_size
    if steps == 0:
        num_images = f"{len(positions)} labelled images"
        raise InputError(f"a batch of {batch_size} is larger than the set: {num_images}")
    labels_on_device = torch.from_numpy(labels).to(stream.runtime.device)

    def epoch(number: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        order = epoch_order(positions, seed, number)[: steps * batch_size]
        with closing(stream.epoch(order, number)) as batches:
            for views, at in batches:
                yield views, labels_on_device[at]

    return LabelledViews(epoch, steps)


def even_batch_size(num_images: int, at_most: int) -> int:
    """Return a size of batches, `at_most` or less, that leaves out few images of an epoch.

    It is the largest that leaves out fewer images than there are batches.
    """
    return num_images // -(-num_images // at_most)

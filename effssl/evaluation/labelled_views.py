"""Augmented views with the labels of their images, to train classifiers on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from effssl import InputError
from effssl.data.splits import epoch_order
from effssl.ranges import ImageSize
from effssl.views.stream import ViewStream


class LabelledViews(NamedTuple):
    """Augmented views with labels, an epoch at a time: a function of seed and epoch alone."""

    epoch: Callable[[int], Generator[tuple[Tensor, Tensor], None, None]]
    """epoch -> (views float32 [views, batch, 3, size, size], normalised, labels int64 [batch]), on
    the device."""
    steps_per_epoch: int


def labelled_views(
    stream: ViewStream,
    positions: np.ndarray,
    *,
    seed: int,
    size_of: Callable[[int], ImageSize | None] = lambda step: None,
) -> LabelledViews:
    """Give the stream's views of the images at `positions` their labels, and a random order.

    Images without a label are left out. All batches are of the stream's size; what is left of an
    epoch is left out (see even_batch_size).

    Args:
        stream: makes the views.
        positions: int64, into the stream's split.
        seed: of the order.
        size_of: step -> size of the views, at most that of the stream's; None is just that.

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
        rest = epoch_order(positions, seed, number)[: steps * batch_size]
        numbers = range(number * steps, (number + 1) * steps)
        for size, of_size in itertools.groupby(numbers, size_of):
            part, rest = np.split(rest, [batch_size * len(list(of_size))])
            with closing(stream.epoch(part, number, size=size)) as batches:
                for (views,), at in batches:
                    yield views, labels_on_device[at]

    return LabelledViews(epoch, steps)


def even_batch_size(num_images: int, at_most: int) -> int:
    """Return a size of batches, `at_most` or less, that leaves out few images of an epoch.

    It is the largest that leaves out fewer images than there are batches.
    """
    return num_images // -(-num_images // at_most)


def tuning_batch_size(num_labels: int) -> int:
    """Return the batch that a classifier is tuned in: 256 images, fewer if that would be fewer than
    25 steps an epoch, but 16."""
    return even_batch_size(num_labels, min(256, max(16, num_labels // 25)))

"""Labelled images to train classifiers on, as augmented views."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from effssl import InputError
from effssl.data.beton import Beton
from effssl.data.ffcv_loader import batches, open_loader
from effssl.data.splits import epoch_order
from effssl.views import draws as sampling
from effssl.views import ops as augment
from effssl.views.decode_crops import MultiViewDecoder

# Of the strengths of sampling.draw: crops and flips alone, with which classifiers are fine-tuned
NO_COLOURS = {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0, "solarize_prob": 0.0}


class LabelledViews(NamedTuple):
    """Augmented views with labels, an epoch at a time."""

    epoch: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    """epoch -> (views float32 [views, batch, 3, size, size], normalised, labels int64 [batch]), on the device; a
    function of the seed and the epoch alone."""
    steps_per_epoch: int
    batch_size: int


def labelled_views(
    beton: Beton,
    positions: np.ndarray,
    *,
    batch_size: int,
    views: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    strengths: Mapping[str, Any],
    seed: int,
    workers: int,
    device: torch.device,
    compiled: bool = False,
) -> LabelledViews:
    """Views of the images at `positions`, less those without a label, made as those of pretraining are: from (seed,
    epoch, position, view) alone, with the strengths of sampling.draw. All batches have `batch_size` images; what is
    left of an epoch is left out (see even_batch_size). Raises InputError for a file that cannot be read and for fewer
    images than a batch."""
    positions = positions[beton.labels[positions] >= 0]
    steps = len(positions) // batch_size
    if steps == 0:
        raise InputError(f"a batch of {batch_size} is larger than the set: {len(positions)} labelled images")
    crops = None
    if beton.side is None:  # of images of varied size the crops are cut where they are decoded
        scale, ratio = strengths["crop_scale"], strengths["crop_ratio"]
        crops = MultiViewDecoder(views=views, size=size, seed=seed, crop_scale=scale, crop_ratio=ratio)
    loader = open_loader(beton.path, batch_size, workers, None, crops)
    side = beton.side or size
    draw = functools.partial(sampling.draw, stored=(side, side), views=views, seed=seed, **strengths)
    make_views = torch.compile(augment.make_views) if compiled else augment.make_views
    labels = torch.from_numpy(beton.labels).to(device)

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(positions, seed, number)[: steps * batch_size]
        for images, at in batches(loader, order, device, epoch=number):
            x = make_views(images, draw(indices=at, epoch=number), size=size, mean=mean, std=std)
            yield x, labels[at]

    return LabelledViews(epoch, steps, batch_size)


def even_batch_size(num_images: int, at_most: int) -> int:
    """The largest size of batches, `at_most` or less, that leaves out fewer images of an epoch than it has batches."""
    return num_images // -(-num_images // at_most)

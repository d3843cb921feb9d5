"""From images to representations h: of clean views, of random views, and the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from effssl.data.beton import Beton
from effssl.data.stored import Data, Split
from effssl.evaluation.layers import evaluating
from effssl.image_config import Augment
from effssl.ranges import ImageSize, height_width
from effssl.run.device import Runtime
from effssl.views.assemble import clean_view
from effssl.views.stream import CLEAN_BATCH, ViewStream

ENCODED_AT_ONCE = 256  # views through the backbone
PIXEL_SIDE = 32  # pixels are probed at no more than this

# The views of every split that the set has
Streams = Mapping[Split, ViewStream]
# Representations [n, dim], on the device, of the images at some positions of a split
Features = Callable[[Split, np.ndarray], Tensor]
T = TypeVar("T", np.ndarray, Tensor)


def open_streams(
    data: Data,
    augment: Augment,
    *,
    seed: int,
    batch_size: int,
    workers: int | None,
    runtime: Runtime,
    progress: bool = False,
    small: Augment | None = None,
) -> Streams:
    """Open a stream of the views of every split; the arguments are those of ViewStream."""
    stored: dict[Split, Beton | None] = {"train": data.train, "test": data.test}
    return {
        split: ViewStream(
            beton,
            augment,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            runtime=runtime,
            progress=progress,
            small=small,
        )
        for split, beton in stored.items()
        if beton is not None
    }


def encode(backbone: nn.Module, batches: Iterable[Tensor], runtime: Runtime) -> Tensor:
    """Return representations, float32 [n, dim], of normalised views, batches of [b, 3, h, w].

    The backbone is in eval mode meanwhile; afterwards every part is in the mode it was in.
    """
    encoded = []
    with evaluating(backbone):
        for x in batches:
            with runtime.autocast():
                h = backbone(x.to(memory_format=torch.channels_last))
            encoded.append(h.float())
    return torch.cat(encoded)


def embed(projector: nn.Module, h: Tensor) -> Tensor:
    """Return embeddings [n, dim] of representations h [n, dim_h]; modes are left as they were."""
    with evaluating(projector):
        return projector(h)


def pixels(batches: Iterable[Tensor]) -> Tensor:
    """Return the views themselves, [n, 3 h w]."""
    return torch.cat([x.flatten(1) for x in batches])


def clean_views_of(images: np.ndarray, stream: ViewStream, size: ImageSize) -> Iterator[Tensor]:
    """Make clean views, as the stream does, of images that are not stored.

    images: uint8 [n, height, width, 3], which may be mapped from a file; size: of the views, in
    pixels. Yields float32 [batch, 3, h, w], normalised, on the device.
    """
    augment = replace(stream.augment, image_size=size)
    for start in range(0, len(images), CLEAN_BATCH):
        in_memory = np.array(images[start : start + CLEAN_BATCH])
        yield clean_view(torch.from_numpy(in_memory).to(stream.runtime.device), augment)


def backbone_features(backbone: nn.Module, streams: Streams) -> Features:
    """Encode clean single views."""

    def features(split: Split, positions: np.ndarray) -> Tensor:
        stream = streams[split]
        return encode(backbone, stream.clean(positions), stream.runtime)

    return features


def pixel_features(streams: Streams) -> Features:
    """Take the pixels of clean views for representations, at most PIXEL_SIDE a side."""

    def features(split: Split, positions: np.ndarray) -> Tensor:
        stream = streams[split]
        return pixels(stream.clean(positions, size=pixel_size(stream)))

    return features


def pixel_size(stream: ViewStream) -> ImageSize:
    """Return the size of the views whose pixels are probed, of the shape of the others."""
    height, width = height_width(stream.augment.image_size)
    part = min(1, PIXEL_SIDE / max(height, width))
    return max(8, round(part * height)), max(8, round(part * width))


def averaged_features(backbone: nn.Module, streams: Streams) -> Features:
    """Average the representations of every image's random views, those of `streams` in epoch 0."""
    return lambda split, positions: torch.cat(
        [h.mean(0) for h in _of_random_views(backbone, streams[split], positions)]
    )


def authors_features(backbone: nn.Module, clean: Streams, streams: Streams) -> Features:
    """Average the representations of every image's clean view and of its random views.

    With 15 views as in pretraining it is what the code of arXiv 2312.10725 probes, of training and
    test images alike.
    """
    of_clean, of_random = backbone_features(backbone, clean), averaged_features(backbone, streams)

    def features(split: Split, positions: np.ndarray) -> Tensor:
        num_random = streams[split].augment.views
        total = of_clean(split, positions) + num_random * of_random(split, positions)
        return total / (1 + num_random)

    return features


def view_features(backbone: nn.Module, streams: Streams) -> Features:
    """Encode every image's random views, those of `streams` in epoch 0: [n, views, dim]."""
    return lambda split, positions: torch.cat(
        [h.transpose(0, 1) for h in _of_random_views(backbone, streams[split], positions)]
    )


def random_streams(streams: Streams, augment: Augment, *, seed: int) -> Streams:
    """Return streams of the same images whose random views, of `seed`, are to be encoded."""
    batch_size = max(1, ENCODED_AT_ONCE // augment.views)
    return {
        split: stream.with_views(augment, seed=seed, batch_size=batch_size)
        for split, stream in streams.items()
    }


def crops_and_flips(augment: Augment, *, views: int) -> Augment:
    """Say how views are made if they are cropped and flipped, and nothing else is done to them.

    Classifiers are fine-tuned on such views, and representations are averaged over them.
    """
    return replace(
        augment,
        views=views,
        quarter_turns=False,
        rotate=0.0,
        shear=0.0,
        affine_scale=(1.0, 1.0),
        jitter_prob=0.0,
        gray_prob=0.0,
        blur_prob=0.0,
        solarize_prob=0.0,
        erase_prob=0.0,
        rand_augment=None,
        transform=None,
    )


def finite(h: Tensor) -> Tensor:
    """Return representations. Raises FloatingPointError if they are not finite."""
    if not h.isfinite().all():  # weights may diverge before the loss shows it
        raise FloatingPointError("representations are not finite: the training has diverged")
    return h


def spread(rows: T, count: int) -> T:
    """Return at most `count` rows of an array or tensor, evenly over its length.

    Not the first ones: images may lie sorted by class.
    """
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _of_random_views(
    backbone: nn.Module, stream: ViewStream, positions: np.ndarray
) -> Iterator[Tensor]:
    """Yield [views, batch, dim] at a time."""
    for (x,), _ in stream.epoch(positions, 0):
        at_once = x.flatten(0, 1).split(ENCODED_AT_ONCE)
        yield encode(backbone, at_once, stream.runtime).unflatten(0, x.shape[:2])

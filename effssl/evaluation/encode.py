"""From stored images to representations h: of clean views, of the mean over random crops, and the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from effssl.data.beton import Beton
from effssl.data.ffcv_loader import batches, open_loader
from effssl.evaluation.layers import evaluating
from effssl.views import draws as sampling
from effssl.views import ops as augment
from effssl.views.decode_crops import MultiViewDecoder

BATCH = 256  # views through the backbone at a time
PIXEL_SIDE = 32  # pixels are probed at no more than this


class Clean(NamedTuple):
    """How clean views are made."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    canvas: int  # side that images of varied size are decoded to, in pixels; see loader.open_loader
    workers: int
    device: torch.device
    dtype: torch.dtype
    progress: bool = False  # bars, where stderr is a terminal


class RandomViews(NamedTuple):
    """Random views of every image, the same at every call."""

    num_views: int
    strengths: Mapping[str, Any]  # what sampling.draw takes
    seed: int


# Representations [n, dim] of normalised views [b, 3, size, size], batch by batch
Encode = Callable[[Iterable[Tensor]], Tensor]
# Representations [n, dim], on the device, of the images at some positions of a stored split
Features = Callable[[Beton, np.ndarray], Tensor]


def encode(backbone: nn.Module, batches: Iterable[Tensor], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Representations of clean views, float32 [n, dim]. batches: normalised [b, 3, h, w]; every module is left in
    the mode it was in. dtype: bfloat16 for autocast."""
    parts = []
    with evaluating(backbone):
        for x in batches:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                h = backbone(x.to(memory_format=torch.channels_last))
            parts.append(h.float())
    return torch.cat(parts)


def embed(projector: nn.Module, h: Tensor) -> Tensor:
    """Embeddings [n, dim] of representations h [n, dim_h]; every module is left in the mode it was in."""
    with evaluating(projector):
        return projector(h)


def pixels(batches: Iterable[Tensor]) -> Tensor:
    """The views themselves, [n, 3 h w]."""
    return torch.cat([x.flatten(1) for x in batches])


def backbone_features(backbone: nn.Module, clean: Clean) -> Features:
    """Representations of clean single views."""
    return lambda beton, positions: encode(backbone, clean_views(beton, positions, clean), dtype=clean.dtype)


def pixel_features(clean: Clean) -> Features:
    """The pixels themselves, at most PIXEL_SIDE a side."""
    small = small_views(clean)
    return lambda beton, positions: pixels(clean_views(beton, positions, small))


def small_views(clean: Clean) -> Clean:
    """How the views are made whose pixels are probed."""
    return clean._replace(size=min(PIXEL_SIDE, clean.size))


def averaged_features(backbone: nn.Module, clean: Clean, random: RandomViews) -> Features:
    """Mean representations over random views of every image; over crops and flips alone they are what the probes of
    arXiv 2312.10725 see."""
    return lambda beton, positions: torch.cat(
        [h.mean(0) for h in _of_random_views(backbone, beton, positions, clean, random)]
    )


def view_features(backbone: nn.Module, clean: Clean, random: RandomViews) -> Features:
    """Representations [n, views, dim] of random views of every image."""
    return lambda beton, positions: torch.cat(
        [h.transpose(0, 1) for h in _of_random_views(backbone, beton, positions, clean, random)]
    )


def _of_random_views(
    backbone: nn.Module, beton: Beton, positions: np.ndarray, clean: Clean, random: RandomViews
) -> Iterator[Tensor]:
    """[views, batch, dim] at a time."""
    side = beton.side or clean.size
    loader = _loader(beton, clean, max(1, BATCH // random.num_views), random)
    for images, indices in _watched(batches(loader, positions, clean.device), len(positions), clean):
        draws = sampling.draw(
            indices, stored=(side, side), views=random.num_views, seed=random.seed, epoch=0, **random.strengths
        )
        x = augment.make_views(images, draws, size=clean.size, mean=clean.mean, std=clean.std)
        yield encode(backbone, x.flatten(0, 1).split(BATCH), dtype=clean.dtype).unflatten(0, x.shape[:2])


def clean_views(beton: Beton, positions: np.ndarray, clean: Clean) -> Iterator[Tensor]:
    """Clean views [batch, 3, size, size], normalised, on the device, of the images at `positions`, in that order."""
    loader = _loader(beton, clean, BATCH, None)
    for images, _ in _watched(batches(loader, positions, clean.device), len(positions), clean):
        yield augment.clean_view(images, size=clean.size, mean=clean.mean, std=clean.std)


def clean_views_of(images: np.ndarray, clean: Clean) -> Iterator[Tensor]:
    """The same of images that are not stored, uint8 [n, height, width, 3]."""
    starts = range(0, len(images), BATCH)
    parts = ((torch.from_numpy(np.array(images[at : at + BATCH])), None) for at in starts)  # copied: they may be mapped
    for part, _ in _watched(parts, len(images), clean):
        yield augment.clean_view(part.to(clean.device), size=clean.size, mean=clean.mean, std=clean.std)


_loaders: dict[tuple, Any] = {}  # compiling one takes seconds, and every probe reads the same two files


def _loader(beton: Beton, clean: Clean, batch_size: int, random: RandomViews | None):
    """Of whole images where they are of one size, or not for random views; else of random crops of each."""
    canvas, decoder, crops = None, None, None
    if beton.side is None and random is None:
        canvas = clean.canvas
    elif beton.side is None and random is not None:
        how = {name: tuple(random.strengths[name]) for name in ("crop_scale", "crop_ratio")}
        decoder = MultiViewDecoder(views=random.num_views, size=clean.size, seed=random.seed, **how)
        crops = (random.num_views, clean.size, random.seed, *how.values())
    key = (beton.path, clean.workers, batch_size, canvas, crops)
    if key not in _loaders:
        _loaders[key] = open_loader(beton.path, batch_size, clean.workers, canvas, decoder)
    return _loaders[key]


def _watched(batches: Iterator[tuple[Tensor, Any]], count: int, clean: Clean) -> Iterator[tuple[Tensor, Any]]:
    with tqdm(total=count, unit="image", delay=2, leave=False, disable=None if clean.progress else True) as bar:
        for images, positions in batches:
            yield images, positions
            bar.update(len(images))


def spread(rows, count: int):
    """At most `count` rows of an array or tensor, evenly over its length: images may lie sorted by class."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]

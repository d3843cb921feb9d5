"""What loaders have to deliver in the benchmark of loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effssl.image_config import Augment

# The CIFAR-10 recipe of arXiv 2312.10725.
COLOUR = Augment(saturation=0.4, hue=0.0, blur_prob=0.0, solarize_prob=0.0)
CROPS = replace(COLOUR, hflip_prob=0.0, jitter_prob=0.0, gray_prob=0.0)

Pass = Callable[[int], Iterator[int]]  # epoch -> the numbers of views of its batches


class Case(NamedTuple):
    """K views of every image, from a .beton or from files."""

    size: int  # of a view, in pixels
    views: int  # 0: the images as they are, no views
    colour: bool  # all augmentations, else crops alone; normalised either way
    total: int  # images of the set
    images: int  # of a pass
    batch: int
    workers: int
    beton: Path
    side: int | None  # of images stored raw, in pixels
    files: Path  # the same images for DataLoaders: .npy, or a folder of JPEGs


def chosen_positions(case: Case) -> np.ndarray:
    """Return the images of a pass, by position in the .beton: a seeded choice."""
    return np.random.default_rng(0).permutation(case.total)[: case.images]

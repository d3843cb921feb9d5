"""The mean and the standard deviation that views are normalised with, measured on the images."""

from __future__ import annotations

import numpy as np

from effssl.data.facts import FLAT, pixels_of
from effssl.data.stored import Data

MEASURED = 500  # images, evenly spread


def measured(data: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, a number a channel, of the images to pretrain on.

    Every image counts alike, however large it is. A colour that does not vary has a deviation of 1.
    """
    assert data.source is not None  # it is None in tests alone, which make their own Data
    positions = data.train.positions[data.pretrain_positions]
    chosen = np.unique(np.linspace(0, len(positions) - 1, MEASURED).astype(np.int64))
    pixels = pixels_of(data.source.images, positions[chosen].tolist())
    return _rounded(pixels.mean), _rounded(np.where(pixels.std < FLAT, 1.0, pixels.std))


def _rounded(of_channels: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in of_channels)

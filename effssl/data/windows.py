"""Which values of images of more than 8 bits are black and white: measured, and looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from effssl import InputError
from effssl.data.bands import read_raster
from effssl.data.decode import Readable, stream_of
from effssl.data.image_files import ImageFiles
from effssl.data.stored import find_split
from effssl.image_config import Storage
from effssl.run import distributed

SAMPLED = 64  # images that stand for all, evenly spread
EACH = 2**16  # values of one that are looked at, about, so that images count alike
TAILS = 0.1, 99.9  # percentiles that are black and white
_CLIPPED, _USED = 0.01, 1 / 16  # part of the values beyond a range, and of the range that is used

S = TypeVar("S", bound=Storage)


def with_range(storage: S) -> S:
    """Return the settings with `gray_range` in numbers where it is to be measured, and say what is
    odd about one that is given.

    Raises InputError as find_split does, and if no image has more than 8 bits.
    """
    given = storage.gray_range
    if given is None:
        return storage
    source = find_split(replace(storage, gray_range=None), "train")
    values = np.empty(0)
    if source is not None and isinstance(source.images, ImageFiles):
        values = _sampled(source.images)
    if given != "auto":
        if distributed.is_first() and (odd := about(values, given)):
            print(f"--gray-range {given[0]:g} {given[1]:g}: {odd}", flush=True)
        return storage
    if len(values) == 0:
        raise InputError("--gray-range auto: no image of more than 8 bits that can be read")
    low, high = (float(f"{value:.6g}") for value in np.percentile(values, TAILS))
    if low == high:
        raise InputError(f"--gray-range auto: nearly all values are {low:g}; give two numbers")
    if distributed.is_first():
        print(f"--gray-range auto: black is {low:g} and white {high:g}", flush=True)
    return replace(storage, gray_range=(low, high))


def about(values: np.ndarray, window: tuple[float, float]) -> str:
    """Say what is odd about a range for such values; nothing if they are none."""
    if len(values) == 0:
        return ""
    low, high = window
    part = float(((values < low) | (values > high)).mean())
    ends = np.percentile(values, TAILS).clip(low, high)
    used = float(ends[1] - ends[0]) / (high - low)
    said = [f"{100 * part:.3g}% of the values lie beyond it"] if part > _CLIPPED else []
    said += [f"the values use {100 * used:.2g}% of it"] if used < _USED else []
    return " and ".join(said)


def _sampled(images: ImageFiles) -> np.ndarray:
    """Return values of more than 8 bits, float64 [values], of SAMPLED images or all."""
    chosen = np.unique(np.linspace(0, len(images) - 1, SAMPLED).astype(int)).tolist()
    return np.concatenate([np.empty(0), *(_deep_values(images.paths[i]) for i in chosen)])


def _deep_values(file: Path | Readable) -> np.ndarray:
    try:
        with stream_of(file) as stream:
            values = read_raster(stream).values
    except Exception:  # it is named when it is stored
        return np.empty(0)
    if values.dtype.itemsize == 1 or values.dtype.kind not in "uif":
        return np.empty(0)
    every = values.reshape(-1)[:: max(1, values.size // EACH)].astype(np.float64)
    return every[np.isfinite(every)]

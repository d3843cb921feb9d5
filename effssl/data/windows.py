"""What settings leave to the images: how many channels they have, and which of their values are
black and white."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from effssl import InputError
from effssl.data.bands import read_raster
from effssl.data.decode import Decoding, Readable, opened, stream_of
from effssl.data.headers import header_of
from effssl.data.image_files import ImageFiles
from effssl.data.stored import OWN_SETS, find_split
from effssl.image_config import Storage
from effssl.ranges import AUTO
from effssl.run import distributed

HEADERS = 20_000  # images whose headers are read at most
SAMPLED = 64  # images that stand for all, evenly spread
EACH = 2**16  # values of one that are looked at, about, so that images count alike
TAILS = 0.1, 99.9  # percentiles that are black and white
_CLIPPED, _USED = 0.01, 1 / 16  # part of the values beyond a range, and of the range that is used

S = TypeVar("S", bound=Storage)


def with_range(storage: S) -> S:
    """Return the settings with `gray_range` in numbers where it is to be measured, and say what is
    odd about one that is given.

    Raises InputError as find_split does, and if no image that a range is for has more than 8 bits.
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
        what = "image" if storage.channels else "gray image"
        hint = "" if storage.channels else "; colours are measured with --channels 3"
        raise InputError(f"--gray-range auto: no {what} of more than 8 bits that can be read{hint}")
    low, high = (float(f"{value:.6g}") for value in np.percentile(values, TAILS))
    if low == high:
        raise InputError(f"--gray-range auto: nearly all values are {low:g}; give two numbers")
    if distributed.is_first():
        print(f"--gray-range auto: black is {low:g} and white {high:g}", flush=True)
    return replace(storage, gray_range=(low, high))


def with_channels(storage: S) -> S:
    """Return the settings with `channels` in numbers, or None for RGB of 8 bits, where they are to
    be found out.

    Raises InputError as find_split does, and if images have several numbers of them.
    """
    if storage.channels != AUTO:
        return storage
    if storage.data not in OWN_SETS:  # the named sets are RGB of 8 bits
        return replace(storage, channels=None)
    # With any number files of all kinds are found.
    source = find_split(replace(storage, channels=1, gray_range=None), "train")
    if source is None or not isinstance(source.images, ImageFiles):
        return replace(storage, channels=None)
    counts, bits, why_not = _channels_and_bits(source.images)
    if not counts:
        raise InputError(f"--channels auto: no image can be read: {why_not}")
    if len(counts) > 1:
        counted = ", ".join(f"{count} of {channels}" for channels, count in counts.most_common())
        raise InputError(f"--channels auto: images have several numbers of channels: {counted}")
    (channels,) = counts
    is_rgb = (channels, bits) == (3, 8)
    if distributed.is_first():
        print(f"--channels auto: {channels}, {bits} bits a value", flush=True)
    return replace(storage, channels=None if is_rgb else channels)


def _channels_and_bits(images: ImageFiles) -> tuple[Counter[int], int, str]:
    """Count images by channels, and return the most bits of a value, and why the last one that is
    not counted could not be read."""
    counts: Counter[int] = Counter()
    bits, why_not = 8, ""
    chosen = np.unique(np.linspace(0, len(images) - 1, HEADERS).astype(int)).tolist()
    for i in chosen:
        try:
            header = header_of(images.paths[i], images.decoding)
        except Exception as error:  # it is named when it is stored
            why_not = " ".join(f"{images.paths[i]}: {error}".split())
            continue
        counts[header.channels] += 1
        bits = max(bits, header.bits)
    return counts, bits, why_not


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
    of_each = (_deep_values(images.paths[i], images.decoding) for i in chosen)
    return np.concatenate([np.empty(0), *of_each])


def _deep_values(file: Path | Readable, decoding: Decoding) -> np.ndarray:
    """Return values of an image that a range is for: of more than 8 bits, and gray if it is to
    become RGB of 8 bits."""
    try:
        if not decoding.has_arrays:
            with opened(file) as image:
                if image.mode[0] not in "IF":
                    return np.empty(0)
        with stream_of(file) as stream:
            values = read_raster(stream).values
    except Exception:  # it is named when it is stored
        return np.empty(0)
    if values.dtype.itemsize == 1 or values.dtype.kind not in "uif":
        return np.empty(0)
    every = values.reshape(-1)[:: max(1, values.size // EACH)].astype(np.float64)
    return every[np.isfinite(every)]

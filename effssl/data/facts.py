"""What images are before they are stored: kinds, sizes, and which are repeated, flat or damaged."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.decode import DEFAULT
from effssl.data.headers import header_of
from effssl.data.image_files import ImageFiles
from effssl.data.sources import ImageSequence
from effssl.data.values import in_unit_range

NEAR = 0.02  # mean brightness, in [0, 1], within which of 0 or 1 an image is black or white
ENOUGH = 2**18  # pixels of an image that are looked at, or up to four times as many
FLAT = 1 / 255  # standard deviation of brightness up to which an image is of one value


class Headers(NamedTuple):
    """What the headers of images say."""

    kinds: Counter[str]  # "JPEG RGB" -> images
    sizes: np.ndarray  # int64 [images, 2], height and width in pixels; those that could be read


class Pixels(NamedTuple):
    """What the pixels of images say; positions are of the images, in their order."""

    mean: np.ndarray  # float64 [channels], in [0, 1]
    std: np.ndarray  # float64 [channels], over all pixels of all images
    black: list[int]
    white: list[int]
    flat: list[int]
    damaged: list[str]  # why each does not decode


def headers_of(images: ImageSequence, positions: Iterable[int]) -> Headers:
    """Read the headers of images, or look at arrays that are no files."""
    kinds: Counter[str] = Counter()
    sizes = []
    for position in positions:
        if not isinstance(images, ImageFiles):
            kinds["arrays RGB"] += 1
            sizes.append(images[position].shape[:2])
            continue
        try:
            header = header_of(images.paths[position], images.decoding)
        except Exception:  # damaged files make Pillow raise nearly anything
            kinds["not readable"] += 1
            continue
        bands = f", {header.channels} channels" if images.decoding.has_arrays else ""
        kinds[f"{header.kind}{bands}"] += 1
        sizes.append(header.size)
    return Headers(kinds, np.array(sizes, np.int64).reshape(-1, 2))


def pixels_of(images: ImageSequence, positions: Iterable[int]) -> Pixels:
    """Decode images, as they would be stored, and look at their pixels."""
    decoding = images.decoding if isinstance(images, ImageFiles) else DEFAULT
    means, squares = [], []
    black, white, flat = [], [], []
    damaged = []
    for position in positions:
        try:
            pixels = images[position]
        except InputError as error:
            damaged.append(str(error))
            continue
        step = max(1, math.isqrt(pixels.shape[0] * pixels.shape[1] // ENOUGH))
        every = pixels[::step, ::step].reshape(-1, pixels.shape[2])
        x = in_unit_range(every, decoding.gray_range)
        means.append(x.mean(0))
        squares.append(np.square(x).mean(0))
        brightness = x.mean(1)
        if brightness.std() <= FLAT:
            flat.append(position)
        if brightness.mean() < NEAR:
            black.append(position)
        if brightness.mean() > 1 - NEAR:
            white.append(position)
    if not means:
        nothing = np.full(decoding.channels or 3, np.nan)
        return Pixels(nothing, nothing, black, white, flat, damaged)
    mean = np.mean(means, 0)
    std = np.sqrt(np.maximum(np.mean(squares, 0) - mean**2, 0))
    return Pixels(mean, std, black, white, flat, damaged)


def repeated(splits: Sequence[ImageSequence]) -> list[list[tuple[int, int]]]:
    """Find images that are byte for byte the same, within a split and across.

    Files are read only where another one has as many bytes. Returns groups of two and more, each a
    list of (split, position), in order; those that cannot be read are in none.
    """
    by_length: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for split, images in enumerate(splits):
        for position in range(len(images)):
            length = _length(images, position)
            if length is not None:
                by_length[length].append((split, position))
    by_content: dict[tuple[int, bytes], list[tuple[int, int]]] = defaultdict(list)
    for length, members in by_length.items():
        if len(members) > 1:
            for split, position in members:
                content = _content(splits[split], position)
                if content is not None:
                    key = hashlib.blake2b(content, digest_size=16).digest()
                    by_content[length, key].append((split, position))
    return sorted(group for group in by_content.values() if len(group) > 1)


def _length(images: ImageSequence, position: int) -> int | None:
    if not isinstance(images, ImageFiles):
        return images[position].nbytes
    try:
        file = images.paths[position]
        return file.stat().st_size if isinstance(file, Path) else file.size
    except Exception:  # of a row it is the length of what is read: see _content
        return None


def _content(images: ImageSequence, position: int) -> bytes | None:
    """Return the bytes of an image; None if it cannot be read."""
    if not isinstance(images, ImageFiles):
        return images[position].tobytes()
    try:
        return images.paths[position].read_bytes()
    except Exception:  # damaged archives and shards raise many kinds
        return None

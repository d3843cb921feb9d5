"""Stored images -> pixels, in compiled code that is kept on disk and is the same for every loader.

FFCV's own decoders are closures, in which other compiled functions and addresses of its library are
constants; numba keeps no such code. Ours are functions of a module that take what they use as
arguments.
"""

from __future__ import annotations

import math
from typing import Protocol

import numba
import numpy as np

from effssl.data.beton_file import JPEG, Storage
from effssl.data.compiled import compiled, part_of_compiled
from effssl.data.ffcv_jpeg import imdecode
from effssl.data.values import RGB, Values


class DamagedImage(Exception):
    """A stored image does not decode, or is not what was stored; `row` is its row in the file."""

    def __init__(self, row: int):
        super().__init__(f"image {row} is damaged")
        self.row = row


class Decoder(Protocol):
    """What makes pixels of stored images, for one loader alone."""

    @property
    def values(self) -> Values:
        """What the numbers of the images are; those that are read are of `values.read_as`."""
        ...

    def shape_of(self, images: np.ndarray) -> tuple[int, ...]:
        """Return the shape of what is made of each of `images`, beton_file.IMAGE [images].

        Raises ValueError if they are not such that it could be.
        """
        ...

    def read(
        self, positions: np.ndarray, out: np.ndarray, images: np.ndarray, storage: Storage
    ) -> np.ndarray:
        """Make the pixels of a batch, in `out`; return which images could be read, bool [batch].

        positions: uint64 [batch], in the split; out: values.read_as [batch, *shape]; images:
        beton_file.IMAGE [batch].
        """
        ...


class WholeImageDecoder:
    """Images of one size, stored raw -> values.read_as [batch, height, width, channels]."""

    def __init__(self, values: Values = RGB):
        self.values = values

    def shape_of(self, images: np.ndarray) -> tuple[int, ...]:
        """See Decoder."""
        of_first = images[:1]
        if not all((images[name] == of_first[name]).all() for name in ("height", "width")):
            raise ValueError("its images are not all of one size")
        height, width = (int(of_first[name].item()) for name in ("height", "width"))
        return height, width, self.values.channels

    def read(
        self, positions: np.ndarray, out: np.ndarray, images: np.ndarray, storage: Storage
    ) -> np.ndarray:
        """See Decoder."""
        _, values = self.values.for_compiled()
        return _read_raw(out, images, storage, values)


def raise_if_damaged(is_read: np.ndarray, positions: np.ndarray) -> None:
    """Raise DamagedImage for the first position whose image was not read.

    Compiled code notes it, as no exception can leave a parallel loop.
    """
    if not is_read.all():
        raise DamagedImage(int(positions[~is_read][0]))


@compiled
def _read_raw(out, images, storage, values):
    """Read raw images, and return which of them are whole."""
    is_read = np.empty(len(images), np.bool_)
    for i in numba.prange(len(images)):
        content = stored_bytes(images[i]["data_ptr"], storage)
        is_read[i] = _copied(content, out[i].reshape(-1), values)
    return is_read


@part_of_compiled
def stored_bytes(address, storage):
    """Return the part of the file that begins at `address`."""
    content, starts, sizes = storage
    start = np.int64(address)
    return content[start : start + np.int64(sizes[np.searchsorted(starts, address)])]


@part_of_compiled
def read_image(stored, storage, image, values):
    """Read into `image`, [height, width, channels] of the stored size; say whether that went.

    values: the second of Values.for_compiled; image: of Values.read_as.
    """
    content = stored_bytes(stored["data_ptr"], storage)
    if stored["mode"] == JPEG:
        return _decode_jpeg(content, image)
    return _copied(content, image.reshape(-1), values)


@part_of_compiled
def _copied(content, pixels, values):
    """Write stored bytes into `pixels`, as they are or as numbers in [0, 1]; say whether they are
    as many."""
    example, low, scale = values
    if len(content) != len(pixels) * example.itemsize:
        return False
    if example.itemsize == 1:
        for k in range(len(pixels)):
            pixels[k] = content[k]
        return True
    stored = content.view(example.dtype)
    for k in range(len(pixels)):
        number = (np.float32(stored[k]) - low) * scale
        pixels[k] = 0 if math.isnan(number) else min(max(number, np.float32(0)), np.float32(1))
    return True


@part_of_compiled
def _decode_jpeg(jpeg, image):
    """Decode into `image`, uint8 [height, width, 3], of the JPEG's size; say whether that went."""
    height, width = np.uint32(image.shape[0]), np.uint32(image.shape[1])
    no, once = np.uint32(0), np.uint32(1)
    source, size, pixels = jpeg.ctypes.data, np.uint64(jpeg.size), image.ctypes.data
    failed = imdecode(
        source, size, height, width, pixels, height, width, no, no, once, once, no, no
    )
    return failed == 0

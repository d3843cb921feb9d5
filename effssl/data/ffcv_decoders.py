"""Stored images read by compiled code that is kept on disk, where FFCV compiles in every process.

FFCV's decoders are closures, in which other compiled functions and addresses of its library are
constants; numba keeps no such code. Ours are functions of a module that take what they use as
arguments, and call the library by names, which every process binds to its own addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
from ffcv.libffcv import ctypes_imdecode, ctypes_resize
from numba import types

from effssl.data.compiled import compiled, part_of_compiled

# What FFCV gives every decoder: the bytes of the file, and where in it the parts that it wrote
# begin, sorted, and how long they are.
Storage = tuple[np.ndarray, np.ndarray, np.ndarray]


_JPEG_MODE = IMAGE_MODES["jpg"]


class WholeImageDecoder(SimpleRGBImageDecoder):  # FFCV takes no other class for an image's decoder
    """Images of one size, stored raw -> uint8 [batch, height, width, 3]."""

    def generate_code(self) -> Callable:
        """Give FFCV the function that reads a batch; part of its interface."""

        def read(positions, images, fields, storage: Storage):
            raise_if_damaged(_read_raw(positions, images, fields, storage), positions)
            return images

        return read


def raise_if_damaged(is_read: np.ndarray, positions: np.ndarray) -> None:
    """Raise ValueError with the first position whose image was not read.

    Compiled code notes it, as no exception can leave a parallel loop.
    """
    if not is_read.all():
        raise ValueError(f"a damaged image at position {positions[~is_read][0]}")


@compiled
def _read_raw(positions, images, fields, storage):
    """Copy raw images, and return which of them are whole."""
    is_read = np.empty(len(positions), np.bool_)
    for i in numba.prange(len(positions)):
        pixels = stored_bytes(fields[positions[i]]["data_ptr"], storage)
        image = images[i].reshape(-1)
        is_read[i] = len(pixels) == len(image)
        for k in range(min(len(pixels), len(image))):
            image[k] = pixels[k]
    return is_read


@part_of_compiled
def stored_bytes(address, storage):
    """Return the part of the file that begins at `address`."""
    stored, starts, sizes = storage
    start = np.int64(address)
    return stored[start : start + np.int64(sizes[np.searchsorted(starts, address)])]


@part_of_compiled
def read_image(field, storage, image):
    """Read into `image`, uint8 [height, width, 3], of the stored size; say whether that went."""
    content = stored_bytes(field["data_ptr"], storage)
    if field["mode"] == _JPEG_MODE:
        return _decode_jpeg(content, image)
    pixels = image.reshape(-1)
    if len(content) != len(pixels):
        return False
    for k in range(len(pixels)):
        pixels[k] = content[k]
    return True


@part_of_compiled
def _decode_jpeg(jpeg, image):
    """Decode into `image`, uint8 [height, width, 3], of the JPEG's size; say whether that went."""
    height, width = np.uint32(image.shape[0]), np.uint32(image.shape[1])
    no, once = np.uint32(0), np.uint32(1)
    source, size, pixels = jpeg.ctypes.data, np.uint64(jpeg.size), image.ctypes.data
    failed = _imdecode(
        source, size, height, width, pixels, height, width, no, no, once, once, no, no
    )
    return failed == 0


@part_of_compiled
def resize_crop(image, crop, out):
    """Resize a crop (top, left, height, width) of `image` into `out`, uint8 [h, w, 3] both."""
    top, left, height, width = crop
    source, target = np.int64(image.ctypes.data), np.int64(out.ctypes.data)
    rows, columns = image.shape[0], image.shape[1]
    bottom, right = top + height, left + width
    _resize(0, source, rows, columns, top, bottom, left, right, target, out.shape[0], out.shape[1])


def _by_name(name: str, function: Any, arguments: Sequence[types.Type]) -> Any:
    """Return a function of FFCV's library as one that compiled code calls by name."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, types.int32(*arguments))


_JPEG, _SIZE = [types.uintp, types.uint64], 2 * [types.uint32]
# C's two flags come last, as whole words of which it reads the lowest byte.
_imdecode = _by_name(
    "effssl_imdecode",
    ctypes_imdecode,
    [*_JPEG, *_SIZE, types.uintp, *_SIZE, *(6 * [types.uint32])],
)
_resize = _by_name("effssl_resize", ctypes_resize, 11 * [types.int64])

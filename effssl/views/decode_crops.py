"""K random resized crops of every image, which is decoded once: a decoder for FFCV, in numba.

The crops are those that draws.draw_crops gives for the stored size of the image, from the same
numbers. Nothing here is compiled with fastmath (FFCV's own default), so pixels do not depend on how
the work is divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.libffcv import ctypes_memcopy, imdecode
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler

from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import counters
from effssl.views.counters import CROP_AREA, CROP_ATTEMPTS, CROP_LEFT, CROP_RATIO, CROP_TOP
from effssl.views.cpu_resize import blend_rows, resize_row, resize_weights
from effssl.views.draws import crop_ratios

_compiled = numba.njit(nogil=True, error_model="numpy")
_imdecode = _compiled(imdecode)


class MultiViewDecoder(SimpleRGBImageDecoder):  # FFCV takes no other class for a decoder of images
    """JPEGs -> uint8 [batch, views, height, width, 3]: random crops resized with antialiasing.

    `epoch` may change between passes. An image that does not decode raises ValueError with its
    position in the file.
    """

    def __init__(self, augment: Augment, seed: int):
        super().__init__()
        self.augment, self.seed = augment, seed
        # Read through its address, as numba takes what it sees as constant.
        self._epoch = np.zeros(1, np.int64)

    @property
    def epoch(self) -> int:
        """The epoch whose crops the next pass makes."""
        return int(self._epoch[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch[0] = epoch

    def declare_state_and_memory(self, previous_state):
        """Tell FFCV what comes out; part of its interface."""
        size = height_width(self.augment.image_size)
        shape, uint8 = (self.augment.views, *size, 3), np.dtype("u1")
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=uint8)
        return state, AllocationQuery(shape, uint8)

    def generate_code(self) -> Callable:
        """Give FFCV the function that it compiles; part of its interface."""
        read, images = self.memory_read, Compiler.get_iterator()
        epoch_address, seed = self._epoch.ctypes.data, self.seed
        scale, ratio = self.augment.crop_scale, crop_ratios(self.augment)

        def decode(batch_indices, destination, metadata, storage_state):
            epoch = np.empty(1, np.int64)
            ctypes_memcopy(epoch_address, epoch.ctypes.data, epoch.nbytes)
            decoded = np.empty(len(batch_indices), np.bool_)
            for i in images(len(batch_indices)):
                position = batch_indices[i]
                field = metadata[position]
                jpeg = read(field["data_ptr"], storage_state)
                height, width = int(field["height"]), int(field["width"])
                image = np.empty((height, width, 3), np.uint8)
                decoded[i] = _imdecode(jpeg, image, height, width, height, width) == 0
                for view in range(len(destination[i])):
                    key = view_key(seed, epoch[0], position, view)
                    crop = random_crop(key, height, width, scale, ratio)
                    resized_crop(image, crop, destination[i, view])
            for i in range(len(batch_indices)):  # not raised above, where numba runs in parallel
                if not decoded[i]:
                    raise ValueError("a damaged JPEG at position", batch_indices[i])
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class CentralCropDecoder(CenterCropRGBImageDecoder):
    """JPEGs -> uint8 [batch, height, width, 3]: `central_crop`, resized as FFCV does it.

    output_size: (height, width), whose shape the crop has.
    """

    def __init__(self, output_size: tuple[int, int]):
        height, width = output_size
        super().__init__(output_size, ratio=(width / height, width / height))

    @property
    def get_crop_generator(self) -> Callable:
        """The function that cuts, which FFCV compiles; part of its interface."""
        return lambda height, width, _, ratio: central_crop(height, width, ratio)


@_compiled
def view_key(seed, epoch, index, view):
    """Return the key of counters.uniform from which one view's numbers follow."""
    key_of_epoch = counters.next_key(counters.mix(np.int64(seed)), np.int64(epoch))
    key_of_sample = counters.next_key(key_of_epoch, np.int64(index))
    return counters.next_key(key_of_sample, np.int64(view) + 1)


@_compiled
def random_crop(key, stored_height, stored_width, crop_scale, crop_ratio):
    """Return (top, left, height, width) in pixels, which draws.draw_crops gives this view.

    In float32 and in its order of operations, so that rounding falls on the same side.
    """
    low, high = math.log(crop_ratio[0]), math.log(crop_ratio[1])
    smallest, range_of_scale = np.float32(crop_scale[0]), np.float32(crop_scale[1] - crop_scale[0])
    narrowest, range_of_ratio = np.float32(low), np.float32(high - low)
    for attempt in range(CROP_ATTEMPTS):
        u_area = _uniform(key, CROP_AREA + 2 * attempt)
        u_ratio = _uniform(key, CROP_RATIO + 2 * attempt)
        area = np.float32(stored_height * stored_width) * (smallest + range_of_scale * u_area)
        wide = np.float32(math.exp(np.float64(narrowest + range_of_ratio * u_ratio)))
        width, height = int(np.rint(np.sqrt(area * wide))), int(np.rint(np.sqrt(area / wide)))
        if 0 < width <= stored_width and 0 < height <= stored_height:
            top = int(np.float32(stored_height - height + 1) * _uniform(key, CROP_TOP))
            left = int(np.float32(stored_width - width + 1) * _uniform(key, CROP_LEFT))
            return top, left, height, width
    return central_crop(stored_height, stored_width, crop_ratio)


@_compiled
def central_crop(stored_height, stored_width, crop_ratio):
    """Return (top, left, height, width) of the largest central crop of an allowed ratio.

    crop_ratio: the least and the greatest width over height.
    """
    height, width = int(stored_height), int(stored_width)
    if width / height < crop_ratio[0]:
        height = int(np.rint(width / crop_ratio[0]))
    elif width / height > crop_ratio[1]:
        width = int(np.rint(height * crop_ratio[1]))
    top, left = (int(stored_height) - height) // 2, (int(stored_width) - width) // 2
    return top, left, height, width


@_compiled
def _uniform(key, slot):
    """Return the number of counters.uniform for one slot of a view: float32 in [0, 1)."""
    bits = counters.upper_24_bits(counters.next_key(key, np.int64(slot) + 1))
    return np.float32(bits) * np.float32(counters.UNIT)


@_compiled
def resized_crop(image, crop, out):
    """Resize a crop of `image`, uint8 [H, W, 3], into `out`, uint8 [height, width, 3].

    crop: (top, left, height, width) in pixels. Bilinear and antialiased, as torchvision's.
    """
    height, width = crop[2:]
    rows, columns = resize_weights(height, len(out)), resize_weights(width, out.shape[1])
    blended = np.zeros(3 * (width + len(columns[1])), np.float32)  # stored rows of one of `out`
    resized = np.empty(3 * out.shape[1], np.float32)
    for s in range(len(out)):
        blend_rows(image.reshape(len(image), -1), crop, s, rows, blended[: 3 * width])
        resize_row(blended, columns, np.float32(0.5), resized, 0, (3, 1))
        _round_down(resized, out[s].reshape(-1))


@_compiled
def _round_down(row, out):
    """Write float32 numbers into `out`, uint8."""
    for x in range(len(out)):
        out[x] = np.uint8(row[x])

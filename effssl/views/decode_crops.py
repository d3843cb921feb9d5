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
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.pipeline.allocation_query import AllocationQuery

from effssl.data.compiled import compiled
from effssl.data.ffcv_decoders import (
    Storage,
    decode_jpeg,
    raise_if_damaged,
    resize_crop,
    stored_bytes,
)
from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import counters
from effssl.views.counters import CROP_AREA, CROP_ATTEMPTS, CROP_LEFT, CROP_RATIO, CROP_TOP
from effssl.views.draws import crop_ratios

_compiled = numba.njit(nogil=True, error_model="numpy")


class MultiViewDecoder(SimpleRGBImageDecoder):  # FFCV takes no other class for a decoder of images
    """JPEGs -> uint8 [batch, views, height, width, 3]: random crops resized with antialiasing.

    `epoch` may change between passes. An image that does not decode raises ValueError with its
    position in the file.
    """

    def __init__(self, augment: Augment, seed: int):
        super().__init__()
        self.augment, self.seed, self.epoch = augment, seed, 0

    def declare_state_and_memory(self, previous_state):
        """Tell FFCV what comes out; part of its interface."""
        size = height_width(self.augment.image_size)
        shape, uint8 = (self.augment.views, *size, 3), np.dtype("u1")
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=uint8)
        return state, AllocationQuery(shape, uint8)

    def generate_code(self) -> Callable:
        """Give FFCV the function that decodes a batch; part of its interface."""
        scale, ratio = self.augment.crop_scale, crop_ratios(self.augment)

        def decode(positions, crops, fields, storage: Storage):
            drawn_from = self.seed, self.epoch, scale, ratio
            is_read = _decode_crops(positions, crops, fields, storage, drawn_from)
            raise_if_damaged(is_read, positions)
            return crops

        return decode


class CentralCropDecoder(SimpleRGBImageDecoder):
    """JPEGs -> uint8 [batch, height, width, 3]: `central_crop`, resized as FFCV does it.

    output_size: (height, width), whose shape the crop has. An image that does not decode raises
    ValueError with its position in the file.
    """

    def __init__(self, output_size: tuple[int, int]):
        super().__init__()
        self.output_size = output_size

    def declare_state_and_memory(self, previous_state):
        """Tell FFCV what comes out; part of its interface."""
        shape, uint8 = (*self.output_size, 3), np.dtype("u1")
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=uint8)
        return state, AllocationQuery(shape, uint8)

    def generate_code(self) -> Callable:
        """Give FFCV the function that decodes a batch; part of its interface."""
        height, width = self.output_size
        ratio = (width / height, width / height)

        def decode(positions, parts, fields, storage: Storage):
            is_read = _decode_central_crops(positions, parts, fields, storage, ratio)
            raise_if_damaged(is_read, positions)
            return parts

        return decode


@compiled
def _decode_crops(positions, crops, fields, storage, drawn_from):
    """Decode JPEGs and cut their crops, and return which of them could be decoded."""
    seed, epoch, scale, ratio = drawn_from
    is_read = np.empty(len(positions), np.bool_)
    for i in numba.prange(len(positions)):
        field = fields[positions[i]]
        height, width = int(field["height"]), int(field["width"])
        image = np.empty((height, width, 3), np.uint8)
        is_read[i] = decode_jpeg(stored_bytes(field["data_ptr"], storage), image)
        for view in range(len(crops[i])):
            key = view_key(seed, epoch, positions[i], view)
            crop = random_crop(key, height, width, scale, ratio)
            resized_crop(image, crop, crops[i, view])
    return is_read


@compiled
def _decode_central_crops(positions, parts, fields, storage, ratio):
    """Decode JPEGs and cut their central parts, and return which of them could be decoded."""
    is_read = np.empty(len(positions), np.bool_)
    for i in numba.prange(len(positions)):
        field = fields[positions[i]]
        image = np.empty((int(field["height"]), int(field["width"]), 3), np.uint8)
        is_read[i] = decode_jpeg(stored_bytes(field["data_ptr"], storage), image)
        resize_crop(image, central_crop(image.shape[0], image.shape[1], ratio), parts[i])
    return is_read


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
    top, left, height, width = crop
    rows, columns = _resize_weights(height, len(out)), _resize_weights(width, out.shape[1])
    blended = np.empty(3 * width, np.float32)  # the stored rows of one row of `out`
    for s in range(len(out)):
        first, taps, weights = rows[0][s], rows[1][s], rows[2][s]
        for k in range(taps):
            row = image[top + first + k, left : left + width].reshape(-1)
            _add_row(row, weights[k], k > 0, blended)
        _resize_row(blended, columns, out[s].reshape(-1))


@_compiled
def _resize_weights(length, size):
    """Return which of `length` pixels make up each of `size`: (first, taps, weights).

    The weights, float32 [size, most taps], are those of the `taps` pixels from `first` on, both
    int64 [size]: a triangle as wide as an output or an input pixel, whichever is larger, cut at the
    border, as in ops.resized_crop.
    """
    scale = length / size
    reach = max(scale, 1.0)
    first, taps = np.empty(size, np.int64), np.empty(size, np.int64)
    weights = np.empty((size, 2 * math.ceil(reach) + 1), np.float32)
    for s in range(size):
        centre = (s + 0.5) * scale
        first[s] = max(0, int(centre - reach + 0.5))
        taps[s] = min(length, int(centre + reach + 0.5)) - first[s]
        total = 0.0
        for k in range(taps[s]):
            weights[s, k] = 1 - abs(first[s] + k + 0.5 - centre) / reach
            total += weights[s, k]
        for k in range(taps[s]):
            weights[s, k] /= total
    return first, taps, weights


@_compiled
def _add_row(row, weight, more, total):
    """Set `total` to weight * row, or add that to it if there is `more` in it; [3 width] each."""
    if more:
        for x in range(len(total)):
            total[x] += weight * np.float32(row[x])
    else:
        for x in range(len(total)):
            total[x] = weight * np.float32(row[x])


@_compiled
def _resize_row(row, columns, out):
    """Resize a row of RGB pixels, float32 [3 width], into `out`, uint8 [3 size], rounded."""
    first, taps, weights = columns
    for t in range(len(first)):
        red, green, blue = np.float32(0.5), np.float32(0.5), np.float32(0.5)
        for k in range(taps[t]):
            x = np.uint64(3 * (first[t] + k))  # unsigned: numba would look for indices below 0
            red += weights[t, k] * row[x]
            green += weights[t, k] * row[x + np.uint64(1)]
            blue += weights[t, k] * row[x + np.uint64(2)]
        out[3 * t], out[3 * t + 1], out[3 * t + 2] = np.uint8(red), np.uint8(green), np.uint8(blue)

"""K random resized crops of every image, which is decoded once: decoders in numba.

The crops are those that draws.draw_crops gives for the stored size of the image, from the same
numbers. Nothing here is compiled with fastmath (FFCV's own default), so pixels do not depend on how
the work is divided.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numba
import numpy as np
from torch import Tensor

from effssl.data.beton_file import Storage
from effssl.data.compiled import compiled, part_of_compiled
from effssl.data.pixels import read_image
from effssl.data.values import RGB, Values
from effssl.image_config import Augment
from effssl.ranges import ImageSize, height_width
from effssl.views import counters
from effssl.views.counters import CROP_AREA, CROP_ATTEMPTS, CROP_LEFT, CROP_RATIO, CROP_TOP
from effssl.views.cpu_resize import blend_rows, resize_row, resize_weights
from effssl.views.draws import crop_ratios


class MultiViewDecoder:
    """Stored images -> [batch, numbers]: random crops, resized with antialiasing, in groups.

    The crops of an image lie one after the other, each [height, width, channels];
    crops_of_groups parts them by group, whose views are of one size. See pixels.Decoder.

    Args:
        groups: how the crops of each group are made. Those of the first may be smaller in a pass.
        seed: what crops are drawn from, with epoch and position.
        values: what the numbers of the images are.
    """

    def __init__(self, groups: tuple[Augment, ...], seed: int, values: Values = RGB):
        self.groups, self.seed, self.values = groups, seed, values
        self.next_pass(0, groups[0].image_size)

    def next_pass(self, epoch: int, image_size: ImageSize) -> None:
        """Say whose crops the next pass makes, and of what size those of the first group are."""
        first = replace(self.groups[0], image_size=image_size)
        self._epoch, self._views = epoch, _by_view((first, *self.groups[1:]))

    def shape_of(self, images: np.ndarray) -> tuple[int, ...]:
        """See Decoder."""
        return (sum(_numbers_of(group, self.values.channels) for group in self.groups),)

    def read(
        self, positions: np.ndarray, out: np.ndarray, images: np.ndarray, storage: Storage
    ) -> np.ndarray:
        """See Decoder."""
        drawn_from, kinds = (self.seed, self._epoch), self.values.for_compiled()
        return _decode_crops(positions, out, images, storage, drawn_from, self._views, *kinds)


def crops_of_groups(pixels: Tensor, groups: tuple[Augment, ...]) -> list[Tensor]:
    """Part what MultiViewDecoder gives, [batch, numbers], by groups of views.

    -> for each group its crops, [batch, views, height, width, channels].
    """
    channels = groups[0].channels
    sizes = [(group.views, *height_width(group.image_size), channels) for group in groups]
    lengths = [math.prod(size) for size in sizes]
    of_groups = pixels[:, : sum(lengths)].split(lengths, 1)
    return [part.unflatten(1, size) for part, size in zip(of_groups, sizes, strict=True)]


def _numbers_of(group: Augment, channels: int) -> int:
    return channels * group.views * math.prod(height_width(group.image_size))


def _by_view(groups: tuple[Augment, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return each view's size, int64 [views, 2], and the limits of its crop, float64 [views, 4]."""
    sizes = [height_width(group.image_size) for group in groups for _ in range(group.views)]
    limits = [
        (*group.crop_scale, *crop_ratios(group)) for group in groups for _ in range(group.views)
    ]
    return np.array(sizes, np.int64), np.array(limits, np.float64)


class CentralCropDecoder:
    """Stored images -> [batch, height, width, channels]: `central_crop`, resized as crops are.

    output_size: (height, width), whose shape the crop has; values: what the numbers of the images
    are. See pixels.Decoder.
    """

    def __init__(self, output_size: tuple[int, int], values: Values = RGB):
        self.output_size, self.values = output_size, values

    def shape_of(self, images: np.ndarray) -> tuple[int, ...]:
        """See Decoder."""
        return (*self.output_size, self.values.channels)

    def read(
        self, positions: np.ndarray, out: np.ndarray, images: np.ndarray, storage: Storage
    ) -> np.ndarray:
        """See Decoder."""
        return _decode_central_crops(out, images, storage, *self.values.for_compiled())


@compiled
def _decode_crops(positions, crops, images, storage, drawn_from, views, channels, values):
    """Read images and cut their crops, and return which of them could be read."""
    (seed, epoch), (sizes, limits) = drawn_from, views
    is_read = np.empty(len(positions), np.bool_)
    for i in numba.prange(len(positions)):
        height, width = int(images[i]["height"]), int(images[i]["width"])
        image = np.empty((height, width, len(channels)), crops.dtype)
        is_read[i] = read_image(images[i], storage, image, values)
        start = 0
        for view in range(len(sizes)):
            key = view_key(seed, epoch, positions[i], view)
            crop = random_crop(key, height, width, limits[view, :2], limits[view, 2:])
            h, w = sizes[view]
            end = start + len(channels) * h * w
            out = crops[i, start:end].reshape(h, w, len(channels))
            resized_crop(image, crop, out, channels)
            start = end
    return is_read


@compiled
def _decode_central_crops(parts, images, storage, channels, values):
    """Read images and cut their central parts, and return which of them could be read."""
    is_read = np.empty(len(images), np.bool_)
    for i in numba.prange(len(images)):
        height, width = int(images[i]["height"]), int(images[i]["width"])
        image = np.empty((height, width, len(channels)), parts.dtype)
        is_read[i] = read_image(images[i], storage, image, values)
        _cut_central_part(image, parts[i], channels)
    return is_read


def central_part(image: np.ndarray, output_size: tuple[int, int]) -> np.ndarray:
    """Do what CentralCropDecoder does to an image that is not stored.

    image: Values.read_as [height, width, channels] -> of the same kind [*output_size, channels].
    """
    part = np.empty((*output_size, image.shape[2]), image.dtype)
    _cut_one(np.require(image, requirements=("C", "W")), part, (0,) * image.shape[2])
    return part


@part_of_compiled
def _cut_central_part(image, out, channels):
    """Resize the largest central part of `image` that has the shape of `out` into it."""
    ratio = out.shape[1] / out.shape[0]
    resized_crop(image, central_crop(image.shape[0], image.shape[1], (ratio, ratio)), out, channels)


@functools.partial(compiled, parallel=False)
def _cut_one(image, out, channels):
    _cut_central_part(image, out, channels)


@part_of_compiled
def view_key(seed, epoch, index, view):
    """Return the key of counters.uniform from which one view's numbers follow."""
    key_of_epoch = counters.next_key(counters.mix(np.int64(seed)), np.int64(epoch))
    key_of_sample = counters.next_key(key_of_epoch, np.int64(index))
    return counters.next_key(key_of_sample, np.int64(view) + 1)


@part_of_compiled
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


@part_of_compiled
def central_crop(stored_height, stored_width, crop_ratio):
    """Return (top, left, height, width) of the largest central crop of an allowed ratio.

    crop_ratio: the least and the greatest width over height.
    """
    height, width = int(stored_height), int(stored_width)
    if width / height < crop_ratio[0]:
        height = max(1, int(np.rint(width / crop_ratio[0])))
    elif width / height > crop_ratio[1]:
        width = max(1, int(np.rint(height * crop_ratio[1])))
    top, left = (int(stored_height) - height) // 2, (int(stored_width) - width) // 2
    return top, left, height, width


@part_of_compiled
def _uniform(key, slot):
    """Return the number of counters.uniform for one slot of a view: float32 in [0, 1)."""
    bits = counters.upper_24_bits(counters.next_key(key, np.int64(slot) + 1))
    return np.float32(bits) * np.float32(counters.UNIT)


@part_of_compiled
def resized_crop(image, crop, out, channels):
    """Resize a crop of `image`, [H, W, c], into `out`, [height, width, c], both of one kind.

    crop: (top, left, height, width) in pixels; channels: an entry for each. Bilinear and
    antialiased, as torchvision's; bytes are rounded.
    """
    height, width = crop[2:]
    count, start = len(channels), np.float32(0.5) if out.itemsize == 1 else np.float32(0)
    rows, columns = resize_weights(height, len(out)), resize_weights(width, out.shape[1])
    blended = np.zeros(count * (width + len(columns[1])), np.float32)  # stored rows of one of `out`
    resized = np.empty(count * out.shape[1], np.float32)
    for s in range(len(out)):
        stored = image.reshape(len(image), -1)
        blend_rows(stored, crop, s, rows, blended[: count * width], channels)
        resize_row(blended, columns, start, resized, 0, (count, 1), channels)
        _write(resized, out[s].reshape(-1))


@part_of_compiled
def _write(row, out):
    """Write float32 numbers into `out`, rounded down if it is of bytes."""
    if out.itemsize == 1:
        for x in range(len(out)):
            out[x] = np.uint8(row[x])
    else:
        for x in range(len(out)):
            out[x] = row[x]

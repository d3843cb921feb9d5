"""Views made on a CPU: pixels in, normalised float32 out, a view at a time in compiled loops.

It is what ops.py does, up to rounding. A view stays in cache from its first operation to its last,
and only what is drawn for it is computed. Views are divided over as many threads as torch uses;
what a view is depends neither on that nor on the batch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

from effssl.data.compiled import compiled, part_of_compiled
from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import cpu_colours, cpu_shapes
from effssl.views.cpu_blur import blur, gaussian_weights
from effssl.views.cpu_resize import blend_rows, resize_row, resize_weights
from effssl.views.draws import ColourDraws, CropDraws
from effssl.views.ops import blur_kernel_size
from effssl.views.shape_draws import UNSHAPED, ShapeDraws

# These are compiled once, as a part of what calls them.
_inlined = numba.njit(nogil=True, error_model="numpy", inline="always")

# What is drawn for one view, as the compiled code reads it.
_NAMES = (*CropDraws._fields, "flip", "upside_down", "transpose", *ColourDraws._fields)
_DRAWN = np.dtype(
    [(name, np.float32) for name in _NAMES] + [("warp", np.float32, 4), ("erase", np.float32, 4)]
)
_TILE = 1024  # pixels whose three channels fit the first cache, with room
_OF_BYTE = np.float32(1 / 255)


def views_on_cpu(
    images: Tensor,
    crops: CropDraws,
    flips: Tensor,
    colours: ColourDraws,
    augment: Augment,
    shapes: ShapeDraws = UNSHAPED,
) -> Tensor:
    """Cut, resize, turn, recolour and normalise K views of each image.

    images: [batch, 1 or views, height, width, channels], bytes or float32 in [0, 1], one for all
    views of an image or one for each; draws: [views, batch]
    -> float32 [views, batch, channels, h, w], of the view's size.
    """
    size, (num_views, batch) = height_width(augment.image_size), flips.shape
    never, (upside_down, transpose, warp, erase) = torch.zeros_like(crops.top), shapes
    single = [*crops, flips, upside_down, transpose, *colours]
    draws = [never if draw is None else draw.float() for draw in single]
    for four in (None if warp is None else warp.flatten(-2), erase):
        draws += [never] * 4 if four is None else four.unbind(-1)
    drawn = torch.stack(draws, -1).numpy().view(_DRAWN)[..., 0]
    out = torch.empty(num_views, batch, augment.channels, *size)
    pixels, views = images.contiguous().numpy(), out.numpy()
    looks = np.array([augment.mean, augment.std], np.float32)
    kernel_size, channels = blur_kernel_size(size), (0,) * augment.channels

    def make(begin: int, end: int) -> None:
        _make_views(pixels, drawn, looks, kernel_size, begin, end, views, channels)

    _divided(make, num_views * batch)
    return out


def _divided(work: Callable[[int, int], None], count: int) -> None:
    """Call work(begin, end) for parts of range(count), in as many threads as torch uses."""
    num_parts = max(1, min(torch.get_num_threads(), count))
    bounds = [count * i // num_parts for i in range(num_parts + 1)]
    if num_parts == 1:
        work(0, count)
        return
    # FFCV's threads are numba's, and of as many as its own; these are apart from them.
    others = _threads(num_parts - 1, os.getpid())
    pending = [others.submit(work, bounds[i], bounds[i + 1]) for i in range(1, num_parts)]
    work(0, bounds[1])
    for part in pending:
        part.result()


@functools.lru_cache(maxsize=1)
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Return threads of this process, which are kept; a forked process has none of them."""
    return ThreadPoolExecutor(count, "views")


@functools.partial(compiled, parallel=False)
def _make_views(images, drawn, looks, kernel_size, begin, end, out, channels):
    """Make the views from `begin` to `end`, counted over images, then views of each.

    channels: an entry for each, whose number is then known where this is compiled.
    """
    num_views = len(drawn)
    for i in range(begin, end):
        image, view = i // num_views, i % num_views
        draw, planes = drawn[view, image], out[view, image]
        _resized_crop(images[image, view % images.shape[1]], draw, planes, channels)
        if draw.transpose > 0:
            for channel in range(len(channels)):
                cpu_shapes.transpose(planes[channel])
        if draw.warp[0] != 0 or draw.warp[1] != 0:
            cpu_shapes.warp(planes, draw.warp)
        if len(channels) == 3:
            _recoloured(planes, draw)
        else:
            _changed(planes.reshape(-1), draw)
        if draw.blur_sigma > 0:
            weights = gaussian_weights(draw.blur_sigma, kernel_size)
            for channel in range(len(channels)):
                blur(planes[channel], weights)
        for channel in range(len(channels)):
            plane = planes.reshape(len(channels), -1)[channel]
            if draw.solarize > 0:
                cpu_colours.solarize(plane)
            cpu_colours.normalize(plane, looks[0, channel], looks[1, channel])
        if draw.erase[2] > 0:
            cpu_shapes.erase(planes, draw.erase)


@_inlined
def _resized_crop(image, draw, planes, channels):
    """Resize a crop of `image`, [H, W, c], into `planes`, float32 [c, height, width]."""
    _, height, width = planes.shape
    crop = int(draw.top), int(draw.left), int(draw.height), int(draw.width)
    rows, columns = resize_weights(crop[2], height), resize_weights(crop[3], width)
    if image.itemsize == 1:
        _bytes_to_1(rows[1])
    if draw.upside_down > 0:
        _reverse(rows)
    if draw.flip > 0:
        _reverse(columns)
    count, strides = len(channels), (1, height * width)
    blended = np.zeros(count * (crop[3] + len(columns[1])), np.float32)  # rows of one of a view
    for s in range(height):
        stored, row = image.reshape(len(image), -1), blended[: count * crop[3]]
        blend_rows(stored, crop, s, rows, row, channels)
        begin, out = s * width, planes.reshape(-1)
        resize_row(blended, columns, np.float32(0), out, begin, strides, channels)


@part_of_compiled
def _bytes_to_1(weights):
    """Let weights [taps, size] of bytes give numbers in [0, 1]."""
    for k in range(len(weights)):
        for s in range(weights.shape[1]):
            weights[k, s] *= _OF_BYTE


@part_of_compiled
def _reverse(lines):
    """Let the last row or column come first: (first, weights) of `resize_weights`, in place."""
    first, weights = lines
    for t in range(len(first) // 2):
        other = len(first) - 1 - t
        first[t], first[other] = first[other], first[t]
        for k in range(len(weights)):
            weights[k, t], weights[k, other] = weights[k, other], weights[k, t]


@_inlined
def _recoloured(planes, draw):
    """Do to a view, float32 [3, height, width] in [0, 1], what ops.recoloured does before blur."""
    flat, sum_of_gray = planes.reshape(3, -1), 0.0
    for start in range(0, flat.shape[1], _TILE):
        end = start + _TILE
        r, g, b = flat[0, start:end], flat[1, start:end], flat[2, start:end]
        if draw.brightness != 1:
            cpu_colours.brighten(r, g, b, draw.brightness)
        if draw.contrast != 1:
            sum_of_gray += cpu_colours.sum_of_gray(r, g, b)
    mean = np.float32(sum_of_gray / flat.shape[1])
    for start in range(0, flat.shape[1], _TILE):
        end = start + _TILE
        r, g, b = flat[0, start:end], flat[1, start:end], flat[2, start:end]
        if draw.contrast != 1:
            cpu_colours.contrast(r, g, b, draw.contrast, mean)
        if draw.saturation != 1:
            cpu_colours.saturate(r, g, b, draw.saturation)
        if draw.hue != 0:
            cpu_colours.turn_hue(r, g, b, draw.hue)
        if draw.gray > 0:
            cpu_colours.to_gray(r, g, b)


@_inlined
def _changed(flat, draw):
    """Do to a view of no RGB, float32 in [0, 1], what ops.recoloured does before blur."""
    if draw.brightness != 1:
        cpu_colours.multiply(flat, draw.brightness)
    if draw.contrast != 1:
        cpu_colours.blend(flat, draw.contrast, np.float32(cpu_colours.sum_of(flat) / len(flat)))

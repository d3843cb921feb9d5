"""Antialiased resizing in compiled loops: of crops of JPEGs, and of the views made on a CPU.

A row of the result blends the few stored rows under its triangle; each of its pixels then blends
the few columns under one. Nothing here is compiled with fastmath, so pixels do not depend on how
the work is divided.
"""

from __future__ import annotations

import math

import numpy as np

from effssl.data.compiled import part_of_compiled


@part_of_compiled
def resize_weights(length, size):
    """Return which of `length` pixels make up each of `size`: (first, weights).

    The weights, float32 [taps, size], are those of the pixels from `first` on, int64 [size]: a
    triangle as wide as an output or an input pixel, whichever is larger, cut at the border, as in
    ops.resized_crop. `taps` is even, as pixels are blended in pairs; weights that are left over,
    also beyond the border, are 0.
    """
    scale = length / size
    reach = max(scale, 1.0)
    first = np.empty(size, np.int64)
    weights = np.zeros((2 * math.ceil(reach), size), np.float32)
    for s in range(size):
        centre = (s + 0.5) * scale
        first[s] = max(0, int(centre - reach + 0.5))
        taps = min(len(weights), min(length, int(centre + reach + 0.5)) - first[s])
        total = 0.0
        for k in range(taps):
            weights[k, s] = 1 - abs(first[s] + k + 0.5 - centre) / reach
            total += weights[k, s]
        for k in range(taps):
            weights[k, s] /= total
    return first, weights


@part_of_compiled
def blend_rows(rows, crop, s, rows_of_s, out, channels):
    """Write row `s` of a resized crop, which still has the stored width, into `out`.

    rows: [H, c W], of the image; crop: (top, left, height, width) in pixels; rows_of_s: first and
    weights of `resize_weights`; out: float32 [c width]; channels: an entry for each.
    """
    top, left, height, width = crop
    first, weights = rows_of_s
    begin, end = len(channels) * left, len(channels) * (left + width)
    last = top + height - 1  # what lies below it has weights of 0
    for k in range(0, len(weights), 2):
        y = top + first[s] + k
        upper = rows[min(y, last), begin:end]  # contiguous, which numba sees
        lower = rows[min(y + 1, last), begin:end]
        of_upper, of_lower = weights[k, s], weights[k + 1, s]
        if k == 0:
            for x in range(len(out)):
                out[x] = of_upper * np.float32(upper[x]) + of_lower * np.float32(lower[x])
        else:
            for x in range(len(out)):
                out[x] = out[x] + of_upper * np.float32(upper[x]) + of_lower * np.float32(lower[x])


@part_of_compiled
def resize_row(row, columns, start, out, begin, strides, channels):
    """Resize a row of pixels, float32 [c width], into `out`, float32, plus `start`.

    columns: first and weights of `resize_weights`. The row goes on with `taps` pixels of any finite
    numbers, as weights of 0 may reach beyond it. begin: where in `out` the row begins; strides: how
    far apart its pixels lie, and a pixel's channels; channels: an entry for each, whose number is
    then known where this is compiled.
    """
    first, weights = columns
    count = np.uint64(len(channels))  # unsigned: numba would look for indices below 0
    to_begin, of_pixel, of_channel = np.uint64(begin), np.uint64(strides[0]), np.uint64(strides[1])
    for k in range(0, len(weights), 2):
        left, right = weights[k], weights[k + 1]
        for t in range(len(first)):
            x, pixel = count * np.uint64(first[t] + k), to_begin + of_pixel * np.uint64(t)
            of_left, of_right = left[t], right[t]
            for channel in range(count):
                i = pixel + of_channel * channel
                before = start if k == 0 else out[i]
                of_pair = of_left * row[x + channel]
                out[i] = before + of_pair + of_right * row[x + count + channel]

"""ops.gaussian_blur of one channel of one view, in compiled loops."""

from __future__ import annotations

import math

import numpy as np

from effssl.data.compiled import part_of_compiled

_NEGLIGIBLE = 6.0  # standard deviations from where on weights are lost in float32's rounding


@part_of_compiled
def gaussian_weights(sigma, kernel_size):
    """Return the middle weight and those on one side of it, float32 [at most kernel_size // 2 + 1].

    The kernel has `kernel_size` pixels and the sum 1; weights that are negligible are left out.
    """
    radius = kernel_size // 2
    weights = np.empty(radius + 1, np.float64)
    total = 0.0
    for k in range(radius + 1):
        weights[k] = math.exp(-0.5 * (k / sigma) ** 2)
        total += weights[k] * (1 if k == 0 else 2)
    reached = min(radius, math.ceil(_NEGLIGIBLE * sigma))
    kept = np.empty(reached + 1, np.float32)
    for k in range(reached + 1):
        kept[k] = weights[k] / total
    return kept


@part_of_compiled
def blur(plane, weights):
    """Blur a plane, float32 [height, width], in place; it is reflected at its border."""
    height, width = plane.shape
    radius = len(weights) - 1
    before = np.empty((height, width), np.float32)
    for s in range(height):
        for x in range(width):
            before[s, x] = plane[s, x]
    padded = np.empty(width + 2 * radius, np.float32)
    row = padded[radius : radius + width]
    for s in range(height):
        middle = before[s]
        for x in range(width):
            row[x] = weights[0] * middle[x]
        for k in range(1, radius + 1):
            above = before[abs(s - k)]
            below = before[height - 1 - abs(height - 1 - (s + k))]
            _add_pair(row, above, below, weights[k])
        for k in range(1, radius + 1):
            padded[radius - k], padded[radius + width - 1 + k] = row[k], row[width - 1 - k]
        out = plane[s]
        for x in range(width):
            out[x] = weights[0] * row[x]
        for k in range(1, radius + 1):
            left, right = padded[radius - k :], padded[radius + k :]
            _add_pair(out, left[:width], right[:width], weights[k])


@part_of_compiled
def _add_pair(total, a, b, weight):
    for x in range(len(total)):
        total[x] += weight * (a[x] + b[x])

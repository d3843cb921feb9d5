"""The operations of shape_ops.py on one channel of one view, in compiled loops over float32."""

from __future__ import annotations

import math

import numpy as np

from effssl.data.compiled import part_of_compiled


@part_of_compiled
def transpose(plane):
    """Exchange rows and columns of a square plane [n, n] in place."""
    for y in range(len(plane)):
        for x in range(y):
            plane[y, x], plane[x, y] = plane[x, y], plane[y, x]


@part_of_compiled
def warp(planes, matrix):
    """Warp planes [channels, height, width] in place, as shape_ops.warped.

    matrix: (xx, xy, yx, yy).
    """
    channels, height, width = planes.shape
    before = planes.copy()
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    for y in range(height):
        down = y - middle_y
        for x in range(width):
            along = x - middle_x
            row = _reflected(middle_y + matrix[2] * along + matrix[3] * down, height)
            column = _reflected(middle_x + matrix[0] * along + matrix[1] * down, width)
            top, left = int(row), int(column)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            of_below, of_right = np.float32(row - top), np.float32(column - left)
            for channel in range(channels):
                plane = before[channel]
                upper = plane[top, left] + of_right * (plane[top, right] - plane[top, left])
                lower = plane[below, left] + of_right * (plane[below, right] - plane[below, left])
                planes[channel, y, x] = upper + of_below * (lower - upper)


@part_of_compiled
def erase(planes, box):
    """Set to 0 what lies in a box of planes: (top, left, height, width) in pixels."""
    top, left = int(box[0]), int(box[1])
    planes[:, top : top + int(box[2]), left : left + int(box[3])] = 0


@part_of_compiled
def _reflected(at, length):
    """Return a place in [0, length - 1] for one on a line of pixels that is reflected at its ends.

    The line ends half a pixel beyond its last pixel's centre.
    """
    from_edge = abs(at + 0.5)
    from_edge -= 2 * length * math.floor(from_edge / (2 * length))
    from_edge = min(from_edge, 2 * length - from_edge)
    return min(max(from_edge - 0.5, 0.0), length - 1.0)

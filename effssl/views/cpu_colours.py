"""The operations of ops.py on one view's colours, in compiled loops over planes of float32.

`red`, `green` and `blue` are pixels of one view in [0, 1], [n], which every function changes in
place. All is float32 and free of branches, so that the loops are vectorised; a function is called
only for views that it changes.
"""

from __future__ import annotations

import numpy as np

from effssl.data.compiled import part_of_compiled

_ZERO, _HALF, _ONE, _TWO, _FOUR, _SIX = (np.float32(x) for x in (0, 0.5, 1, 2, 4, 6))
_OF_RED, _OF_GREEN, _OF_BLUE = (np.float32(x) for x in (0.2989, 0.587, 0.114))
_LANES = 16  # sums that run side by side


@part_of_compiled
def brighten(red, green, blue, factor):
    """Multiply by `factor`, as ops.adjust_brightness."""
    for i in range(len(red)):
        red[i] = _clamped(red[i] * factor)
        green[i] = _clamped(green[i] * factor)
        blue[i] = _clamped(blue[i] * factor)


@part_of_compiled
def sum_of_gray(red, green, blue):
    """Return the sum of the gray image, float64."""
    whole = len(red) // _LANES * _LANES
    sums = np.zeros(_LANES, np.float32)
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            i = np.uint64(start + lane)
            sums[lane] += _gray(red[i], green[i], blue[i])
    total = 0.0
    for lane in range(_LANES):
        total += sums[lane]
    for i in range(whole, len(red)):
        total += _gray(red[i], green[i], blue[i])
    return total


@part_of_compiled
def contrast(red, green, blue, factor, mean):
    """Blend with the mean of the view's gray image, as ops.adjust_contrast."""
    rest = (_ONE - factor) * mean
    for i in range(len(red)):
        red[i] = _clamped(red[i] * factor + rest)
        green[i] = _clamped(green[i] * factor + rest)
        blue[i] = _clamped(blue[i] * factor + rest)


@part_of_compiled
def saturate(red, green, blue, factor):
    """Blend with the gray image, as ops.adjust_saturation."""
    of_gray = _ONE - factor
    for i in range(len(red)):
        rest = of_gray * _gray(red[i], green[i], blue[i])
        red[i] = _clamped(red[i] * factor + rest)
        green[i] = _clamped(green[i] * factor + rest)
        blue[i] = _clamped(blue[i] * factor + rest)


@part_of_compiled
def turn_hue(red, green, blue, turns):
    """Rotate the hue in HSV, as ops.adjust_hue."""
    shift = _SIX * turns
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        value, low = max(r, g, b), min(r, g, b)
        chroma = value - low
        inverse = _ONE / (chroma if chroma > _ZERO else _ONE)
        not_red = _TWO + (b - r) * inverse if value == g else _FOUR + (r - g) * inverse
        sixths = shift + ((g - b) * inverse if value == r else not_red)
        red[i] = value - chroma * _part_off(sixths + np.float32(5))
        green[i] = value - chroma * _part_off(sixths + np.float32(3))
        blue[i] = value - chroma * _part_off(sixths + _ONE)


@part_of_compiled
def to_gray(red, green, blue):
    """Make all channels the luma, as ops.to_gray."""
    for i in range(len(red)):
        red[i] = green[i] = blue[i] = _gray(red[i], green[i], blue[i])


@part_of_compiled
def multiply(values, factor):
    """Multiply values of any channels, [n], by `factor`, as ops.adjust_brightness."""
    for i in range(len(values)):
        values[i] = _clamped(values[i] * factor)


@part_of_compiled
def sum_of(values):
    """Return the sum of values, [n], float64."""
    whole = len(values) // _LANES * _LANES
    sums = np.zeros(_LANES, np.float64)
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            sums[lane] += values[np.uint64(start + lane)]
    total = 0.0
    for lane in range(_LANES):
        total += sums[lane]
    for i in range(whole, len(values)):
        total += values[i]
    return total


@part_of_compiled
def blend(values, factor, mean):
    """Blend values of any channels, [n], with `mean`, as ops.adjust_contrast."""
    rest = (_ONE - factor) * mean
    for i in range(len(values)):
        values[i] = _clamped(values[i] * factor + rest)


@part_of_compiled
def solarize(plane):
    """Invert what is at least 0.5, as ops.solarize."""
    for i in range(len(plane)):
        plane[i] = _ONE - plane[i] if plane[i] >= _HALF else plane[i]


@part_of_compiled
def normalize(plane, mean, std):
    """Set one channel to (plane - mean) / std."""
    scale = _ONE / std
    shift = mean * scale
    for i in range(len(plane)):
        plane[i] = plane[i] * scale - shift


@part_of_compiled
def _clamped(x):
    return min(max(x, _ZERO), _ONE)


@part_of_compiled
def _gray(red, green, blue):
    return _OF_RED * red + _OF_GREEN * green + _OF_BLUE * blue


@part_of_compiled
def _part_off(k):
    """Return which part of the chroma a channel lacks, for its hue in sixths of a turn."""
    k = k - _SIX * np.floor(k * (_ONE / _SIX))
    return _clamped(min(k, _FOUR - k))

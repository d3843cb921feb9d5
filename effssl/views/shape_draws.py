"""How the shape of each view changes after its crop, drawn from the numbers of counters.py."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import counters

_ERASED_RATIO = (0.3, 3.3)  # width over height of what is erased, as in torchvision


class ShapeDraws(NamedTuple):
    """What is done to each view's shape; [views, batch], None for what the settings leave out.

    In this order: upside down, transposed, warped; erased at the very end, after normalisation.
    """

    upside_down: Tensor | None  # bool: the rows in reverse
    transpose: Tensor | None  # bool: rows become columns
    warp: Tensor | None  # float32 [views, batch, 2, 2]: see `warps`
    erase: Tensor | None  # float32 [views, batch, 4]: top, left, height, width in pixels, or 0


UNSHAPED = ShapeDraws(None, None, None, None)


def draw_flips(numbers: Tensor, augment: Augment) -> Tensor:
    """Say which views are mirrored, their columns in reverse: bool [views, batch].

    numbers: [views, batch, NUM_SLOTS] of counters.uniform.
    """
    mirrored = numbers[..., counters.FLIP] < augment.hflip_prob
    if augment.quarter_turns:
        quarters = _quarters(numbers)
        mirrored = mirrored ^ ((quarters == 1) | (quarters == 2))
    return mirrored


def draw_shapes(numbers: Tensor, augment: Augment) -> ShapeDraws:
    """Draw all changes of shape but mirroring.

    A quarter turn is the views' rows and columns exchanged, after one of them was reversed; so
    turns are drawn as flips and transposition. numbers: as for draw_flips.
    """
    a, transpose = augment, None
    upside_down = numbers[..., counters.VFLIP] < a.vflip_prob
    if a.quarter_turns:
        quarters = _quarters(numbers)
        upside_down, transpose = upside_down ^ (quarters >= 2), quarters % 2 == 1
    is_warped = a.rotate > 0 or a.shear > 0 or a.affine_scale != (1, 1)
    return ShapeDraws(
        upside_down if a.vflip_prob > 0 or a.quarter_turns else None,
        transpose,
        warps(*_draw_affine(numbers, a)) if is_warped else None,
        _draw_erased(numbers, a) if a.erase_prob > 0 else None,
    )


def warps(angle: Tensor, scale: Tensor, shear_x: Tensor, shear_y: Tensor) -> Tensor:
    """Return the matrices that say what a warped view shows, float32 [..., 2, 2].

    A pixel that lies (x, y) from the centre shows what lay at M (x, y), as torchvision's affine
    has it: sheared, rotated by `angle`, and magnified by `scale`, the other way round. All angles
    in radians; positive ones turn clockwise.
    """
    rotated = angle - shear_y
    a = rotated.cos() / shear_y.cos()
    b = -a * shear_x.tan() - angle.sin()
    c = rotated.sin() / shear_y.cos()
    d = -c * shear_x.tan() + angle.cos()
    rows = torch.stack([d, -b], -1), torch.stack([-c, a], -1)
    return torch.stack(rows, -2) / scale[..., None, None]


def _quarters(numbers: Tensor) -> Tensor:
    """Return how many quarters of a turn each view is turned by, counterclockwise: 0 to 3."""
    return (4 * numbers[..., counters.QUARTERS]).int()


def _draw_affine(numbers: Tensor, a: Augment) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def symmetric(slot: int, degrees: float) -> Tensor:
        return math.radians(degrees) * (2 * numbers[..., slot] - 1)

    low, high = a.affine_scale
    scale = low + (high - low) * numbers[..., counters.AFFINE_SCALE]
    shear_x = symmetric(counters.SHEAR_X, a.shear)
    return symmetric(counters.ANGLE, a.rotate), scale, shear_x, symmetric(counters.SHEAR_Y, a.shear)


def _draw_erased(numbers: Tensor, a: Augment) -> Tensor:
    """Draw a rectangle of an area in erase_scale, cut to the view where it is longer."""
    height, width = height_width(a.image_size)
    low, high = a.erase_scale
    area = height * width * (low + (high - low) * numbers[..., counters.ERASE_AREA])
    narrow, wide = map(math.log, _ERASED_RATIO)
    ratio = torch.exp(narrow + (wide - narrow) * numbers[..., counters.ERASE_RATIO])
    erased_height = (area / ratio).sqrt().round().clamp(1, height)
    erased_width = (area * ratio).sqrt().round().clamp(1, width)
    top = ((height - erased_height + 1) * numbers[..., counters.ERASE_TOP]).floor()
    left = ((width - erased_width + 1) * numbers[..., counters.ERASE_LEFT]).floor()
    is_erased = numbers[..., counters.ERASE] < a.erase_prob
    return torch.stack([top, left, erased_height, erased_width], -1) * is_erased[..., None]

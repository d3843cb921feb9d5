"""What happens to each view of each image, drawn on the device from the numbers of counters.py."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import counters


class CropDraws(NamedTuple):
    """Where each view's crop lies, in pixels of the stored image; all [views, batch]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


class ColourDraws(NamedTuple):
    """How each view's colours change; all [views, batch], neutral where an operation is left out.

    The four that cost most are None if the settings leave them out altogether.
    """

    brightness: Tensor  # factor, 1 is neutral
    contrast: Tensor  # factor, 1 is neutral
    saturation: Tensor  # factor, 1 is neutral
    hue: Tensor | None  # in turns, 0 is neutral
    gray: Tensor | None  # bool
    blur_sigma: Tensor | None  # in pixels, 0 where there is no blur
    solarize: Tensor | None  # bool

    def map(self, change) -> ColourDraws:
        """Return the draws with `change` applied to every tensor."""
        # A list: torch.compile of torch 2.11 fails on a generator here.
        return ColourDraws._make([None if draw is None else change(draw) for draw in self])


def draw_crops(numbers: Tensor, augment: Augment, *, stored: tuple[int, int]) -> CropDraws:
    """Draw random crops as torchvision's RandomResizedCrop does, with the ratios of `crop_ratios`.

    Ten attempts at an area and a ratio that fit, then the largest central crop of an allowed ratio.
    numbers: [views, batch, NUM_SLOTS] of counters.uniform; stored: (height, width) of the images.
    """
    height, width, fits = _crop_size(numbers, augment, stored)
    room_above, room_left = stored[0] - height, stored[1] - width
    u_top, u_left = numbers[..., counters.CROP_TOP], numbers[..., counters.CROP_LEFT]
    top = torch.where(fits, ((room_above + 1) * u_top).floor(), (room_above / 2).floor())
    left = torch.where(fits, ((room_left + 1) * u_left).floor(), (room_left / 2).floor())
    return CropDraws(top, left, height, width)


def crop_ratios(augment: Augment) -> tuple[float, float]:
    """Return the least and the greatest width over height of a random crop.

    They lie about the view's own, so that views that are not square stretch images no more than
    squares do.
    """
    height, width = height_width(augment.image_size)
    low, high = augment.crop_ratio
    return low * (width / height), high * (width / height)


def largest_central(stored: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of the largest central crop whose width over height is allowed, which
    is at least a pixel: images may have one row."""
    height, width = stored
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


def draw_colours(numbers: Tensor, augment: Augment) -> ColourDraws:
    """Draw the changes of colour; numbers: [views, batch, NUM_SLOTS] of counters.uniform."""
    a = augment
    jitters = numbers[..., counters.JITTER] < a.jitter_prob
    blurs = numbers[..., counters.BLUR] < a.blur_prob

    def factor(slot: int, strength: float) -> Tensor:
        low = max(0.0, 1 - strength)
        return torch.where(jitters, low + (1 + strength - low) * numbers[..., slot], 1.0)

    hue = torch.where(jitters, a.hue * (2 * numbers[..., counters.HUE] - 1), 0.0)
    low, high = a.blur_sigma
    sigma = torch.where(blurs, low + (high - low) * numbers[..., counters.BLUR_SIGMA], 0.0)
    return ColourDraws(
        brightness=factor(counters.BRIGHTNESS, a.brightness),
        contrast=factor(counters.CONTRAST, a.contrast),
        saturation=factor(counters.SATURATION, a.saturation),
        hue=hue if a.hue > 0 and a.jitter_prob > 0 else None,
        gray=numbers[..., counters.GRAY] < a.gray_prob if a.gray_prob > 0 else None,
        blur_sigma=sigma if a.blur_prob > 0 else None,
        solarize=numbers[..., counters.SOLARIZE] < a.solarize_prob if a.solarize_prob > 0 else None,
    )


def _crop_size(
    numbers: Tensor, augment: Augment, stored: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each crop's height and width, and whether an attempt fitted.

    If none did, height and width are those of the largest central crop.
    """
    stored_height, stored_width = stored
    scale, ratio = augment.crop_scale, crop_ratios(augment)
    fallback_height, fallback_width = largest_central(stored, ratio)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    # All attempts at once, [views, batch, attempts], of which the first that fits is taken.
    of_attempts = numbers[..., counters.CROP_AREA : counters.CROP_TOP]
    u_area, u_ratio = of_attempts.unflatten(-1, (-1, 2)).unbind(-1)
    area = stored_height * stored_width * (scale[0] + (scale[1] - scale[0]) * u_area)
    wide = torch.exp(low + (high - low) * u_ratio)
    width, height = (area * wide).sqrt().round(), (area / wide).sqrt().round()
    fits = (width > 0) & (width <= stored_width) & (height > 0) & (height <= stored_height)
    first, fits_any = fits.byte().argmax(-1, keepdim=True), fits.any(-1)
    height = torch.where(fits_any, height.gather(-1, first).squeeze(-1), fallback_height)
    width = torch.where(fits_any, width.gather(-1, first).squeeze(-1), fallback_width)
    return height, width, fits_any

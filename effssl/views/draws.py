"""What happens to each view of each image, drawn on the device.

The parameters are a function of (seed, epoch, sample index, view) alone: they do not depend on the device, the batch or
the number of workers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ATTEMPTS = 10  # at a random crop that fits, as in torchvision


class Draws(NamedTuple):
    """What happens to each view, all [views, batch]; a neutral value where an operation is left out."""

    top: Tensor  # of the crop, in pixels of the stored image
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor  # bool
    brightness: Tensor  # factor, 1 is neutral
    contrast: Tensor
    saturation: Tensor
    # These four cost most; None where the settings leave them out altogether.
    hue: Tensor | None  # in turns, 0 is neutral
    gray: Tensor | None  # bool
    blur_sigma: Tensor | None  # in pixels, 0 where there is no blur
    solarize: Tensor | None  # bool


def draw(
    indices: Tensor,
    *,
    stored: tuple[int, int],
    views: int,
    seed: int,
    epoch: int,
    crop_scale: tuple[float, float],
    crop_ratio: tuple[float, float],
    hflip_prob: float,
    jitter_prob: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    gray_prob: float,
    blur_prob: float,
    blur_sigma: tuple[float, float],
    solarize_prob: float,
) -> Draws:
    """Draw the parameters of `views` views of the samples `indices` (int64 [batch]); `stored` is (height, width) of
    the images in pixels. The crop is torchvision's RandomResizedCrop: ten attempts, then the central fallback."""
    u = iter(uniform(indices, views=views, slots=2 * _ATTEMPTS + 13, seed=seed, epoch=epoch).unbind(-1))
    tries = [(next(u), next(u)) for _ in range(_ATTEMPTS)]
    height, width, found = _crop_size(tries, stored, crop_scale, crop_ratio)
    room_above, room_left = stored[0] - height, stored[1] - width
    top = torch.where(found, ((room_above + 1) * next(u)).floor(), (room_above / 2).floor())
    left = torch.where(found, ((room_left + 1) * next(u)).floor(), (room_left / 2).floor())
    flip = next(u) < hflip_prob
    jitter = next(u) < jitter_prob

    def factor(strength: float) -> Tensor:
        low = max(0.0, 1 - strength)
        return torch.where(jitter, low + (1 + strength - low) * next(u), 1.0)

    brightness_, contrast_, saturation_ = factor(brightness), factor(contrast), factor(saturation)
    hue_ = torch.where(jitter, hue * (2 * next(u) - 1), 0.0)
    gray = next(u) < gray_prob
    blurred = next(u) < blur_prob
    sigma = torch.where(blurred, blur_sigma[0] + (blur_sigma[1] - blur_sigma[0]) * next(u), 0.0)
    solarize_ = next(u) < solarize_prob
    return Draws(
        *(top, left, height, width, flip, brightness_, contrast_, saturation_),
        hue=hue_ if hue > 0 and jitter_prob > 0 else None,
        gray=gray if gray_prob > 0 else None,
        blur_sigma=sigma if blur_prob > 0 else None,
        solarize=solarize_ if solarize_prob > 0 else None,
    )


def _crop_size(
    tries: list[tuple[Tensor, Tensor]], stored: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Height and width of each crop, and whether an attempt fitted; where none did, of the central fallback."""
    stored_height, stored_width = stored
    aspect = stored_width / stored_height
    if aspect < ratio[0]:
        fallback_height, fallback_width = round(stored_width / ratio[0]), stored_width
    elif aspect > ratio[1]:
        fallback_height, fallback_width = stored_height, round(stored_height * ratio[1])
    else:
        fallback_height, fallback_width = stored_height, stored_width
    height = torch.full_like(tries[0][0], fallback_height)
    width = torch.full_like(tries[0][0], fallback_width)
    found = torch.zeros_like(height, dtype=torch.bool)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for u_area, u_ratio in reversed(tries):  # so that the first that fits is the one that stays
        area = stored_height * stored_width * (scale[0] + (scale[1] - scale[0]) * u_area)
        wide = torch.exp(low + (high - low) * u_ratio)
        w, h = (area * wide).sqrt().round(), (area / wide).sqrt().round()
        fits = (w > 0) & (w <= stored_width) & (h > 0) & (h <= stored_height)
        height, width, found = torch.where(fits, h, height), torch.where(fits, w, width), found | fits
    return height, width, found


def uniform(indices: Tensor, *, views: int, slots: int, seed: int, epoch: int) -> Tensor:
    """Counter-based uniform numbers in [0, 1): [views, batch, slots] float32 for sample `indices` (int64 [batch]).

    A chain of splitmix64 finalisers over (seed, epoch, index, view, slot); the same on every device.
    """
    device = indices.device
    # A number, not a tensor: to copy one to a GPU would wait for it.
    key = int(_mix(_mix(torch.tensor(seed, dtype=torch.int64)) + _times(epoch, _GOLDEN)))
    sample = _mix(key + _times(indices, _GOLDEN))  # [batch]
    view = _mix(sample + _times(torch.arange(1, views + 1, device=device)[:, None], _GOLDEN))
    slot = _mix(view[..., None] + _times(torch.arange(1, slots + 1, device=device), _GOLDEN))
    return (_shift_right(slot, 40)).float() * 2.0**-24  # the upper 24 bits


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _MIX_1, _MIX_2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _times(value: int | Tensor, constant: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.int64) * constant  # int64 wraps around, as the generator wants


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, where torch's is arithmetic


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)

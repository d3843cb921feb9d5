"""Networks compared by their outputs for the same images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effssl.ranges import ImageSize, height_width


def noise(num_images: int, image_size: ImageSize) -> Tensor:
    """Draw images [num_images, 3, height, width], the same at every call."""
    generator = torch.Generator().manual_seed(num_images)
    return torch.randn(num_images, 3, *height_width(image_size), generator=generator)


def difference(outputs: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a part of the largest output if that is above 1.

    It is infinite if numbers are not finite.
    """
    off = float((outputs - expected).abs().max() / expected.abs().max().clamp(min=1))
    return off if off < math.inf else math.inf

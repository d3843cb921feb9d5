"""Networks compared by their outputs for the same images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effssl.models import BackboneSpec
from effssl.ranges import height_width


def noise(num_images: int, spec: BackboneSpec) -> Tensor:
    """Draw images [num_images, channels, height, width], the same at every call."""
    generator = torch.Generator().manual_seed(num_images)
    size = height_width(spec.image_size)
    return torch.randn(num_images, spec.channels, *size, generator=generator)


def difference(outputs: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a part of the largest output if that is above 1.

    It is infinite if numbers are not finite.
    """
    off = float((outputs - expected).abs().max() / expected.abs().max().clamp(min=1))
    return off if off < math.inf else math.inf

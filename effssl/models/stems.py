"""The part of a ResNet that sees the image."""

from __future__ import annotations

from timm.models import ResNet
from torch import nn


def shrink_stem(model: ResNet, stride: int) -> None:
    """Replace the first convolution by a new one, 3x3 of this stride, and drop the max-pool."""
    first = first_convolution(model)
    small = nn.Conv2d(
        first.in_channels, first.out_channels, 3, stride=stride, padding=1, bias=False
    )
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(model.conv1, nn.Sequential):
        model.conv1[0] = small
    else:
        model.conv1 = small
    model.maxpool = nn.Identity()  # type: ignore[assignment]


def first_convolution(model: ResNet) -> nn.Conv2d:
    """Return the convolution that sees the image: conv1, or the first of it in a deep stem."""
    first = model.conv1[0] if isinstance(model.conv1, nn.Sequential) else model.conv1
    assert isinstance(first, nn.Conv2d)
    return first

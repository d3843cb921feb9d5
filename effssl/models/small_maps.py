"""3x3 convolutions of maps of one or two pixels, which small images end in, as matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LARGEST = 2  # pixels of a side; at 3 the product has as much to do as the convolution, or more


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution with a border of one pixel, which on CPUs is faster on the smallest maps.

    Of the nine taps four meet a pixel of a map of 2 x 2, the others its border, and one of a map of
    1 x 1, but libraries of convolutions go through all of them. So the taps that count are laid
    out as a matrix [out pixels, in pixels] of blocks [out channels, in channels]. The result is
    that of nn.Conv2d up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x [n, in channels, height, width]."""
        height, width = x.shape[-2:]
        if max(height, width) > _LARGEST or x.device.type != "cpu":
            return super().forward(x)
        down, right = self.stride
        rows, columns = (height - 1) // down + 1, (width - 1) // right + 1
        taps = self.weight.flatten(2).unbind(2)  # 9 of [out channels, in channels]
        matrix = torch.cat([
            torch.cat([
                taps[3 * (i - down * row + 1) + j - right * column + 1]
                for i in range(height) for j in range(width)
            ], dim=1)
            for row in range(rows) for column in range(columns)
        ])  # fmt: skip
        bias = None if self.bias is None else self.bias.repeat(rows * columns)
        y = F.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return y.view(len(x), rows, columns, self.out_channels).permute(0, 3, 1, 2)


def fast_on_small_maps(network: nn.Module) -> nn.Module:
    """Let the 3x3 convolutions of a network take the smallest maps by SmallMapConv2d; in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = SmallMapConv2d  # the same attributes, so all else stays
    return network


def _fits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.padding, conv.dilation)
    is_plain = conv.groups == 1 and conv.padding_mode == "zeros"
    return is_plain and shape == ((3, 3), (1, 1), (1, 1)) and max(conv.stride) <= 2

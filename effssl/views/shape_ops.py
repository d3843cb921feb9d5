"""Changes of the shape of views, each for a batch with a parameter per view: what GPUs compute.

On a CPU cpu_shapes.py does the same in compiled loops, and is held to this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effssl.views.ops import constant
from effssl.views.shape_draws import ShapeDraws


def reshaped(x: Tensor, shapes: ShapeDraws) -> Tensor:
    """Transpose and warp views x [n, c, h, w], which are the right way up already."""
    if shapes.transpose is not None:
        x = torch.where(_of_views(shapes.transpose.flatten()), x.mT, x)
    if shapes.warp is not None:
        x = warped(x, shapes.warp.flatten(0, 1))
    return x


def warped(x: Tensor, matrices: Tensor) -> Tensor:
    """Let each pixel of x [n, c, h, w] show what lies at its matrix [n, 2, 2] times its own place,
    from the centre, by bilinear interpolation; beyond its border a view is reflected."""
    height, width = x.shape[-2:]
    down = torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2
    along = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    here = torch.stack(torch.meshgrid(along, down, indexing="xy"), -1)  # [h, w, 2]
    there = torch.einsum("nij,hwj->nhwi", matrices, here)
    grid = there / constant((width / 2, height / 2), x)
    return F.grid_sample(x, grid, "bilinear", "reflection", align_corners=False)


def erased(x: Tensor, boxes: Tensor) -> Tensor:
    """Set to 0 what lies in a box [n, 4] of each view of x [n, c, h, w]: top, left, height, width
    in pixels."""
    top, left, height, width = boxes[:, :, None, None].unbind(1)  # each [n, 1, 1]
    y = torch.arange(x.shape[-2], device=x.device)[:, None]
    column = torch.arange(x.shape[-1], device=x.device)
    inside = (y >= top) & (y < top + height) & (column >= left) & (column < left + width)
    return x.masked_fill(inside[:, None], 0)


def _of_views(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]

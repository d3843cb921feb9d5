"""Pixels and draws put together: normalised views, by torch or by compiled loops.

On a CPU the loops of cpu_views.py make them, which keep a view in cache; on a GPU, and under
torch.compile, the operations of ops.py. Both give the same up to rounding.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import ops, shape_ops
from effssl.views.cpu_views import views_on_cpu
from effssl.views.draws import ColourDraws, CropDraws, largest_central
from effssl.views.shape_draws import UNSHAPED, ShapeDraws


def views_of_images(
    images: Tensor,
    crops: CropDraws,
    flips: Tensor,
    colours: ColourDraws,
    augment: Augment,
    shapes: ShapeDraws = UNSHAPED,
) -> Tensor:
    """Cut, turn and recolour K views of each image.

    images: [batch, height, width, c], bytes or float32 in [0, 1]; draws: [views, batch]
    -> float32 [views, batch, c, h, w], of the view's size, normalised.
    """
    if _is_for_loops(images):
        return views_on_cpu(images[:, None], crops, flips, colours, augment, shapes)
    x = ops.resized_crop(images, crops, flips, augment.image_size, shapes.upside_down)
    return _finished(x.flatten(0, 1), shapes, colours, augment).view_as(x)


def views_of_crops(
    crops: Tensor,
    flips: Tensor,
    colours: ColourDraws,
    augment: Augment,
    shapes: ShapeDraws = UNSHAPED,
) -> Tensor:
    """Turn and recolour crops that were cut where their image was decoded.

    crops: [batch, views, h, w, c], bytes or float32 in [0, 1]; draws: [views, batch]
    -> float32 [views, batch, c, h, w], normalised.
    """
    if _is_for_loops(crops):
        zero, (height, width) = torch.zeros(flips.shape), crops.shape[2:4]
        whole = CropDraws(zero, zero, zero + height, zero + width)
        return views_on_cpu(crops, whole, flips, colours, augment, shapes)
    upside_down = None if shapes.upside_down is None else shapes.upside_down.flatten()
    x = ops.flipped(rearrange(crops, "b k h w c -> (k b) c h w"), flips.flatten(), upside_down)
    x = _finished(x, shapes, colours, augment)
    return x.view(*flips.shape, *x.shape[1:])


def _finished(x: Tensor, shapes: ShapeDraws, colours: ColourDraws, augment: Augment) -> Tensor:
    """Do all that follows the crop to views [n, c, h, w] in [0, 1], which are the right way up."""
    x = ops.recoloured(shape_ops.reshaped(x, shapes), colours, augment)
    return x if shapes.erase is None else shape_ops.erased(x, shapes.erase.flatten(0, 1))


def clean_view(images: Tensor, augment: Augment) -> Tensor:
    """Resize the largest central part that has the view's shape, and normalise it.

    Of square images and views that is the whole. images: [batch, height, width, c], bytes or
    float32 in [0, 1] -> float32 [batch, c, h, w], of the view's size.
    """
    size, (batch, height, width, _) = height_width(augment.image_size), images.shape
    if (height, width) == size:
        pixels = ops.unit_range(images.permute(0, 3, 1, 2))
        return ops.normalize(pixels, augment.mean, augment.std)
    aspect = size[1] / size[0]
    crop_height, crop_width = largest_central((height, width), (aspect, aspect))
    zero = torch.zeros(1, batch, device=images.device)
    top, left = zero + (height - crop_height) // 2, zero + (width - crop_width) // 2
    central, flips = CropDraws(top, left, zero + crop_height, zero + crop_width), zero.bool()
    if _is_for_loops(images):
        unchanged = ColourDraws(zero + 1, zero + 1, zero + 1, None, None, None, None)
        return views_on_cpu(images[:, None], central, flips, unchanged, augment)[0]
    (x,) = ops.resized_crop(images, central, flips, size)
    return ops.normalize(x, augment.mean, augment.std)


def _is_for_loops(pixels: Tensor) -> bool:
    return pixels.device.type == "cpu" and not torch.compiler.is_compiling()

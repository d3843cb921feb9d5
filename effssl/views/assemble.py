"""uint8 pixels and draws put together: normalised views, in blocks that fit a CPU's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from effssl.image_config import Augment
from effssl.ranges import ImageSize, height_width
from effssl.views import ops
from effssl.views.draws import ColourDraws, CropDraws, largest_central

_BLOCK_BYTES = 2**21  # of views made at once on a CPU: what fits its cache is several times faster


def views_of_images(
    images: Tensor, crops: CropDraws, flips: Tensor, colours: ColourDraws, augment: Augment
) -> Tensor:
    """Cut and recolour K views of each image.

    images: uint8 [batch, height, width, 3]; draws: [views, batch]
    -> float32 [views, batch, 3, h, w], of the view's size, normalised.
    """
    size = augment.image_size

    def views_of(block: slice) -> Tensor:
        of_block = CropDraws._make(draw[:, block] for draw in crops)
        x = ops.resized_crop(images[block], of_block, flips[:, block], size)
        recoloured = ops.recoloured(x.flatten(0, 1), colours.map(lambda d: d[:, block]), augment)
        return recoloured.view_as(x)

    num_views, batch = flips.shape
    return _in_blocks(views_of, num_views, batch, size, images.device)


def views_of_crops(crops: Tensor, flips: Tensor, colours: ColourDraws, augment: Augment) -> Tensor:
    """Mirror and recolour crops that were cut where their image was decoded.

    crops: uint8 [batch, views, h, w, 3]; draws: [views, batch]
    -> float32 [views, batch, 3, h, w], normalised.
    """
    pixels = rearrange(crops, "b k h w c -> (k b) c h w")
    flip_of, colours_of = flips.flatten(), colours.map(torch.flatten)

    def views_of(block: slice) -> Tensor:
        x = ops.flipped(pixels[block], flip_of[block])
        return ops.recoloured(x, colours_of.map(lambda d: d[block]), augment)[None]

    x = _in_blocks(views_of, 1, len(pixels), augment.image_size, crops.device)
    return x.view(*flips.shape, *x.shape[2:])


def clean_view(images: Tensor, augment: Augment) -> Tensor:
    """Resize the largest central part that has the view's shape, and normalise it.

    Of square images and views that is the whole. images: uint8 [batch, height, width, 3]
    -> float32 [batch, 3, h, w], of the view's size.
    """
    size, (batch, height, width, _) = height_width(augment.image_size), images.shape
    if (height, width) == size:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return ops.normalize(pixels, augment.mean, augment.std)
    aspect = size[1] / size[0]
    crop_height, crop_width = largest_central((height, width), (aspect, aspect))
    zero = torch.zeros(1, batch, device=images.device)
    top, left = zero + (height - crop_height) // 2, zero + (width - crop_width) // 2
    central, flips = CropDraws(top, left, zero + crop_height, zero + crop_width), zero.bool()

    def resized(block: slice) -> Tensor:
        of_block = CropDraws._make(draw[:, block] for draw in central)
        return ops.resized_crop(images[block], of_block, flips[:, block], size)

    (x,) = _in_blocks(resized, 1, batch, size, images.device)
    return ops.normalize(x, augment.mean, augment.std)


def _in_blocks(
    views_of: Callable[[slice], Tensor],
    views: int,
    batch: int,
    size: ImageSize,
    device: torch.device,
) -> Tensor:
    """Put together views_of(block) [views, block, 3, h, w], of this size, for all of the batch.

    On a CPU the blocks fit its cache; elsewhere, and compiled, there is one block.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        return views_of(slice(None))
    out = torch.empty(views, batch, 3, *height_width(size))
    length = max(1, _BLOCK_BYTES // (out[0, 0].nbytes * views))
    for start in range(0, batch, length):
        block = slice(start, start + length)
        out[:, block] = views_of(block)
    return out

"""Which sizes of image a timm model takes, found by trial, as no description of them says it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from effssl.ranges import ImageSize, height_width


@functools.cache
def takes_argument(name: str, argument: str, value: Any) -> bool:
    """Say whether timm's function that builds this model takes a further argument.

    The trial builds shapes alone: it takes no memory, and no random numbers of the caller.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            timm.create_model(name, pretrained=False, num_classes=0, **{argument: value})
    except TypeError as error:
        return argument not in str(error)
    except Exception:  # it knows the argument, and this value does not suit it
        return True
    return True


def published_size(name: str) -> int:
    """Return the side in pixels of the images that timm describes this model for."""
    size = timm.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    return int(size[-1])


def is_refused(border: int, image_size: ImageSize, published: int) -> bool:
    """Say whether a border that a model does not see is too wide; else it is said and left.

    One row is what the first convolution of Inception, 3x3 of stride 2 without padding, leaves of
    an even side. What was published with a wider one at its own size (SigLIP has 14 px patches for
    384 px) is as its authors made it.
    """
    return border > 1 and image_size != published


def try_size(model: nn.Module, image_size: ImageSize, channels: int = 3) -> tuple[torch.Size, int]:
    """Give a model one image, and return the shape of what comes out, and what it does not see.

    A stem whose patches do not divide the image's side drops what is left at the right and at the
    bottom, and says nothing.

    Args:
        model: in eval mode, on any device, meta too.
        image_size: of the image, in pixels.
        channels: of the image.

    Returns:
        The shape of h, and how many pixels at the edge no convolution of the image covers.
    """
    sides = height_width(image_size)
    left_out: list[int] = []

    def look(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape[1:] == (channels, *sides):
            left_out.append(max(_not_covered(conv, side, inputs[0], output) for side in (0, 1)))

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            shape = model(torch.zeros(1, channels, *sides, device=device)).shape
    finally:
        for hook in hooks:
            hook.remove()
    return shape, min(left_out, default=0)


def _not_covered(conv: nn.Conv2d, side: int, inputs: Tensor, output: Tensor) -> int:
    """Return how many pixels at the end of a side (0: the height, 1: the width) conv leaves out."""
    span = conv.dilation[side] * (conv.kernel_size[side] - 1) + 1
    first = 0 if isinstance(conv.padding, str) else -conv.padding[side]
    covered = first + (output.shape[2 + side] - 1) * conv.stride[side] + span
    return max(0, inputs.shape[2 + side] - covered)


def patch_that_divides(image_size: ImageSize, near: float) -> int | None:
    """Return the patch of 2 to 32 px that divides both sides and is nearest to `near`, by ratio.

    None if there is none; of two that are as near, the smaller one.
    """
    height, width = height_width(image_size)
    patches = [
        patch
        for patch in range(2, 33)
        if height % patch == width % patch == 0 and patch < min(height, width)
    ]
    return min(patches, key=lambda patch: abs(math.log(patch / near)), default=None)


def nearest_sizes(
    takes: Callable[[ImageSize], bool], image_size: ImageSize, published: int
) -> list[ImageSize]:
    """Return the sizes nearest to one that work: one below, one above, fewer if none was found.

    Tried are multiples of 4 and 14 within 32 px, multiples of 32 from half the side to double, and
    the published side; if the size is no square, both sides rounded to a multiple of 4, 14, 16
    or 32.

    Args:
        takes: says whether a size works.
        image_size: that does not, in pixels.
        published: the side that the model was published for.
    """
    tried = _squares_near(image_size) if isinstance(image_size, int) else _shapes_near(*image_size)
    wanted = height_width(image_size)

    def distance(size: ImageSize) -> int:
        return sum(abs(a - b) for a, b in zip(height_width(size), wanted, strict=True))

    outward = sorted((tried | {published}) - {image_size}, key=distance)
    below = next((s for s in outward if _area(s) < _area(image_size) and takes(s)), None)
    above = next((s for s in outward if _area(s) > _area(image_size) and takes(s)), None)
    return [size for size in (below, above) if size is not None]


def _squares_near(side: int) -> set[ImageSize]:
    return {
        candidate
        for candidate in range(max(8, side // 2), 2 * side + 1)
        if candidate % 32 == 0
        or (abs(candidate - side) <= 32 and (candidate % 4 == 0 or candidate % 14 == 0))
    }


def _shapes_near(height: int, width: int) -> set[ImageSize]:
    shapes = set()
    for multiple in (4, 14, 16, 32):
        down = height // multiple * multiple, width // multiple * multiple
        shapes |= {down, (down[0] + multiple, down[1] + multiple)}
    return {shape if shape[0] != shape[1] else shape[0] for shape in shapes if min(shape) >= 8}


def _area(image_size: ImageSize) -> int:
    return math.prod(height_width(image_size))

"""Which sizes of image a timm model takes, found by trial, as no description of them says it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn


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


def is_refused(border: int, side: int, published: int) -> bool:
    """Say whether a border that a model does not see is too wide; else it is said and left.

    One row is what the first convolution of Inception, 3x3 of stride 2 without padding, leaves of
    an even side. What was published with a wider one at its own size (SigLIP has 14 px patches for
    384 px) is as its authors made it.
    """
    return border > 1 and side != published


def try_size(model: nn.Module, side: int) -> tuple[torch.Size, int]:
    """Give a model one image, and return the shape of what comes out, and what it does not see.

    A stem whose patches do not divide the image's side drops what is left at the right and at the
    bottom, and says nothing.

    Args:
        model: in eval mode, on any device, meta too.
        side: of the image, in pixels.

    Returns:
        The shape of h, and how many pixels at the edge no convolution of the image covers.
    """
    left_out: list[int] = []

    def look(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape[1:] == (3, side, side):
            span = conv.dilation[-1] * (conv.kernel_size[-1] - 1) + 1
            first = 0 if isinstance(conv.padding, str) else -conv.padding[-1]
            covered = first + (output.shape[-1] - 1) * conv.stride[-1] + span
            left_out.append(max(0, side - covered))

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            shape = model(torch.zeros(1, 3, side, side, device=device)).shape
    finally:
        for hook in hooks:
            hook.remove()
    return shape, min(left_out, default=0)


def patch_that_divides(side: int, near: float) -> int | None:
    """Return the patch of 2 to 32 px that divides the side and is nearest to `near`, by ratio.

    None if there is none; of two that are as near, the smaller one.
    """
    patches = [patch for patch in range(2, 33) if side % patch == 0 and patch < side]
    return min(patches, key=lambda patch: abs(math.log(patch / near)), default=None)


def nearest_sizes(takes: Callable[[int], bool], side: int, published: int) -> list[int]:
    """Return the sides nearest to `side` that work: one below, one above, fewer if none was found.

    Tried are multiples of 4 and 14 within 32 px, multiples of 32 from half the side to double, and
    the published side.

    Args:
        takes: says whether a side works.
        side: that does not, in pixels.
        published: the side that the model was published for.
    """
    tried = {
        candidate
        for candidate in range(max(8, side // 2), 2 * side + 1)
        if candidate % 32 == 0
        or (abs(candidate - side) <= 32 and (candidate % 4 == 0 or candidate % 14 == 0))
    } | {published}
    outward = sorted(tried - {side}, key=lambda candidate: abs(candidate - side))
    below = next((c for c in outward if c < side and takes(c)), None)
    above = next((c for c in outward if c > side and takes(c)), None)
    return [size for size in (below, above) if size is not None]

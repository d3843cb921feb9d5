"""`--rand-augment N M`: RandAugment (arXiv 1909.13719), drawn for every view by itself.

The operations, what a magnitude means for each, and the operations themselves are torchvision's,
which draws once for a batch; what a view leaves empty has the mean colour, and pixels between
pixels are interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from effssl.image_config import Augment
from effssl.views import ops

NUMBERS = 2  # of a view for each operation: which one, and of which sign
MAX_MAGNITUDE = 30  # torchvision has as many steps

Operation = Callable[[Tensor, int], Tensor]


def operations(size: tuple[int, int], magnitude: int, mean: tuple[float, ...]) -> list[Operation]:
    """Return the 14 operations for views of a size (height, width), each of a batch [n, 3, h, w] in
    [0, 1] and of a sign, 1 or -1."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    part, (height, width) = magnitude / MAX_MAGNITUDE, size
    shear, colour = math.degrees(math.atan(0.3 * part)), 0.9 * part
    down, along = (int(150 / 331 * side * part) for side in (height, width))
    bits, threshold = round(8 - 4 * part), 1 - part

    def moved(x: Tensor, **how: list[float]) -> Tensor:
        still: dict[str, list[float]] = {"translate": [0, 0], "shear": [0.0, 0.0]}
        bilinear = InterpolationMode.BILINEAR
        return F.affine(
            x, angle=0.0, scale=1.0, interpolation=bilinear, fill=list(mean), **still | how
        )

    return [
        lambda x, sign: x,
        lambda x, sign: moved(x, shear=[sign * shear, 0.0], center=[0, 0]),
        lambda x, sign: moved(x, shear=[0.0, sign * shear], center=[0, 0]),
        lambda x, sign: moved(x, translate=[sign * along, 0]),
        lambda x, sign: moved(x, translate=[0, sign * down]),
        lambda x, sign: F.rotate(x, sign * 30 * part, InterpolationMode.BILINEAR, fill=list(mean)),
        lambda x, sign: F.adjust_brightness(x, 1 + sign * colour),
        lambda x, sign: F.adjust_saturation(x, 1 + sign * colour),
        lambda x, sign: F.adjust_contrast(x, 1 + sign * colour),
        lambda x, sign: F.adjust_sharpness(x, 1 + sign * colour),
        lambda x, sign: F.posterize(x, bits),
        lambda x, sign: F.solarize(x, threshold),
        lambda x, sign: F.autocontrast(x),
        lambda x, sign: F.equalize(x),
    ]


def rand_augmented(views: Tensor, numbers: Tensor, augment: Augment) -> Tensor:
    """Do what `augment.rand_augment` says to views [K, batch, 3, h, w], which are normalised, as
    what returns. numbers: in [0, 1), float32 [K, batch, NUMBERS for each operation]."""
    assert augment.rand_augment is not None
    rounds, magnitude = augment.rand_augment
    x = ops.unnormalize(views.flatten(0, 1), augment.mean, augment.std)
    height, width = x.shape[-2:]
    every = operations((height, width), magnitude, augment.mean)
    for of_round in numbers.flatten(0, 1).unflatten(-1, (rounds, NUMBERS)).unbind(1):
        # Views of one operation and sign, one after the other: a batch for each.
        kinds = 2 * (of_round[:, 0] * len(every)).long() + (of_round[:, 1] < 0.5)
        order = kinds.argsort(stable=True)
        counts = kinds.bincount(minlength=2 * len(every)).tolist()
        parts = [
            every[kind // 2](part, 1 if kind % 2 else -1) if len(part) else part
            for kind, part in enumerate(x[order].split(counts))
        ]
        x = torch.empty_like(x).index_copy_(0, order, torch.cat(parts))
    return ops.normalize(x, augment.mean, augment.std).view_as(views)

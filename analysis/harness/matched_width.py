"""The width of a projector that costs as much beside a small encoder as the paper's beside its."""

from __future__ import annotations

import functools
import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from effssl.cli import parse
from effssl.config import Config
from effssl.models import create_backbone
from effssl.ranges import height_width

# A ResNet-50 with the stem for small images at 32 px, and two layers 8192 wide.
_PAPERS = ("--data", "cifar10", "--backbone", "resnet50", "--image-size", "32", "--stem", "small")
_MULTIPLE = 16  # of which the width is one


def matched_width(cfg: Config) -> int:
    """Return the width d of a projector [h, d, d] whose part of the backbone's multiplications is
    that of 2048 x 8192 + 8192 x 8192 in a ResNet-50 at 32 px, 6%: a wide baseline whose seconds say
    what they would say of the paper's."""
    multiplications, features = backbone_cost(cfg)
    wanted = papers_share() * multiplications
    width = (math.sqrt(features**2 + 4 * wanted) - features) / 2
    return max(_MULTIPLE, _MULTIPLE * round(width / _MULTIPLE))


@functools.cache
def papers_share() -> float:
    multiplications, features = backbone_cost(parse(list(_PAPERS)))
    return (features * 8192 + 8192**2) / multiplications


def backbone_cost(cfg: Config) -> tuple[int, int]:
    """Return the multiplications of one view through the backbone, and the width of h."""
    model, size = cfg.model, cfg.augment.image_size
    backbone = create_backbone(model.backbone, size, stem=model.stem, kwargs=model.backbone_kwargs)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = backbone.eval()(torch.zeros(1, 3, *height_width(size))).shape[1]
    return counter.get_total_flops() // 2, features

"""lightly's Barlow Twins and VICReg, as its pages on CIFAR-10 have them.

python -m analysis.peers.lightly --method vicreg --data cifar10 --max-seconds 900 --out RUN ...

Transforms and projection heads are those of its examples for CIFAR-10 (docs.lightly.ai/examples:
barlowtwins, vicreg), without blur, as these and its benchmark say for images so small. Optimizer
and rate are those of its CIFAR-10 benchmark (cifar10_benchmark.py): SGD with momentum 0.9, weight
decay 5e-4, a rate of 0.06 for 128 images, linear in the batch, and a cosine over all of the
training. The weights are --redundancy-weight, or --inv-weight, --var-weight and --cov-weight."""

from __future__ import annotations

import functools
import sys

import torch
from torch import nn

from analysis.peers import timed
from effssl.config import Config
from effssl.losses.auto_weights import resolve


def build(cfg: Config, dim_h: int) -> timed.Peer:
    """Build what lightly brings."""
    from lightly.loss import BarlowTwinsLoss, VICRegLoss
    from lightly.models.modules.heads import BarlowTwinsProjectionHead, VICRegProjectionHead

    loss, dim = resolve(cfg.loss, cfg.model.proj_dim), cfg.model.proj_dim
    projector: nn.Module
    if loss.method == "vicreg":
        projector = VICRegProjectionHead(dim_h, dim, dim, num_layers=2)
        loss_of = VICRegLoss(loss.inv_weight, loss.var_weight, loss.cov_weight)
    else:
        projector = BarlowTwinsProjectionHead(dim_h, dim, dim)
        loss_of = BarlowTwinsLoss(lambda_param=loss.redundancy_weight)
    return timed.Peer(
        package="lightly",
        transform=_transform(cfg),
        projector=projector,
        loss_of=lambda z: loss_of(*z),
        optimizer=lambda parameters: torch.optim.SGD(
            parameters, lr=cfg.lr, momentum=0.9, weight_decay=cfg.optim.weight_decay
        ),
        rate=functools.partial(timed.cosine, peak=cfg.lr),
    )


def _transform(cfg: Config) -> timed.Transform:
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )
    from lightly.transforms.vicreg_transform import VICRegTransform

    augment = cfg.augment
    common = {
        "input_size": augment.image_size,
        "min_scale": augment.crop_scale[0],
        "gaussian_blur": 0.0,
        "normalize": {"mean": list(augment.mean), "std": list(augment.std)},
    }
    if cfg.loss.method == "vicreg":
        return VICRegTransform(**common)
    return BYOLTransform(BYOLView1Transform(**common), BYOLView2Transform(**common))


if __name__ == "__main__":
    sys.exit(timed.main(build))

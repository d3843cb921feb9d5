"""LeJEPA's minimal recipe (github.com/rbalestr-lab/lejepa, MINIMAL.md).

python -m analysis.peers.lejepa --data cifar10 --max-seconds 900 --out RUN ...

It minimises lambda SIGReg(z) + (1 - lambda) inv(z): SIGReg is the mean over 256 random directions
of the Epps-Pulley statistic of each view's embeddings, inv the mean square of their distances from
the mean over views. 4 views; a projector with two hidden layers 2048 wide, itself 16 wide; AdamW
with weight decay 5e-2; a rate of 2e-3 for 256 images, linear from a hundredth of it over the first
epoch of 800 (here: of that part of the training), and a cosine to half of it. --cov-weight is
lambda. The recipe is one for 128 px: at 32 px the kernel of its blur is 3 px wide in place of 7.
Its classifier on the way, whose gradients stop at the representations, is left out.

No index of packages has one of LeJEPA; both terms are imported from lightly, which has them with
the same 17 knots up to 3."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import MLP
from torchvision.transforms import v2

from analysis.peers import timed
from effssl import InputError
from effssl.config import Config

SLICES, HIDDEN = 256, 2048
WARMUP, START, LAST = 1 / 800, 0.01, 0.5


def build(cfg: Config, dim_h: int) -> timed.Peer:
    """Build what the minimal recipe brings."""
    from lightly.loss.lejepa_loss import SIGReg, lejepa_invariance_loss

    sigreg, lr, decay = SIGReg(num_vectors=SLICES), cfg.lr, cfg.optim.weight_decay
    weight = cfg.loss.cov_weight
    if isinstance(weight, str):
        raise InputError(f"--cov-weight {weight}: for LeJEPA it is lambda, in (0, 1)")

    def loss_of(z: Sequence[Tensor]) -> Tensor:
        views = torch.stack(list(z))  # [views, batch, dim]
        inv = lejepa_invariance_loss(all_proj=views, global_proj=views)
        return weight * sigreg.to(views.device)(views) + (1 - weight) * inv

    return timed.Peer(
        package="lightly",
        transform=functools.partial(_views, _view(cfg), cfg.augment.views),
        projector=MLP(dim_h, [HIDDEN, HIDDEN, cfg.model.proj_dim], norm_layer=nn.BatchNorm1d),
        loss_of=loss_of,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=decay),
        rate=functools.partial(
            timed.cosine, peak=lr, warmup=WARMUP, start=START * lr, end=LAST * lr
        ),
    )


def _views(view: v2.Transform, count: int, image: Image.Image) -> list[Tensor]:
    return [view(image) for _ in range(count)]


def _view(cfg: Config) -> v2.Transform:
    augment = cfg.augment
    return v2.Compose(
        [
            v2.RandomResizedCrop(augment.image_size, scale=augment.crop_scale),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(kernel_size=3, sigma=(0.1, 2.0))]),
            v2.RandomApply([v2.RandomSolarize(threshold=128)], p=0.2),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=augment.mean, std=augment.std),
        ]
    )


if __name__ == "__main__":
    sys.exit(timed.main(build))

"""solo-learn's Barlow Twins and VICReg, as its files for CIFAR-10 have them.

python -m analysis.peers.solo --method vicreg --data cifar10 --max-seconds 900 --out RUN ...

Those are scripts/pretrain/cifar/barlow.yaml and vicreg.yaml (bash_files of version 1.0.2): colours
of 0.4, 0.4, 0.2, 0.1, no blur, solarisation of the second view (Barlow Twins) or of both; LARS on
SGD with momentum 0.9, eta 0.02, clipped, not on biases and normalisation; weight decay 1e-4; a rate
of 0.3 for 256 images, linear in the batch, from 0.003 over the first hundredth of the training, and
a cosine. Loss, LARS and transforms are imported; the projector stands within its Lightning modules,
and is built of three linear layers as they do. The weights are --redundancy-weight, or
--inv-weight, --var-weight and --cov-weight.

The index of packages has version 1.0.2, which asks for torch 1.9.1, and which imports all of its
methods, and lightning-bolts with them, whenever any of its parts is wanted. So it is installed by
`pip install --no-deps solo-learn==1.0.2`, and its parts are imported past that."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

import torch
from torch import nn
from torchvision.ops import MLP

from analysis.peers import timed
from effssl.config import Config
from effssl.losses.auto_weights import resolve

WARMUP, START = 10 / 1000, 0.01  # epochs of its 1000; part of the peak that the rate starts from
SCALE = 0.1  # of Barlow Twins' loss
SOLARIZED = {"barlow_twins": (0.0, 0.2), "vicreg": (0.1, 0.1)}  # probability by view


def build(cfg: Config, dim_h: int) -> timed.Peer:
    """Build what solo-learn brings."""
    loss, dim, lr = resolve(cfg.loss, cfg.model.proj_dim), cfg.model.proj_dim, cfg.lr
    if loss.method == "vicreg":
        loss_of = functools.partial(
            part("losses.vicreg").vicreg_loss_func,
            sim_loss_weight=loss.inv_weight,
            var_loss_weight=loss.var_weight,
            cov_loss_weight=loss.cov_weight,
        )
    else:
        loss_of = functools.partial(
            part("losses.barlow").barlow_loss_func,
            lamb=loss.redundancy_weight,
            scale_loss=SCALE,
        )

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        sgd = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=cfg.optim.weight_decay)
        lars = part("utils.lars").LARSWrapper
        return lars(sgd, eta=0.02, clip=True, exclude_bias_n_norm=True)

    return timed.Peer(
        package="solo-learn",
        transform=_transform(cfg),
        projector=MLP(dim_h, [dim, dim, dim], norm_layer=nn.BatchNorm1d),
        loss_of=lambda z: loss_of(*z),
        optimizer=optimizer,
        rate=functools.partial(timed.cosine, peak=lr, warmup=WARMUP, start=START * lr),
    )


def part(name: str) -> Any:
    """Return a module of solo-learn, without the rest of it."""
    if "solo" not in sys.modules:
        spec = importlib.util.find_spec("solo")
        if spec is None:
            raise ModuleNotFoundError("No module named 'solo'", name="solo")
        package = types.ModuleType("solo")
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["solo"] = package
    parent, _, _ = name.partition(".")
    if f"solo.{parent}" not in sys.modules:
        package = types.ModuleType(f"solo.{parent}")
        package.__path__ = [f"{folder}/{parent}" for folder in sys.modules["solo"].__path__]
        sys.modules[f"solo.{parent}"] = package
    return importlib.import_module(f"solo.{name}")


def _transform(cfg: Config) -> timed.Transform:
    views = part("utils.pretrain_dataloader")
    each = [
        views.CifarTransform(
            0.4, 0.4, 0.2, 0.1,
            gaussian_prob=0.0,
            solarization_prob=solarized,
            min_scale=cfg.augment.crop_scale[0],
            crop_size=cfg.augment.image_size,
        )
        for solarized in SOLARIZED[cfg.loss.method]
    ]  # fmt: skip
    return views.FullTransformPipeline([views.NCropAugmentation(view, 1) for view in each])


if __name__ == "__main__":
    sys.exit(timed.main(build))

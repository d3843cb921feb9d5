"""From settings, or the folder of a finished run, to its parts: encoder, stored images, strengths of augmentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from effssl import InputError, cli
from effssl.config import Augment, Config, Images
from effssl.data import Data, open_data
from effssl.evaluation.encode import Clean
from effssl.models import backbones as models
from effssl.run import checkpoint
from effssl.views.ops import canvas_of


class FinishedRun(NamedTuple):
    folder: Path
    cfg: Config
    backbone: nn.Module
    projector: nn.Module | None  # None where checkpoint.pt was removed


def build_encoder(cfg: Config) -> models.Encoder:
    """Backbone and projector with the weights that the seed gives, in channels_last."""
    torch.manual_seed(cfg.run.seed)
    m = cfg.model
    backbone = models.create_backbone(m.backbone, cfg.augment.image_size, stem=m.stem, kwargs=m.backbone_kwargs)
    layers = m.proj_layers or {"authors": 2, "official": 3}[m.projector]
    encoder = models.Encoder(backbone, m.proj_hidden_dim or m.proj_dim, m.proj_dim, layers, m.proj_norm)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def open_images(images: Images, augment: Augment, device: torch.device, dtype: torch.dtype) -> tuple[Data, Clean]:
    """The stored and split set, and how clean views of it are made. Raises InputError for what the user has to mend."""
    data = open_data(
        images.data,
        images.data_dir,
        beton_dir=images.beton_dir,
        val_fraction=images.val_fraction,
        fraction=images.fraction,
        split_seed=images.split_seed,
        max_side=images.max_side,
        jpeg_quality=images.jpeg_quality,
        workers=images.workers,
        skip_corrupt=images.skip_corrupt,
    )
    return data, clean_of(images, augment, device, dtype)


def clean_of(images: Images, augment: Augment, device: torch.device, dtype: torch.dtype) -> Clean:
    """How clean views are made."""
    canvas = canvas_of(augment.image_size)
    return Clean(augment.image_size, augment.mean, augment.std, canvas, images.workers, device, dtype)


def strengths(augment: Augment) -> dict[str, Any]:
    """What sampling.draw takes."""
    return {k: v for k, v in dataclasses.asdict(augment).items() if k not in ("views", "mean", "std")}


def open_run(folder: Path) -> FinishedRun:
    """Raises InputError where this is no finished run, or its files are damaged."""
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is not a run folder (no config.yaml)")
    if not (folder / "result.json").is_file():
        raise InputError(f"{folder} has not finished; go on with: python -m effssl.train --resume {folder}")
    cfg = cli.load(folder / "config.yaml")
    backbone, _ = models.load_backbone(folder / "backbone.safetensors")
    file = folder / "checkpoint.pt"
    if not file.exists():
        return FinishedRun(folder, cfg, backbone, None)
    encoder = build_encoder(cfg)
    try:
        encoder.load_state_dict(checkpoint.load(file)["model"])
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file} does not hold the encoder that config.yaml describes: {reason}") from None
    return FinishedRun(folder, cfg, backbone, encoder.projector)

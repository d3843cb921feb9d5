"""From the settings to the parts of a run: the encoder, the stored images, the strengths of the augmentations."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from effssl import models
from effssl.config import Augment, Config, Images
from effssl.data import Data, open_data
from effssl.representations import Clean


def build_encoder(cfg: Config) -> models.Encoder:
    """Backbone and projector with the weights that the seed gives, in channels_last."""
    torch.manual_seed(cfg.run.seed)
    m = cfg.model
    backbone = models.create_backbone(m.backbone, cfg.images.image_size, stem=m.stem, kwargs=m.backbone_kwargs)
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
    # Clean views of images of varied size are made from squares somewhat larger than a view.
    canvas = round(1.5 * images.image_size)
    return data, Clean(images.image_size, augment.mean, augment.std, canvas, images.workers, device, dtype)


def strengths(augment: Augment) -> dict[str, Any]:
    """What augment.draw takes."""
    return {k: v for k, v in dataclasses.asdict(augment).items() if k not in ("views", "mean", "std")}

"""The parts of a job, each from the settings: what build_job puts together."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from effssl import InputError
from effssl.config import Config
from effssl.data.splits import batch_ends
from effssl.image_config import Augment
from effssl.losses.objective import build_objective
from effssl.models import Encoder, build_encoder
from effssl.models.backbones import check_takes
from effssl.models.start import start_from
from effssl.optim import build_optimizer, learning_rate
from effssl.ranges import ImageSize
from effssl.run import distributed
from effssl.run.device import Runtime
from effssl.train.forward import fewest_images, fewest_in_part
from effssl.train.keep import Keep
from effssl.views.sizes import growing_sizes, small_group


def encoder_of(cfg: Config, *, has_begun: bool) -> tuple[Encoder, list[str]]:
    """Build the encoder that training begins with, and say what --init gave it.

    has_begun: its weights will come from a checkpoint.
    """
    augment, start = cfg.augment, cfg.start.init
    encoder = build_encoder(cfg.model, augment, cfg.run.seed)
    if cfg.run.checkpoint_activations:
        try:
            encoder.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError):
            raise InputError(
                f"--checkpoint-activations: timm cannot do so in {cfg.model.backbone}"
            ) from None
    if start is None or has_begun:
        return encoder, []
    return encoder, start_from(start, encoder, cfg.model.backbone, augment.mean, augment.std)


def sizes_of(cfg: Config, encoder: Encoder) -> tuple[list[ImageSize], Augment | None]:
    """Return the sizes of the views in order of time, and how small views are made beside them.

    Raises InputError if the backbone does not take one of them.
    """
    sizes = growing_sizes(cfg.augment.image_size, cfg.sizes)
    small = small_group(cfg.augment, cfg.sizes)
    for size in [*sizes[:-1], *([small.image_size] if small else [])]:
        check_takes(encoder.backbone, size, cfg.model.backbone, cfg.augment.channels)
    return sizes, small


def micro_batch_of(cfg: Config, encoder: Encoder) -> int | None:
    """Return how many images' views are encoded at a time; None for those of the batch.

    Raises InputError for `auto` in several processes, and for fewer than can be normalised.
    """
    given = cfg.optim.micro_batch
    if given == "auto" and distributed.world_size() > 1:
        raise InputError(
            "--micro-batch auto: one process alone can try what fits; under torchrun give a number"
        )
    if given is None or given == "auto":
        return None
    if given < (fewest := fewest_in_part(cfg, encoder)):
        raise InputError(
            f"--micro-batch {given} is too small to normalise: at least {fewest}, as BatchNorm "
            "takes no view alone (--norm-by-view, or one view of its size), nor a row of --teacher "
            "or --paired"
        )
    return given


def label_of(cfg: Config) -> str:
    """Name a run by what it is, for its folder."""
    return f"{cfg.images.data}_{cfg.loss.method}_k{cfg.num_views}_d{cfg.model.proj_dim}"


def batch_ends_of(cfg: Config, num_images: int) -> np.ndarray:
    """Return how many images of an epoch there are up to each step's end.

    Raises InputError if the batch size does not suit the images, the processes or the encoder.
    """
    batch_size, fewest = cfg.optim.batch_size, fewest_images(cfg)
    if batch_size % distributed.world_size():
        num_processes = distributed.world_size()
        raise InputError(
            f"--batch-size {batch_size} does not divide among {num_processes} processes"
        )
    if batch_size < fewest:
        raise InputError(f"--batch-size {batch_size} is too small to normalise: at least {fewest}")
    if batch_size > num_images:
        raise InputError(
            f"--batch-size {batch_size} is larger than the set: {num_images} training images"
        )
    return batch_ends(num_images, batch_size, cfg.optim.drop_last, fewest)


def schedule_of(cfg: Config, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the step."""
    optim = cfg.optim
    return functools.partial(
        learning_rate,
        peak=cfg.lr,
        final=optim.final_lr,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        total_steps=total_steps,
        decay=optim.decay,
    )


def objective_of(
    cfg: Config, encoder: Encoder, keep: Keep | None
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what is minimised, as a function of z. Raises InputError for weights that the authors
    do not give."""
    last_layer = encoder.projector[-1]
    assert isinstance(last_layer, nn.Linear)
    return build_objective(
        cfg.loss,
        cfg.model.proj_dim,
        last_layer,
        views=cfg.num_views,
        part=cfg.images.fraction,
        keep=(cfg.start.keep, keep.distance) if keep else None,
    )


def optimizer_of(encoder: Encoder, cfg: Config, runtime: Runtime) -> torch.optim.Optimizer:
    """Build the optimizer of the settings. Raises InputError for layers that are not known."""
    optim = cfg.optim
    return build_optimizer(
        encoder,
        optim.optimizer,
        lr=cfg.lr,
        weight_decay=optim.weight_decay,
        lr_bias=optim.lr_bias,
        layer_decay=optim.layer_decay,
        in_a_graph=cfg.run.graph_muon and runtime.device.type == "cuda",
    )

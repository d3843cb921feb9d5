"""How much each weight of a backbone matters to the self-supervised loss that trained it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from effssl import InputError
from effssl.config import Config
from effssl.losses.near_start import FISHER_BATCHES, diagonal_fisher
from effssl.losses.objective import build_objective
from effssl.views.stream import ViewStream


def loss_of(cfg: Config, projector: nn.Module | None) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the loss of a run's views of the first size.

    Raises InputError if there is one of them, or for `authors` who give no weight for so many.
    """
    views, part = cfg.augment.views, cfg.images.fraction
    if views < 2:
        raise InputError("--keep-fisher ssl: the run has one view beside its small ones; try none")
    assert isinstance(projector, nn.Sequential)
    last_layer = projector[-1]
    assert isinstance(last_layer, nn.Linear)
    return build_objective(cfg.loss, cfg.model.proj_dim, last_layer, views=views, part=part)


def ssl_fisher(
    backbone: nn.Module,
    projector: nn.Sequential,
    cfg: Config,
    stream: ViewStream,
    positions: np.ndarray,
) -> list[Tensor]:
    """Estimate the diagonal of the Fisher information of a run's loss, as --keep does in training.

    In float16, whose gradients would have to be scaled, all is computed in float32.

    Args:
        backbone: whose parameters it is of; on the device, and left as it was.
        projector: what made embeddings of its representations.
        cfg: the run's settings.
        stream: of the images that it was trained on; they are seen in the run's views.
        positions: of these images.

    Raises:
        InputError: as loss_of does.
    """
    augment, runtime = cfg.augment, stream.runtime
    if runtime.autocast_dtype == torch.float16:
        runtime = replace(runtime, autocast_dtype=None)
    objective = loss_of(cfg, projector)

    def leave_gradients(views: Tensor) -> None:
        x = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with runtime.autocast():
            z = projector(backbone(x))
        objective(z.unflatten(0, views.shape[:2]))["loss"].backward()

    batch_size = min(cfg.optim.batch_size, len(positions))
    seen = stream.with_views(augment, seed=cfg.run.seed, batch_size=batch_size)
    order = np.random.default_rng(cfg.run.seed).permutation(positions)
    both = nn.ModuleList([backbone, projector])
    was_training, buffers = backbone.training, [b.clone() for b in both.buffers()]
    both.train()
    with (
        torch.random.fork_rng([runtime.device] if runtime.device.type == "cuda" else []),
        closing(seen.epoch(order[: FISHER_BATCHES * batch_size], 0)) as batches,
    ):
        views = (groups[0] for groups, _ in itertools.islice(batches, FISHER_BATCHES))
        fisher = diagonal_fisher(leave_gradients, views, list(backbone.parameters()))
    both.train(was_training)
    for parameter in projector.parameters():
        parameter.grad = None
    for buffer, before in zip(both.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return fisher

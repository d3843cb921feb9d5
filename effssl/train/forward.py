"""What training calls in place of the encoder: by view, compiled, or shared by processes."""

from __future__ import annotations

import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from effssl.config import Config
from effssl.models import Encoder
from effssl.models.encoder import ViewByView
from effssl.models.shared_batch_norm import share_batch_norms
from effssl.run import distributed
from effssl.run.device import Runtime


def build_forward(encoder: Encoder, cfg: Config, runtime: Runtime) -> nn.Module:
    """Return what is called in place of the encoder: groups of views -> (h, z).

    Under torchrun gradients become means over processes, as the losses expect, and BatchNorm takes
    its statistics from the whole batch, as in one process.
    """
    module = ViewByView(encoder, _views_of_groups(cfg)) if cfg.model.norm_by_view else encoder
    if distributed.world_size() == 1:
        # Compiled for each size of views by itself: there are few.
        return torch.compile(module, dynamic=False) if runtime.compile else module  # type: ignore[return-value]
    is_frozen = cfg.start.freeze_epochs > 0  # then some parameters get no gradient for a while
    # Not compiled: torch.compile breaks its graph at every BatchNorm that is shared by processes.
    if runtime.device.type == "cuda":
        timm.layers.convert_sync_batchnorm(encoder)
        return DistributedDataParallel(module, [runtime.device], find_unused_parameters=is_frozen)
    share_batch_norms(encoder)  # torch's are for GPUs
    return DistributedDataParallel(module, find_unused_parameters=is_frozen)


def fewest_images(cfg: Config) -> int:
    """Return how many images a batch has at least, over all processes.

    The loss compares two, and BatchNorm normalises no view that stands alone in its process.
    """
    return max(2, distributed.world_size() * (2 if _is_view_alone(cfg) else 1))


def fewest_in_part(cfg: Config, encoder: Encoder) -> int:
    """Return how many images a part of a batch has at least, where it is cut by --micro-batch.

    BatchNorm normalises nothing that stands alone: in the backbone a view that has no other in its
    group, in a projector the one row that a branch, or a view with --norm-by-view, has an image.
    Several processes share its statistics.
    """
    has_a_row_each = bool(cfg.branches.count) or cfg.model.norm_by_view
    is_alone = (_is_view_alone(cfg) and _has_batch_norm(encoder.backbone)) or (
        has_a_row_each and _has_batch_norm(encoder.projector)
    )
    return 2 if is_alone and distributed.world_size() == 1 else 1


def _is_view_alone(cfg: Config) -> bool:
    """Say whether a view of one image goes through the backbone with no other of that image."""
    return cfg.model.norm_by_view or 1 in _views_of_groups(cfg)


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def _views_of_groups(cfg: Config) -> list[int]:
    return [views for views in (cfg.augment.views, cfg.sizes.small_views) if views]

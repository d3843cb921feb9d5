"""BatchNorm's running statistics, adapted to other images than a backbone was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effssl.evaluation.layers import evaluating
from effssl.run.device import Runtime


def adapt_batch_norm(backbone: nn.Module, views: Iterable[Tensor], runtime: Runtime) -> int:
    """Replace every BatchNorm's running statistics, in place, by those of views (arXiv 1603.04779).

    No label is used and no weight changes. Means and unbiased variances of the batches are averaged
    with the weight of their sizes (with batches of one size that is the cumulative average of
    momentum=None); meanwhile each layer sees inputs that are normalised by their own batch. A batch
    of one image is left out, as it may have no variance. All else is in eval mode; afterwards each
    part is in the mode that it was in.

    views: clean ones, in batches of [b, 3, h, w], on the runtime's device. Returns how many layers
    were adapted; 0 says that nothing was done.
    """
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    num_seen = 0
    try:
        with evaluating(backbone):
            for norm in norms:
                norm.train()
            for x in views:
                if len(x) < 2:
                    continue
                for norm in norms:
                    if num_seen == 0:
                        norm.reset_running_stats()
                    norm.momentum = len(x) / (num_seen + len(x))
                with runtime.autocast():
                    backbone(x.to(memory_format=torch.channels_last))
                num_seen += len(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return len(norms) if num_seen else 0

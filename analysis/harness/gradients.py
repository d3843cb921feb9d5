"""The noise of a gradient: how those of several batches differ, at fixed weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effssl.data.splits import epoch_order
from effssl.train.job import Batch, Job
from effssl.train.step import leave_gradients

# Epochs of the batches that are measured: none that is trained on.
_EPOCHS = 1_000_000


class Noise(NamedTuple):
    """The moments of the gradients g_i of m batches, without bias. variance: E |g_i - E g|^2,
    summed over parameters; signal: the squared length of the mean, |E g|^2; cosine: the mean of
    that of g_i and a reference."""

    variance: float
    signal: float
    cosine: float

    @property
    def to_signal(self) -> float:
        """Noise over signal; infinite where the mean's length is within its own noise."""
        return self.variance / self.signal if self.signal > 0 else math.inf


def noise(gradients: Iterable[Tensor], reference: Tensor) -> Noise:
    """Return the noise of gradients [parameters], of two batches or more, without keeping them."""
    total = torch.zeros_like(reference, dtype=torch.float64)
    squares = cosines = 0.0
    count = 0
    for gradient in gradients:
        total += gradient
        length = float(gradient.double().square().sum())
        squares += length
        along = float(gradient.double() @ reference.double())
        cosines += along / math.sqrt(length * float(reference.double().square().sum()))
        count += 1
    of_mean = float((total / count).square().sum())
    variance = (squares - count * of_mean) / (count - 1)
    return Noise(variance, of_mean - variance / count, cosines / count)


def gradients(job: Job, num_batches: int, first_epoch: int = 0) -> Iterator[Tensor]:
    """Yield the gradient of the backbone's weights [parameters] for so many batches of the job's
    size, all of the training images before one comes again; the encoder is left as it was, but for
    BatchNorm's running averages."""
    job.encoder.train()
    for batch in _batches(job, num_batches, first_epoch):
        leave_gradients(job, batch, print)
        yield flat_gradient(job.encoder.backbone)
        job.optimizer.zero_grad(set_to_none=True)


def mean_gradient(job: Job, num_batches: int) -> Tensor:
    """Return the mean of the backbone's gradients over batches that `gradients` does not yield from
    epoch 0 on."""
    total: Tensor | None = None
    for gradient in gradients(job, num_batches, first_epoch=_EPOCHS):
        total = gradient if total is None else total + gradient
    assert total is not None
    return total / num_batches


def flat_gradient(module: nn.Module) -> Tensor:
    """Return the gradients of a module's weights in a row [parameters]; 0 where there is none."""
    rows = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in module.parameters()
    ]
    return torch.cat(rows).float().cpu()


def _batches(job: Job, count: int, first_epoch: int) -> Iterator[Batch]:
    size, epoch = job.cfg.optim.batch_size, _EPOCHS + first_epoch
    while count:
        order = epoch_order(job.data.pretrain_positions, job.cfg.run.seed, epoch)
        whole = min(count, len(order) // size)
        part: np.ndarray = order[: whole * size]
        with closing(job.stream.epoch(part, epoch, size=job.sizes[-1])) as batches:
            for groups, at in batches:
                yield job.batch(groups, at)
        count, epoch = count - whole, epoch + 1

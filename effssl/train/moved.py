"""What a forward pass moves beside gradients, so that it can be put back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from effssl.run.device import random_state
from effssl.train.job import Job


class Moved(NamedTuple):
    """Torch's random numbers, and the encoder's buffers, such as running averages."""

    random: dict[str, Tensor]
    buffers: list[Tensor]


def moved(job: Job) -> Moved:
    """Take a copy of what a forward pass moves."""
    return Moved(random_state(job.runtime.device), buffers_of(job))


def buffers_of(job: Job) -> list[Tensor]:
    """Take a copy of the encoder's buffers."""
    return [buffer.clone() for buffer in job.encoder.buffers()]


def put_back_buffers(job: Job, buffers: list[Tensor]) -> None:
    """Give the encoder's buffers the values that `buffers_of` took."""
    for buffer, value in zip(job.encoder.buffers(), buffers, strict=True):
        buffer.copy_(value)

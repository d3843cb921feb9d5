"""What the processes of a training exchange in a step, counted and timed."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effssl.run import distributed

FLOAT = 4  # bytes


class Sent(NamedTuple):
    """Exchanges of one process in a step."""

    reduced: int = 0  # bytes that are summed over processes
    reductions: int = 0
    gathered: int = 0  # bytes that are gathered, those of all processes
    gathers: int = 0

    @property
    def messages(self) -> int:
        """The exchanges, each of which waits for all processes."""
        return self.reductions + self.gathers

    def on_the_wire(self, processes: int) -> float:
        """Return the bytes that each process sends if they go round a ring: 2 (W - 1) / W of what
        is summed, (W - 1) / W of what is gathered."""
        return (processes - 1) / processes * (2 * self.reduced + self.gathered)

    def __add__(self, other: object) -> Sent:
        assert isinstance(other, Sent)
        return Sent(*(a + b for a, b in zip(tuple(self), tuple(other), strict=True)))


class Link(NamedTuple):
    """What an exchange takes: latency_s + bytes / bytes_per_s."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, messages: int, num_bytes: float) -> float:
        """Return what so many exchanges of so many bytes in all take, one after the other."""
        return messages * self.latency_s + num_bytes / self.bytes_per_s


class Counting:
    """torch.distributed as effssl/run/distributed.py uses it, where nothing is sent: all processes
    have what this one has."""

    ReduceOp = dist.ReduceOp

    def __init__(self, processes: int):
        self.processes, self.sent = processes, Sent()

    def is_available(self) -> bool:
        """Say that there are other processes."""
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        """Return their number."""
        return self.processes

    def get_rank(self) -> int:
        """Return that of this one."""
        return 0

    def get_backend_config(self) -> str:
        """Say that they could exchange on CPUs."""
        return "cpu:gloo"

    def all_reduce(self, x: Tensor, op: Any = None) -> None:
        """Count a sum. Batches' sizes, of which each process knows its own, are all this one's."""
        if x.dtype == torch.int64:
            x.fill_(int(x[0]))
        self.sent += Sent(reduced=x.numel() * x.element_size(), reductions=1)

    def all_gather(self, everyone: list[Tensor], x: Tensor) -> None:
        """Count a gather, and give everyone's part as this process's."""
        for each in everyone:
            each.copy_(x)
        num_bytes = len(everyone) * x.numel() * x.element_size()
        self.sent += Sent(gathered=num_bytes, gathers=1)


@contextlib.contextmanager
def as_if(processes: int) -> Iterator[Counting]:
    """Let this process be the first of so many, and count what it would send; nothing is."""
    real, counting = distributed.dist, Counting(processes)
    distributed.dist = counting  # type: ignore[assignment]
    try:
        yield counting
    finally:
        distributed.dist = real


def of_loss(loss: Callable[[Tensor], Tensor], shape: Sequence[int], processes: int) -> Sent:
    """Count what a loss sends, forward and backward, for z of this shape in each process.

    loss: z [views, batch, dim] -> a scalar.
    """
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with as_if(processes) as counting:
        loss(z).backward()
    return counting.sent


def of_gradients(model: nn.Module) -> Sent:
    """Count what DistributedDataParallel sends: the gradients, in buckets of 25 MiB."""
    num_bytes = FLOAT * sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Sent(reduced=num_bytes, reductions=max(1, round(num_bytes / (25 * 2**20))))


def of_batch_norm(model: nn.Module, processes: int) -> Sent:
    """Count what torch's SyncBatchNorm sends: mean, inverse deviation and count of every channel
    forward, two sums of every channel backward."""
    widths = [m.num_features for m in model.modules() if isinstance(m, _BatchNorm)]
    return Sent(
        reduced=FLOAT * sum(2 * width for width in widths),
        reductions=len(widths),
        gathered=FLOAT * processes * sum(2 * width + 1 for width in widths),
        gathers=len(widths),
    )


def fitted(num_bytes: Sequence[float], seconds: Sequence[float]) -> Link:
    """Fit a Link by least squares of relative errors; neither part of it is below 0."""
    b, t = np.asarray(num_bytes, float), np.asarray(seconds, float)
    (latency, per_byte), *_ = np.linalg.lstsq(np.stack([1 / t, b / t], 1), np.ones(len(t)))
    if latency < 0:
        latency, per_byte = 0.0, float((b / t).sum() / ((b / t) ** 2).sum())
    return Link(max(latency, 0.0), 1 / max(per_byte, 1e-15))


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of some work, after a first time that does not count; in a group
    all processes begin together."""
    taken = []
    for _ in range(repeats + 1):
        if dist.is_initialized():
            dist.barrier()
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])

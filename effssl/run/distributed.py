"""The processes of a run, and sums over them that autograd differentiates.

Without a process group everything here changes nothing.

Every process computes the same loss of the global batch, and backward() differentiates the sum of
their W equal losses: each process is left with W times the gradient through its own images.
DistributedDataParallel takes the mean over processes, so what it leaves is the gradient of one
process on the whole batch.

(Autograd does not see a plain dist.all_reduce inside a loss: gradients come out 1 / W as large, and
what flows through the statistics to other processes' images is lost.)
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

T = TypeVar("T")


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Make torchrun's processes torch's default group; without torchrun do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # torchrun keeps one store over all its restarts, in which processes would find the addresses of
    # those that they stand in for. Told not to, it makes a new one for each, whose number then may
    # differ between machines: one that comes back counts from 0.
    is_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    start = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}" if is_kept else ""
    store, rank, size = next(dist.rendezvous("env://"))
    # All wait for the first one's probes, which may take long on a large set; when a process dies,
    # torchrun ends the others.
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(start, store),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(hours=2),
    )
    yield
    dist.destroy_process_group()  # not after an error: others may be waiting for this one


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def is_first() -> bool:
    """Say whether this process writes files and talks; without a group it is the only one."""
    return rank() == 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _is_distributed() else 1


def barrier() -> None:
    """Wait until all processes have come here."""
    if _is_distributed():
        dist.barrier()


def from_first(value: T) -> T:
    """Return the first process's `value`, in all of them."""
    values = [value]
    if _is_distributed():
        dist.broadcast_object_list(values)
    return values[0]


def in_any(*flags: bool) -> tuple[bool, ...]:
    """Return each flag, true if it is true in any process.

    What is then decided by it is decided alike in all of them.
    """
    if not _is_distributed():
        return flags
    each = torch.tensor(flags, dtype=torch.int32, device=_device_of_counts())
    dist.all_reduce(each, dist.ReduceOp.MAX)
    return tuple(map(bool, each.tolist()))


def all_sum(x: Tensor) -> Tensor:
    """Return the sum of x over processes, in each of them; backward sums the gradients likewise."""
    return _AllSum.apply(x) if _is_distributed() else x


def batch_sizes(batch: int, device: torch.device | str = "cuda") -> list[int]:
    """Return the batch of every process, by rank; they may differ.

    device: this process's GPU, where the group exchanges on GPUs alone.
    """
    if not _is_distributed():
        return [batch]
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=_device_of_counts(device))
    sizes[dist.get_rank()] = batch
    dist.all_reduce(sizes)
    return sizes.tolist()


def all_rows(x: Tensor, sizes: list[int]) -> Tensor:
    """Gather x [..., n, dim] of every process: [..., N, dim] by rank, N = sum(sizes).

    sizes: what `batch_sizes` returned. Backward sums the gradients over processes.
    """
    return _AllRows.apply(x, sizes) if len(sizes) > 1 else x


def first_row(sizes: list[int]) -> int:
    """Return where the rows of this process begin among `all_rows`."""
    return sum(sizes[: dist.get_rank()]) if len(sizes) > 1 else 0


def _device_of_counts(device: torch.device | str = "cuda") -> torch.device | str:
    """Choose the CPU if the group can exchange there (gloo), so that no GPU is waited for."""
    return "cpu" if "gloo" in str(dist.get_backend_config()) else device


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _summed(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _summed(gradient)


class _AllRows(torch.autograd.Function):
    # torch's own differentiable all_gather needs equal shapes, and a backward that not every
    # backend has.

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes  # type: ignore[attr-defined]
        longest = max(sizes)
        padded = torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[-2])).contiguous()
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded)
        return torch.cat([rows[..., :n, :] for rows, n in zip(everyone, sizes, strict=True)], -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        sizes = ctx.sizes  # type: ignore[attr-defined]
        return _summed(gradient).narrow(-2, first_row(sizes), sizes[dist.get_rank()]), None

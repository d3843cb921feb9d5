"""One step of training: from the views of a batch to gradients, and from these to new weights."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effssl import InputError
from effssl.run import distributed
from effssl.run.device import random_state, set_random_state
from effssl.train.forward import fewest_in_part
from effssl.train.job import Batch, Job
from effssl.train.moved import buffers_of, moved, put_back_buffers

SPIKE = 10.0  # from this multiple of the median of the norms before it, a gradient is a spike
SPIKE_AFTER = 20  # norms that there have to be before
_KEPT = 100  # norms that the median is of
_HALVINGS = 32  # of the scale of float16 for one batch that weighs --keep, at most


def leave_gradients(job: Job, batch: Batch, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Leave the gradient of a batch's loss on the encoder's parameters; returns loss and terms.

    With `--micro-batch auto`, if the step does not fit in the device's memory it is tried again in
    halves, as are all after it. If the step may be skipped, `job.buffers` keeps what the encoder's
    buffers were before.

    Args:
        job: whose encoder, and whose loss.
        batch: what is trained on.
        say: is told of the halves.

    Raises InputError if the step does not fit.
    """
    images, is_auto = batch.groups[0].shape[1], job.cfg.optim.micro_batch == "auto"
    fewest = fewest_in_part(job.cfg, job.encoder)
    # Parts go together; none may be too small, or empty where a last batch has fewer images.
    sizes = distributed.batch_sizes(images) if job.micro_batch else [images]
    images, most_parts = max(sizes), min(sizes) // fewest
    if job.cfg.optim.max_skipped or job.scaler.is_enabled():
        job.buffers = buffers_of(job)
    while True:
        size = min(images, job.micro_batch or images)
        before = moved(job) if is_auto else None
        try:
            if size == images:
                return _whole(job, batch)
            return _in_parts(job, batch, min(math.ceil(images / size), most_parts))
        except torch.cuda.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        # Not in the handler, whose error holds what was computed.
        if before is None or size <= fewest:
            raise InputError(
                f"a step does not fit in the memory of {job.runtime.device}; try a new run, in "
                f"another folder, with {_smaller_parts(size, fewest, is_auto=is_auto)}"
                f"--checkpoint-activations or a smaller --batch-size ({reason})"
            )
        job.optimizer.zero_grad(set_to_none=True)
        put_back_buffers(job, before.buffers)
        set_random_state(before.random, job.runtime.device)
        torch.cuda.empty_cache()
        job.micro_batch = math.ceil(size / 2)
        say(
            f"--micro-batch auto: the views of {size} images do not fit at once; from step "
            f"{job.step} on it is those of {job.micro_batch}"
        )


def _smaller_parts(size: int, fewest: int, *, is_auto: bool) -> str:
    """Say how --micro-batch would make the parts of `size` images smaller, if it can."""
    if is_auto or size <= fewest:
        return ""
    is_one = distributed.world_size() == 1
    return "--micro-batch auto, " if is_one else f"--micro-batch below {size}, "


def _whole(job: Job, batch: Batch) -> dict[str, Tensor]:
    terms = job.loss_of(_encode(job, batch))
    job.scaler.scale(terms["loss"]).backward()
    return terms


def _in_parts(job: Job, batch: Batch, count: int) -> dict[str, Tensor]:
    """Do what `_whole` does, with the memory for the views of one of `count` parts of the images
    (GradCache, arXiv 2101.06983).

    All are encoded without a graph, the loss is differentiated by z, and each part is encoded once
    more, with the random numbers that it had (dropout, drop path), for the gradient through it.
    That is the gradient of the whole batch, but that BatchNorm's statistics are those of each part;
    its running averages take them in part by part.
    """
    parts = _parts(batch, count)
    device, before = job.runtime.device, buffers_of(job)
    randoms, embeddings = [], []
    with torch.no_grad():
        for part in parts:
            randoms.append(random_state(device))
            embeddings.append(_encode(job, part))
    put_back_buffers(job, before)
    z = torch.cat(embeddings, 1).requires_grad_()
    terms = job.loss_of(z)
    job.scaler.scale(terms["loss"]).backward()
    assert z.grad is not None
    gradients = z.grad.split([part.shape[1] for part in embeddings], 1)
    for i, (part, random, gradient) in enumerate(zip(parts, randoms, gradients, strict=True), 1):
        set_random_state(random, device)
        with _gathered(job.forward, is_last=i == len(parts)):
            _encode(job, part).backward(gradient)
    return terms


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Cut a batch into so many parts, by images."""
    groups = zip(*(group.tensor_split(count, 1) for group in batch.groups), strict=True)
    if not batch.vectors:
        return [Batch(list(group), []) for group in groups]
    vectors = zip(*(rows.tensor_split(count) for rows in batch.vectors), strict=True)
    return [Batch(list(g), list(v)) for g, v in zip(groups, vectors, strict=True)]


def _encode(job: Job, batch: Batch) -> Tensor:
    """Return the embeddings z [views, batch, dim], with a row more for each branch."""
    further = {"vectors": batch.vectors} if batch.vectors else {}
    with job.runtime.autocast():
        _, z = job.forward(*map(in_a_row, batch.groups), **further)
    return z.unflatten(0, (job.cfg.num_rows, -1))


def in_a_row(views: Tensor) -> Tensor:
    """Lay views [views, batch, 3, h, w] side by side, as the encoder wants them."""
    return views.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def update(job: Job, loss: Tensor, *, is_logged: bool, say: Callable[[str], None]) -> Tensor | None:
    """Move the weights by the gradients that there are, and remove these.

    `--clip-grad` shortens them before. With `--max-skipped`, a step whose gradient is not finite or
    is a spike leaves the weights as they are, and is counted. It leaves the encoder's buffers and
    the averaged weights too, as does a step that the scaler of float16 skips: running averages of
    what is not finite would stay so for good.

    Args:
        job: whose weights.
        loss: of the batch.
        is_logged: whether the gradient's norm is wanted.
        say: is told of steps that are skipped.

    Returns:
        The norm of the gradient as it came, if something needed it.

    Raises:
        FloatingPointError: if more steps were skipped than may be.
    """
    optim, norm, is_skipped = job.cfg.optim, None, False
    if is_logged or optim.clip_grad is not None or optim.max_skipped:
        job.scaler.unscale_(job.optimizer)
        parameters = [p for group in job.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip_grad or math.inf)
    if optim.max_skipped and norm is not None and _is_spike(job, loss, norm.item()):
        is_skipped = True
        job.skipped += 1
        say(f"step {job.step} is skipped: the norm of its gradient is {norm.item():.3g}")
        if job.skipped > optim.max_skipped:
            raise diverged(job, f"{job.skipped} steps were skipped up to step {job.step}")
    else:
        job.scaler.step(job.optimizer)
    job.optimizer.zero_grad(set_to_none=True)
    if _has_overflowed(job.scaler) or is_skipped:
        put_back_buffers(job, job.buffers)
    elif job.average is not None:
        job.average.update_parameters(job.encoder)
    return norm


def _is_spike(job: Job, loss: Tensor, norm: float) -> bool:
    """Say whether a step is to be skipped; else keep its norm for those to come."""
    if not math.isfinite(norm):
        # The scaler of float16 skips such a step itself, and scales by less: that mends no loss.
        return not (job.scaler.is_enabled() and bool(loss.isfinite()))
    if len(job.norms) >= SPIKE_AFTER and norm > SPIKE * statistics.median(job.norms):
        return True
    job.norms = [*job.norms, norm][-_KEPT:]
    return False


def _has_overflowed(scaler: torch.amp.GradScaler) -> bool:
    """Let the scaler of float16 choose the scale of the next loss; returns whether that is smaller,
    as gradients of this one were not finite, for which the scaler skips the step."""
    before = scaler.get_scale()
    scaler.update()
    return scaler.get_scale() < before


def weigh_keep(job: Job, epoch: int) -> None:
    """Estimate what weighs --keep, if it is wanted and the backbone begins to move in this epoch.

    Raises FloatingPointError if gradients are not finite.
    """
    keep, start = job.keep, job.cfg.start
    if keep is None or keep.fisher is not None or start.keep_fisher == "none":
        return
    if epoch < start.freeze_epochs:
        return
    before = moved(job)

    def gradients(batch: Batch) -> None:
        for _ in range(_HALVINGS):
            job.optimizer.zero_grad(set_to_none=True)
            leave_gradients(job, batch, print)
            job.scaler.unscale_(job.optimizer)
            if not _has_overflowed(job.scaler):
                return

    keep.estimate(gradients, job.batches(epoch))
    job.optimizer.zero_grad(set_to_none=True)
    put_back_buffers(job, before.buffers)
    set_random_state(before.random, job.runtime.device)
    if distributed.is_first():
        keep.save(job.out)


def check_finite(job: Job, loss: Tensor) -> None:
    """Raise FloatingPointError for a loss that is not finite, unless such steps are skipped."""
    if not job.cfg.optim.max_skipped and not torch.isfinite(loss):
        raise diverged(job, f"the loss is {loss.item()} at step {job.step}")


def diverged(job: Job, what: str) -> FloatingPointError:
    """Return the error of a training that cannot go on, with the ways out."""
    ways_out = ["a lower --lr", "a longer --warmup-epochs"]
    if job.runtime.autocast_dtype is not None:
        ways_out.append("--precision fp32")
    return FloatingPointError(
        f"{what}; start a new run with {' or '.join(ways_out)} (last good checkpoint: "
        f"{job.out / 'checkpoint.pt'})"
    )


def _gathered(forward: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Let processes exchange gradients in the last part's backward alone."""
    if isinstance(forward, DistributedDataParallel) and not is_last:
        return forward.no_sync()
    return contextlib.nullcontext()

"""`effssl train --plan`: what a training would take, from some of its steps."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effssl.config import Config
from effssl.data.stored import Sample, open_sample
from effssl.ranges import ImageSize, size_text, text_of_bytes
from effssl.run import distributed
from effssl.train.branches import prepare_branches
from effssl.train.found_out import with_images
from effssl.train.introduction import views_text
from effssl.train.job import Batch, Job, build_job
from effssl.train.resume import state_of
from effssl.train.step import leave_gradients, update

WARM_UP = 1  # steps of each size of views before those that are timed
LONG_S = 60.0  # if these take longer, they are
AT_LEAST_S, AT_LEAST_STEPS = 5.0, 2  # that are timed, of each size
_GIB = 2**30


def plan(cfg: Config) -> None:
    """Print what a training takes: images, parameters, memory, views/s, hours and disk.

    Views per second and memory are measured, on some steps of each size that views grow through;
    they are made of a sample of the images, which is stored for as long. The hours are those of all
    steps, without probes. Of several processes the first one prints. Raises InputError as training
    does.
    """
    cfg = with_images(cfg)
    with tempfile.TemporaryDirectory() as folder:
        sample = open_sample(cfg.images, Path(folder), cfg.run.plan or 0)
        job = build_job(cfg, sample.data)
        of_first = Path(distributed.from_first(folder))
        prepare_branches(job.branches, job.data, job.stream, cfg.augment, of_first)
        for line in lines_of(job, sample):
            _say(line)


def _say(line: str) -> None:
    if distributed.is_first():
        print(line, flush=True)


def lines_of(job: Job, sample: Sample) -> Iterator[str]:
    """Measure a job, which is trained by it, and say what it would take, line by line."""
    cfg, data = job.cfg, sample.data
    num_parameters = sum(p.numel() for p in job.encoder.parameters()) / 1e6
    yield (
        f"{cfg.images.data}: {sample.num_images} training images, {len(data.pretrain_positions)} "
        f"of them to pretrain on; stored they take {text_of_bytes(sample.num_bytes)}"
    )
    yield (
        f"{cfg.loss.method}, {views_text(job)}, proj-dim {cfg.model.proj_dim}, "
        f"{cfg.model.backbone}: {num_parameters:.1f} M parameters, on {job.runtime.device}"
    )
    yield from job.begins_with
    steps_of = Counter(job.size_at(step) for step in range(job.total_steps))
    seconds = 0.0
    for size, steps in steps_of.items():
        a_step_s = _seconds_of_a_step(job, size)
        views = cfg.optim.batch_size * cfg.num_views
        seconds += steps * a_step_s
        yield (
            f"{steps} steps of {views} views of {size_text(size)} px: {1000 * a_step_s:.0f} ms a "
            f"step, {views / a_step_s:.0f} views/s"
        )
    if (peak := _peak_gib(job)) is not None:
        yield f"memory at its peak: {peak:.2f} GiB {_memory_of(job)}"
    yield f"{cfg.optim.epochs} epochs, {job.total_steps} steps: {_duration(seconds)}, probes apart"
    checkpoint, backbone = _num_bytes(state_of(job)), _num_bytes(job.encoder.backbone.state_dict())
    yield (
        f"disk: checkpoint.pt {text_of_bytes(checkpoint)} (twice while it is replaced), "
        f"backbone.safetensors {text_of_bytes(backbone)}"
    )


def _seconds_of_a_step(job: Job, size: ImageSize) -> float:
    """Train on views of this size for some steps; returns the mean seconds of those timed."""
    timed, began = -WARM_UP, time.perf_counter()
    with closing(_batches(job, size)) as batches:
        for batch in batches:
            terms = leave_gradients(job, batch, _say)
            update(job, terms["loss"], is_logged=False, say=_say)
            timed += 1
            if timed < 0 or 0 < timed < AT_LEAST_STEPS:
                continue
            job.runtime.wait()
            # One clock for all processes: they take as many steps.
            took_s = distributed.from_first(time.perf_counter() - began)
            if timed == 0 and took_s > LONG_S:
                return took_s / WARM_UP
            if timed > 0 and took_s > AT_LEAST_S:
                return took_s / timed
            if timed == 0:
                began = time.perf_counter()
    raise AssertionError("batches have no end")


def _batches(job: Job, size: ImageSize) -> Generator[Batch, None, None]:
    """Make batches of views of this size for as long as they are taken."""
    epoch = 0
    while True:
        with closing(job.stream.epoch(job.positions(epoch), epoch, size=size)) as batches:
            for groups, at in batches:
                yield job.batch(groups, at)
        epoch += 1


def _peak_gib(job: Job) -> float | None:
    """Return the memory that was in use at most: of the GPU, or else of the process, which Windows
    does not tell."""
    device = job.runtime.device
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / _GIB
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


def _memory_of(job: Job) -> str:
    if job.runtime.device.type != "cuda":
        return "of the process"
    total = torch.cuda.get_device_properties(job.runtime.device).total_memory
    return f"of the GPU's {total / _GIB:.1f}"


def _num_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested containers."""
    match state:
        case Tensor():
            return state.numel() * state.element_size()
        case dict():
            return sum(map(_num_bytes, state.values()))
        case list() | tuple():
            return sum(map(_num_bytes, state))
        case _:
            return 0


def _duration(seconds: float) -> str:
    """Return a time in hours, or in minutes if it is less than one."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"

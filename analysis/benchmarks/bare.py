"""The least that a training step can take: forward and backward of the backbone alone, on views
that are there."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from effssl.config import Config
from effssl.ranges import height_width
from effssl.run.device import open_runtime
from effssl.views.sizes import small_group


def passes(cfg: Config) -> Generator[list[float], None, None]:
    """Give the seconds of pass after pass through the backbone, forward and backward, of as many
    views as a step has."""
    from effssl.models import build_encoder  # slow, and not needed for --help

    runtime = open_runtime(cfg.run.device, cfg.run.precision, cfg.run.compile)
    encoder = build_encoder(cfg.model, cfg.augment, cfg.run.seed).to(runtime.device)
    backbone = torch.compile(encoder.backbone) if runtime.compile else encoder.backbone
    groups = [views.to(runtime.device) for views in _views(cfg)]
    gradient = None
    while True:
        runtime.wait()
        began = time.perf_counter()
        with runtime.autocast():
            h = torch.cat([backbone(views) for views in groups])
        gradient = torch.ones_like(h) if gradient is None else gradient
        h.backward(gradient)
        encoder.zero_grad(set_to_none=True)
        del h
        runtime.wait()
        yield [time.perf_counter() - began]


def views_mb(cfg: Config) -> float:
    """Return the megabytes of a step's views."""
    return sum(views.nbytes for views in _views(cfg)) / 1e6


def peak_mb(work: Callable[[], object], device: str) -> float:
    """Return the megabytes of tensors that are there at most during `work`, beside those before."""
    where = open_runtime(device).device
    if where.type == "cuda":
        before = torch.cuda.memory_allocated(where)
        torch.cuda.reset_peak_memory_stats(where)
        work()
        return (torch.cuda.max_memory_allocated(where) - before) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        with torch.profiler.profile(
            activities=[ProfilerActivity.CPU], profile_memory=True
        ) as profiler:
            work()
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = highest = 0
    for _, change in changes:
        held += change
        highest = max(highest, held)
    return highest / 1e6


def _views(cfg: Config) -> list[Tensor]:
    """Return noise in the shapes of a step's views: [views x batch, 3, height, width] a group."""
    small, batch = small_group(cfg.augment, cfg.sizes), cfg.optim.batch_size
    groups = [cfg.augment, *([small] if small else [])]
    views = [torch.randn(g.views * batch, 3, *height_width(g.image_size)) for g in groups]
    return [x.contiguous(memory_format=torch.channels_last) for x in views]

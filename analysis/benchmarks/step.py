"""Where the time of a training step goes: waiting for images, making views, encoder, projector and loss, optimizer."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Generator
from contextlib import ExitStack, closing

import torch
from tqdm import tqdm

from effssl import InputError, optim
from effssl.config import Config
from effssl.data.ffcv_loader import batches, open_loader
from effssl.data.splits import epoch_order
from effssl.evaluation.finished_run import build_encoder, open_images, strengths
from effssl.losses import objective
from effssl.run.device import where_it_runs
from effssl.views import draws as sampling
from effssl.views import ops as augment

PARTS = ("loader", "augmentation", "encoder", "projector and loss", "optimizer")


def measure(
    settings: dict[str, Config], *, rounds: int = 12, seconds: float = 60.0, threads: int | None = None
) -> dict[str, dict[str, float]]:
    """Milliseconds of each part of a training step, by the name of the settings: medians over `rounds`, fewer (but
    three) once `seconds` are over. All settings take turns, so that a machine that slows down slows all; the device
    is waited for after each part. threads: of torch on a CPU. Raises InputError for images of varied size."""
    before = torch.get_num_threads()
    times: dict[str, list[list[float]]] = {name: [] for name in settings}
    with ExitStack() as stack:
        if threads is not None:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        steps = {name: stack.enter_context(closing(_steps(cfg))) for name, cfg in settings.items()}
        began = time.monotonic()
        for turn in tqdm(range(rounds + 2), desc="parts of a step", unit="turn", leave=False):
            if turn >= 5 and time.monotonic() - began > seconds:
                break
            for name, step in steps.items():
                taken = next(step)
                if turn >= 2:  # the first ones compile and allocate
                    times[name].append(taken)
    return {
        name: {
            part: 1000 * statistics.median(column) for part, column in zip(PARTS, zip(*taken, strict=True), strict=True)
        }
        for name, taken in times.items()
    }


def _steps(cfg: Config) -> Generator[list[float], None, None]:
    """Train, and give the seconds of each of PARTS after every step. What train.py does, cut where the parts meet."""
    device, bf16, compiled = where_it_runs(cfg.run.device, cfg.run.precision, cfg.run.compile)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    autocast = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)
    encoder = build_encoder(cfg).to(device)
    data, clean = open_images(cfg.images, cfg.augment, device, torch.bfloat16 if bf16 else torch.float32)
    if data.train.side is None:
        raise InputError("the parts of a step are measured on images of one size")
    batch, views = cfg.optim.batch_size, cfg.augment.views
    loader = open_loader(data.train.path, batch, cfg.images.workers, None)
    optimizer = optim.build_optimizer(
        encoder, cfg.optim.optimizer, lr=cfg.optim.lr, weight_decay=cfg.optim.weight_decay
    )
    made = torch.compile(augment.make_views) if compiled else augment.make_views
    make_views = functools.partial(made, size=clean.size, mean=clean.mean, std=clean.std)
    backbone, projector = (torch.compile(m) if compiled else m for m in (encoder.backbone, encoder.projector))
    stored = (data.train.side, data.train.side)
    draw = functools.partial(sampling.draw, stored=stored, views=views, seed=cfg.run.seed, **strengths(cfg.augment))
    loss_of = objective.build(cfg, encoder)
    for epoch in itertools.count():
        order = epoch_order(data.train_positions, cfg.run.seed, epoch)
        began = _now(device)
        for images, positions in batches(loader, order[: len(order) // batch * batch], device, epoch=epoch):
            loaded = _now(device)
            x = make_views(images, draw(indices=positions, epoch=epoch))  # [views, batch, 3, size, size]
            x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            viewed = _now(device)
            with autocast():
                h = backbone(x)
            encoded = _now(device)
            cut = h.detach().requires_grad_()
            with autocast():
                z = projector(cut)
            loss_of(z.unflatten(0, (views, batch)))["loss"].backward()
            lost = _now(device)
            h.backward(cut.grad)
            differentiated = _now(device)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            encoder_s = (encoded - viewed) + (differentiated - lost)
            yield [loaded - began, viewed - loaded, encoder_s, lost - encoded, _now(device) - differentiated]
            began = _now(device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

"""A training of another tool, for so many seconds: its parts, and the loop around them.

A peer is told what to do by the flags of effssl.train, of which it takes those that say which
images and encoder, which width, rate, batch, weight and crops, and for how long. What it leaves is
what effssl.train leaves: config.yaml, metrics.jsonl with the same records, result.json.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import random
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from effssl import InputError, cli
from effssl.config import Config
from effssl.data.sources import ImageSequence
from effssl.data.stored import Data, open_data, open_split
from effssl.evaluation.encode import Streams, backbone_features, open_streams
from effssl.evaluation.final_table import validation_probe
from effssl.models.backbones import create_backbone, representation_dim
from effssl.run import folder, signals
from effssl.run.device import open_runtime
from effssl.run.files import append_line, write_json, write_text
from effssl.run.log import Clock
from effssl.run.provenance import machine
from effssl.run.threads import num_cores

# Probes stand at these parts of the seconds, beside one before the first step.
PROBED = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
WORKERS = num_cores()  # processes that make views
Transform = Callable[[Image.Image], Sequence[Tensor]]  # an image -> its views, each [3, h, w]


class Peer(NamedTuple):
    """What a tool brings."""

    package: str  # its name in an index of packages
    transform: Transform
    projector: nn.Module  # representations [n, dim_h] -> embeddings [n, dim]
    loss_of: Callable[[Sequence[Tensor]], Tensor]  # embeddings of each view [batch, dim] -> scalar
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    rate: Callable[[float], float]  # part of the training in [0, 1] -> learning rate


Build = Callable[[Config, int], Peer]  # settings, width of representations -> the peer


class _Images(torch.utils.data.Dataset):
    """The images at some positions of a set, each as the views that a transform makes."""

    def __init__(self, images: ImageSequence, positions: np.ndarray, transform: Transform):
        self._images, self._positions, self._transform = images, positions, transform

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> list[Tensor]:
        image = Image.fromarray(np.asarray(self._images[self._positions[i]])).convert("RGB")
        return list(self._transform(image))


class _Run:
    """A training on its way: what is trained, and where it is."""

    def __init__(self, cfg: Config, build: Build):
        # Data first, as bad settings are said before weights are made.
        self.cfg, self.out = cfg, _folder(cfg)
        self.runtime = open_runtime(cfg.run.device, cfg.run.precision, cfg.run.compile)
        self.data: Data = open_data(cfg.images)
        random.seed(cfg.run.seed)  # what some transforms draw from
        torch.manual_seed(cfg.run.seed)
        self.backbone = create_backbone(
            cfg.model.backbone,
            cfg.augment.image_size,
            stem=cfg.model.stem,
            kwargs=cfg.model.backbone_kwargs,
        ).to(self.runtime.device)
        self.peer = build(cfg, representation_dim(self.backbone))
        self.projector = self.peer.projector.to(self.runtime.device)
        parameters = [*self.backbone.parameters(), *self.projector.parameters()]
        self.optimizer = self.peer.optimizer(parameters)
        self.streams: Streams = open_streams(
            self.data,
            cfg.augment,
            seed=cfg.run.seed,
            batch_size=cfg.optim.batch_size,
            workers=cfg.images.workers,
            runtime=self.runtime,
        )
        self.step, self.encoded_views = 0, 0

    def loader(self) -> torch.utils.data.DataLoader:
        """Return the batches of an epoch, each a list of views [batch, 3, h, w]."""
        opened = open_split(self.cfg.images, "train")
        assert opened is not None  # open_data found it
        positions, batch = self.data.pretrain_positions, self.cfg.optim.batch_size
        if batch > len(positions):
            raise InputError(f"--batch-size {batch} is larger than the set: {len(positions)}")
        return torch.utils.data.DataLoader(
            _Images(opened[0].images, positions, self.peer.transform),
            batch_size=batch,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS,
            persistent_workers=WORKERS > 0,
        )

    def axes(self, clock: Clock) -> dict[str, Any]:
        """Say where a record lies."""
        epoch = self.step * self.cfg.optim.batch_size / len(self.data.pretrain_positions)
        axes: dict[str, Any] = {"step": self.step, "epoch": epoch, "seconds": clock.seconds}
        return axes | {"encoded_views": self.encoded_views}


def main(build: Build, argv: list[str] | None = None) -> int:
    """Train a peer as a command line does; returns the exit code. Without a result a training that
    was stopped has left nothing, and begins again."""
    interrupted = "interrupted; the next time it starts again"
    return signals.exit_code(lambda: train(_config(argv), build), interrupted=interrupted)


def train(cfg: Config, build: Build) -> None:
    """Train a peer for --max-seconds, without its probes, and write result.json as the last thing.

    Raises InputError for bad settings, FloatingPointError for a loss that is not finite.
    """
    run = _Run(cfg, build)
    with folder.claimed(run.out):
        (run.out / "result.json").unlink(missing_ok=True)
        write_text(run.out / "config.yaml", cli.dump(cfg))
        write_text(run.out / "metrics.jsonl", "")
        loader = run.loader()
        clock = Clock(0.0, run.runtime.wait)
        _probe(run, clock)
        with contextlib.closing(_batches(loader)) as batches:
            for share in PROBED:
                before = run.step
                _train_until(run, clock, batches, share)
                if run.step > before:  # a step may take longer than from one probe to the next
                    _probe(run, clock)
        seconds = clock.seconds
        write_json(run.out / "result.json", _result(run, seconds))


def cosine(share: float, peak: float, *, warmup: float = 0.0, start: float = 0.0, end: float = 0.0):
    """Return the learning rate after a part of the training: linear from `start` to `peak` for the
    part `warmup`, then half a cosine from there to `end`."""
    if share < warmup:
        return start + (peak - start) * share / warmup
    rest = (share - warmup) / (1 - warmup)
    return end + (peak - end) * (1 + math.cos(math.pi * min(1.0, rest))) / 2


def _train_until(run: _Run, clock: Clock, batches: Iterator[list[Tensor]], share: float) -> None:
    """Train until this part of the seconds is used up. Each step's rate follows the clock."""
    max_seconds = run.cfg.optim.max_seconds
    assert max_seconds is not None  # see _config
    while clock.seconds < share * max_seconds:
        views = [view.to(run.runtime.device) for view in next(batches)]
        for group in run.optimizer.param_groups:
            group["lr"] = run.peer.rate(clock.seconds / max_seconds)
        loss = run.peer.loss_of(_embeddings(run, views))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {run.step}")
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.step += 1
        run.encoded_views += sum(len(view) for view in views)
        if run.step % run.cfg.run.log_every == 0:
            _keep(run, "train", run.axes(clock) | {"loss": loss.item()})


def _embeddings(run: _Run, views: list[Tensor]) -> Sequence[Tensor]:
    """Return z of each view, [batch, dim]: of views that pass by themselves, as --norm-by-view asks
    for, or of all at once."""
    if run.cfg.model.norm_by_view:
        return [run.projector(run.backbone(view)) for view in views]
    return run.projector(run.backbone(torch.cat(views))).chunk(len(views))


def _batches(loader: torch.utils.data.DataLoader) -> Generator[list[Tensor], None, None]:
    while True:
        yield from loader


def _probe(run: _Run, clock: Clock) -> None:
    """Judge the encoder as effssl.train does; the clock pauses."""
    with clock.paused():
        features = backbone_features(run.backbone, run.streams)
        at_most = run.cfg.probe.probe_images
        measured = validation_probe(features, run.data, at_most, run.projector)
        _keep(run, "probe", run.axes(clock) | measured)


def _keep(run: _Run, kind: str, record: dict[str, Any]) -> None:
    append_line(run.out / "metrics.jsonl", json.dumps({"kind": kind, **record}))
    print(kind, *(f"{name} {value:.4g}" for name, value in record.items()), flush=True)


def _result(run: _Run, seconds: float) -> dict[str, Any]:
    about = machine(run.runtime.device)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        about["versions"][run.peer.package] = importlib.metadata.version(run.peer.package)
    return {
        "final": {"split": None, "rows": {}},
        "steps": run.step,
        "seconds": round(seconds, 3),
        "encoded_views": run.encoded_views,
        "views_per_s": round(run.encoded_views / seconds, 1),
        "images": run.data.identity,
        **about,
    }


def _config(argv: list[str] | None) -> Config:
    cfg = cli.parse(sys.argv[1:] if argv is None else argv)
    if cfg.optim.max_seconds is None:
        raise InputError("--max-seconds is missing: a peer is trained for so many seconds")
    return cfg


def _folder(cfg: Config) -> Path:
    """Return the run's folder. Raises InputError if none is named, or if it has a result."""
    if cfg.run.out is None:
        raise InputError("--out is missing")
    if (cfg.run.out / "result.json").exists():
        raise InputError(f"--out {cfg.run.out} already holds a finished run")
    return cfg.run.out

"""From settings to all that training needs: build_job(cfg) -> Job."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from effssl.config import Config
from effssl.data.normalisation import measured
from effssl.data.split_folders import check_outside
from effssl.data.splits import epoch_order, own_part
from effssl.data.stored import Data, open_data, reopen_data
from effssl.evaluation import final_table
from effssl.evaluation.encode import ENCODED_AT_ONCE, Streams, open_streams
from effssl.image_config import Augment
from effssl.models import Encoder
from effssl.optim import weight_average
from effssl.ranges import ImageSize
from effssl.run import distributed, folder
from effssl.run.device import Runtime, choose_algorithms, open_runtime
from effssl.run.trackers import check_trackers
from effssl.train.branches import Branch, open_branches
from effssl.train.forward import build_forward
from effssl.train.found_out import with_images
from effssl.train.keep import Keep
from effssl.train.parts import (
    batch_ends_of,
    encoder_of,
    label_of,
    micro_batch_of,
    objective_of,
    optimizer_of,
    schedule_of,
    sizes_of,
)
from effssl.views.own_transform import check_transform
from effssl.views.sizes import size_at
from effssl.views.stream import ViewStream


class Batch(NamedTuple):
    """What a step trains on."""

    groups: list[Tensor]  # views of one size each: [views, batch, 3, h, w]
    vectors: list[Tensor]  # of each branch: [batch, width]


@dataclass
class Job:
    """A training, ready to go; `step` and `seconds` move while it does."""

    cfg: Config
    out: Path  # the run's folder, not made yet
    runtime: Runtime
    data: Data
    streams: Streams  # the views of every split
    encoder: Encoder  # the weights
    forward: nn.Module  # the encoder, compiled or with its gradients shared by processes
    sizes: list[ImageSize]  # of the views but the small ones, in order of time
    small: Augment | None  # how small views are made beside the others
    loss_of: Callable[[Tensor], dict[str, Tensor]]  # z [views, batch, dim] -> "loss" and its terms
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]  # step -> learning rate
    batch_ends: (
        np.ndarray
    )  # int64 [steps of an epoch]: how many images there are up to each one's end
    total_steps: int
    begins_with: list[str]  # what is to be said of the weights of --init
    frozen: list[nn.Parameter]  # those that --freeze-epochs freezes
    keep: Keep | None  # what --keep keeps
    branches: list[Branch]  # whose vectors z has rows of beside the views
    average: AveragedModel | None  # of the encoder, for --ema
    scaler: torch.amp.GradScaler  # of the loss, for float16
    micro_batch: int | None  # images whose views are encoded at a time; None: the batch
    norms: list[float] = field(default_factory=list)  # of the last gradients, for --max-skipped
    skipped: int = 0  # steps that left the weights as they were
    buffers: list[Tensor] = field(default_factory=list)  # before a step that may be skipped
    step: int = 0  # steps done
    seconds: float = 0.0  # of training, before this process began

    @property
    def stream(self) -> ViewStream:
        """The views of the training images."""
        return self.streams["train"]

    @property
    def averaged(self) -> Encoder | None:
        """The encoder of averaged weights, if there is one."""
        encoder = None if self.average is None else self.average.module
        assert encoder is None or isinstance(encoder, Encoder)
        return encoder

    @functools.cached_property
    def probe_streams(self) -> Streams:
        """A few random views of every image, as in training; for so few nothing is compiled."""
        return open_streams(
            self.data,
            replace(self.cfg.augment, views=final_table.VIEWS),
            seed=self.cfg.images.split_seed,
            batch_size=ENCODED_AT_ONCE // final_table.VIEWS,
            workers=self.cfg.images.workers,
            runtime=replace(self.runtime, compile=False),
        )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batch_ends)

    @property
    def encoded_views(self) -> int:
        """The views that went through the backbone so far, in all processes."""
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        num_images = epochs * self.batch_ends[-1] + (self.batch_ends[steps - 1] if steps else 0)
        return int(num_images) * self.cfg.num_views

    @property
    def images(self) -> str:
        """What the images are known by, so that a run goes on with no others."""
        return self.data.known_by

    def thaw(self, epoch: int) -> None:
        """Freeze or free the backbone's weights, as an epoch has them."""
        is_free = epoch >= self.cfg.start.freeze_epochs
        for parameter in self.frozen:
            parameter.requires_grad_(is_free)

    def positions(self, epoch: int) -> np.ndarray:
        """Return what this process trains on for the rest of an epoch, in order."""
        order = epoch_order(self.data.pretrain_positions, self.cfg.run.seed, epoch)
        first_step, processes = self.step % self.steps_per_epoch, distributed.world_size()
        return own_part(order, self.batch_ends, first_step, distributed.rank(), processes)

    def batches(self, epoch: int) -> Generator[Batch, None, None]:
        """Make what each step trains on, for the rest of an epoch."""
        steps = range(self.step, (epoch + 1) * self.steps_per_epoch)
        rest, num_images = self.positions(epoch), self.stream.batch_size
        for size, steps_of_size in itertools.groupby(steps, self.size_at):
            part, rest = np.split(rest, [num_images * len(list(steps_of_size))])
            with closing(self.stream.epoch(part, epoch, size=size)) as batches:
                for groups, at in batches:
                    yield self.batch(groups, at)

    def batch(self, groups: list[Tensor], positions: Tensor) -> Batch:
        """Put beside the views of images what the branches have of them."""
        return Batch(groups, [branch.rows(positions) for branch in self.branches])

    def size_at(self, step: int) -> ImageSize:
        """Return the size of the views of the first group at a step."""
        return size_at(step, self.total_steps, self.sizes, self.cfg.sizes.grow_until)


def build_job(cfg: Config, data: Data | None = None) -> Job:
    """Build encoder, views, loss, optimizer and schedule, with the weights that the seed gives.

    data: the images; None for those of the settings, which are stored if they are not yet.
    Raises InputError for anything that the user has to mend.
    """
    check_trackers(cfg.run.log_to)
    out = distributed.from_first(cfg.run.resume or folder.choose(cfg.run.out, label_of(cfg)))
    if cfg.images.data == "folder" and cfg.run.resume is None:
        check_outside(out, [cfg.images.data_dir, *cfg.images.more_dirs])
    runtime = open_runtime(cfg.run.device, cfg.run.precision, cfg.run.compile)
    choose_algorithms(runtime.device, deterministic=cfg.run.deterministic)
    if data is None and cfg.run.resume is None:
        cfg = with_images(cfg)
    if cfg.augment.transform is not None:
        check_transform(cfg.augment, runtime.device)
    has_begun = cfg.run.resume is not None and (out / "checkpoint.pt").exists()
    encoder, begins_with = encoder_of(cfg, has_begun=has_begun)
    if data is None:
        data = reopen_data(cfg.images) if cfg.run.resume else open_data(cfg.images)
    cfg = _normalised(cfg, data)
    sizes, small = sizes_of(cfg, encoder)
    branches = open_branches(cfg.branches, cfg.images, data)
    for branch in branches:
        encoder.add_branch(branch.width)
    encoder.to(runtime.device)
    ends = batch_ends_of(cfg, len(data.pretrain_positions))
    total_steps = cfg.optim.epochs * len(ends)
    keep = Keep.of(encoder.backbone) if cfg.start.keep else None
    return Job(
        cfg=cfg,
        out=out,
        runtime=runtime,
        data=data,
        streams=open_streams(
            data,
            cfg.augment,
            seed=cfg.run.seed,
            batch_size=cfg.optim.batch_size // distributed.world_size(),
            workers=cfg.images.workers,
            runtime=runtime,
            small=small,
        ),
        encoder=encoder,
        forward=build_forward(encoder, cfg, runtime),
        sizes=sizes,
        small=small,
        loss_of=objective_of(cfg, encoder, keep),
        optimizer=optimizer_of(encoder, cfg, runtime),
        schedule=schedule_of(cfg, len(ends), total_steps),
        batch_ends=ends,
        total_steps=total_steps,
        begins_with=begins_with,
        frozen=[p for p in encoder.backbone.parameters() if p.requires_grad],
        keep=keep,
        branches=branches,
        average=weight_average(encoder, cfg.optim.ema) if cfg.optim.ema else None,
        scaler=runtime.scaler(),
        micro_batch=micro_batch_of(cfg, encoder),
    )


def _normalised(cfg: Config, data: Data) -> Config:
    """Return the settings with mean and std as numbers; those of a run that goes on stay."""
    if cfg.augment.normalize == "given" or cfg.run.resume is not None:
        return cfg
    mean, std = measured(data)
    if distributed.is_first():
        print(f"normalised with the images' own mean {mean} and std {std}", flush=True)
    augment = replace(cfg.augment, mean=mean, std=std, normalize="given")
    return replace(cfg, augment=augment)

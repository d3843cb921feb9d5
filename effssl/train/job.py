"""From settings to all that training needs: build_job(cfg) -> Job."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effssl import InputError, cli
from effssl.config import Config, Optim
from effssl.data.splits import batch_ends, epoch_order, own_part
from effssl.data.stored import Data, open_data, reopen_data
from effssl.evaluation.encode import Streams, open_streams
from effssl.image_config import Augment
from effssl.losses.objective import build_objective
from effssl.models import Encoder, build_encoder
from effssl.models.backbones import check_takes
from effssl.optim import build_optimizer, learning_rate
from effssl.ranges import ImageSize
from effssl.run import checkpoint, distributed, folder
from effssl.run.device import Runtime, open_runtime
from effssl.train.forward import build_forward, fewest_images
from effssl.views.sizes import growing_sizes, size_at, small_group
from effssl.views.stream import ViewStream


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
    step: int = 0  # steps done
    seconds: float = 0.0  # of training, before this process began

    @property
    def stream(self) -> ViewStream:
        """The views of the training images."""
        return self.streams["train"]

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
        return f"{len(self.data.train.labels)} images {self.data.train.identity}"

    def positions(self, epoch: int) -> np.ndarray:
        """Return what this process trains on for the rest of an epoch, in order."""
        order = epoch_order(self.data.pretrain_positions, self.cfg.run.seed, epoch)
        first_step, processes = self.step % self.steps_per_epoch, distributed.world_size()
        return own_part(order, self.batch_ends, first_step, distributed.rank(), processes)

    def batches(self, epoch: int) -> Generator[list[Tensor], None, None]:
        """Make the views of each step for the rest of an epoch, by groups: see ViewStream.epoch."""
        steps = range(self.step, (epoch + 1) * self.steps_per_epoch)
        rest, num_images = self.positions(epoch), self.stream.batch_size
        for size, steps_of_size in itertools.groupby(steps, self._size_at):
            part, rest = np.split(rest, [num_images * len(list(steps_of_size))])
            with closing(self.stream.epoch(part, epoch, size=size)) as batches:
                for groups, _ in batches:
                    yield groups

    def _size_at(self, step: int) -> ImageSize:
        """Return the size of the views of the first group at a step."""
        return size_at(step, self.total_steps, self.sizes, self.cfg.sizes.grow_until)


def build_job(cfg: Config) -> Job:
    """Build encoder, views, loss, optimizer and schedule, with the weights that the seed gives.

    Raises InputError for anything that the user has to mend.
    """
    out = distributed.from_first(cfg.run.resume or folder.choose(cfg.run.out, _label(cfg)))
    runtime = open_runtime(cfg.run.device, cfg.run.precision, cfg.run.compile)
    # The fastest convolutions: all steps are of one shape.
    torch.backends.cudnn.benchmark = runtime.device.type == "cuda"
    encoder = build_encoder(cfg.model, cfg.augment.image_size, cfg.run.seed).to(runtime.device)
    sizes = growing_sizes(cfg.augment.image_size, cfg.sizes)
    small = small_group(cfg.augment, cfg.sizes)
    for size in [*sizes[:-1], *([small.image_size] if small else [])]:
        check_takes(encoder.backbone, size, cfg.model.backbone)
    data = reopen_data(cfg.images) if cfg.run.resume else open_data(cfg.images)
    num_images = len(data.pretrain_positions)
    fewest = fewest_images(cfg)
    _check_batch(cfg.optim.batch_size, num_images, fewest)
    ends = batch_ends(num_images, cfg.optim.batch_size, cfg.optim.drop_last, fewest)
    total_steps = cfg.optim.epochs * len(ends)
    last_layer = encoder.projector[-1]
    assert isinstance(last_layer, nn.Linear)
    o = cfg.optim
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
        loss_of=build_objective(
            cfg.loss,
            cfg.model.proj_dim,
            last_layer,
            views=cfg.num_views,
            part=cfg.images.fraction,
        ),
        optimizer=build_optimizer(
            encoder, o.optimizer, lr=o.lr, weight_decay=o.weight_decay, lr_bias=o.lr_bias
        ),
        schedule=_schedule(o, len(ends), total_steps),
        batch_ends=ends,
        total_steps=total_steps,
    )


def resume(job: Job) -> None:
    """Go on where the run's checkpoint was saved. Raises InputError if its images were others."""
    state = checkpoint.load(job.out / "checkpoint.pt")
    if state["images"] != job.images:
        raise InputError(
            f"--resume {job.out}: its images were others ({state['images']}; here {job.images})"
        )
    checkpoint.restore(state, job.encoder, job.optimizer, job.runtime.device)
    job.step, job.seconds = state["step"], state["seconds"]


def extension(job: Job) -> dict[str, float] | None:
    """Return what changes for a run that goes on with more epochs than its folder notes, else None.

    The rest follows the longer schedule, so the learning rate rises where it goes on:
    `lr_before` is what the shorter schedule has at that step, `lr` what the longer one has.
    """
    epochs, optim = cli.load(job.out / "config.yaml").optim.epochs, job.cfg.optim
    if epochs == optim.epochs:
        return None
    before = _schedule(optim, job.steps_per_epoch, epochs * job.steps_per_epoch)
    return {
        "epochs_before": epochs,
        "epochs": optim.epochs,
        "lr_before": before(job.step),
        "lr": job.schedule(job.step),
    }


def seed_dropout(job: Job) -> None:
    """Let every process but the first draw dropout of its own."""
    if (rank := distributed.rank()) > 0:
        seed = job.cfg.run.seed + rank + distributed.world_size() * (job.step + 1)
        torch.manual_seed(seed)


def _label(cfg: Config) -> str:
    """Name a run by what it is, for its folder."""
    return f"{cfg.images.data}_{cfg.loss.method}_k{cfg.num_views}_d{cfg.model.proj_dim}"


def _check_batch(batch_size: int, num_images: int, fewest: int) -> None:
    if batch_size % distributed.world_size():
        num_processes = distributed.world_size()
        raise InputError(
            f"--batch-size {batch_size} does not divide among {num_processes} processes"
        )
    if batch_size < fewest:
        raise InputError(f"--batch-size {batch_size} is too small to normalise: at least {fewest}")
    if batch_size > num_images:
        raise InputError(
            f"--batch-size {batch_size} is larger than the set: {num_images} training images"
        )


def _schedule(optim: Optim, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    return functools.partial(
        learning_rate,
        peak=optim.lr,
        final=optim.final_lr,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        total_steps=total_steps,
        decay=optim.decay,
    )

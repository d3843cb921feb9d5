"""The rows of an evaluation: the run, its baselines, and other weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from effssl.data.stored import Data
from effssl.evaluate.images import ImageSet, open_own
from effssl.evaluation import classifiers, protocols
from effssl.evaluation.encode import (
    ENCODED_AT_ONCE,
    Features,
    Streams,
    backbone_features,
    crops_and_flips,
    open_streams,
    pixel_features,
    random_streams,
)
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.ssl_fisher import ssl_fisher
from effssl.image_config import Augment
from effssl.job_config import Evaluation
from effssl.models import AVERAGED, START, build_encoder, load_backbone
from effssl.models.backbones import check_takes
from effssl.models.timm_files import load_weights
from effssl.models.weight_files import check_channels
from effssl.run.device import Runtime

# Opens the images that the run was trained on, and its views of them
Own = Callable[[], tuple[Data, Streams]]


class RowStreams(NamedTuple):
    """The views that a row is judged by."""

    clean: Streams
    augmented: Streams
    """A few random views an image, made as in training."""
    averaged: dict[str, Streams]
    """Many random views an image to average over, by the name of their kind."""


class Row(NamedTuple):
    """What is judged: a backbone, or the pixels."""

    name: str
    backbone: nn.Module | None  # None: the pixels
    streams: RowStreams
    projector: nn.Module | None = None
    note: str | None = None  # to be said beside the table
    fisher: Callable[[], list[Tensor]] | None = None  # of the run's loss, of the backbone's weights

    def features(self) -> Features:
        """Return what takes clean views to the representations that are probed."""
        if self.backbone is None:
            return pixel_features(self.streams.clean)
        return backbone_features(self.backbone, self.streams.clean)


def rows_of(
    run: FinishedRun, probed: ImageSet, settings: Evaluation, runtime: Runtime
) -> Iterator[Row]:
    """Make the rows of a run, one after the other.

    Raises InputError if weights cannot be loaded, or do not take the images.
    """
    # Rows of the same views share their streams, as compiling one takes seconds.
    streams_of = functools.cache(functools.partial(_streams_of, probed, settings, runtime))
    streams = streams_of(probed.augment)
    own = functools.cache(functools.partial(_own, run, probed, runtime))
    with_fisher = functools.partial(_with_fisher, run, own)
    yield with_fisher(_row("trained", run.backbone, streams, run.projector))
    for name, kept in (("averaged", run.folder / AVERAGED), ("start", run.folder / START)):
        if kept.is_file():
            yield _row(name, load_backbone(kept)[0], streams)
    if settings.untrained:
        untrained = build_encoder(run.cfg.model, run.cfg.augment, run.cfg.run.seed)
        yield with_fisher(_row("untrained", untrained.backbone, streams, untrained.projector))
    if settings.supervised:
        yield _supervised(run, own, streams)
    for given in settings.checkpoint:
        name, _, file = given.partition("=")
        backbone, spec = load_weights(name, Path(file), settings.checkpoint_size)
        check_channels(spec, probed.augment.channels, f"--checkpoint {given}")
        theirs = replace(probed.augment, image_size=spec.image_size, mean=spec.mean, std=spec.std)
        yield _row(name, backbone, streams_of(theirs))
    if settings.pixels:
        yield Row("pixels", None, streams)


def _streams_of(
    probed: ImageSet, settings: Evaluation, runtime: Runtime, augment: Augment
) -> RowStreams:
    """Open the streams of rows whose views are made by `augment`."""
    clean = open_streams(
        probed.data,
        augment,
        seed=probed.images.split_seed,
        batch_size=ENCODED_AT_ONCE,
        workers=probed.images.workers,
        runtime=runtime,
        progress=True,
    )
    random = functools.partial(random_streams, clean, seed=probed.images.split_seed)
    averaged: dict[str, Streams] = {}
    num_averaged = settings.num_averaged_views
    for kind in settings.averaged_views if num_averaged else ():
        match kind:
            case "authors":  # one of them is the clean view
                averaged[kind] = random(replace(augment, views=num_averaged - 1))
            case "crops":
                averaged[kind] = random(crops_and_flips(augment, views=num_averaged))
    return RowStreams(clean, random(replace(augment, views=protocols.VIEWS)), averaged)


def _supervised(run: FinishedRun, own: Own, streams: RowStreams) -> Row:
    """Train the run's supervised twin, unless that was done."""
    print(f"{run.folder}: supervised training, unless that was done", flush=True)
    backbone, about = classifiers.supervised(run, *own())
    note = (
        f"supervised: its own classifier reaches {100 * about['accuracy']:.1f} on "
        f"{about['images']} images of the run's set, after {about['encoded_views']} views in "
        f"{about['seconds']:.0f} s"
    )
    return _row("supervised", backbone, streams)._replace(note=note)


def _with_fisher(run: FinishedRun, own: Own, row: Row) -> Row:
    """Let a row that has the run's kind of projector know what its weights matter to its loss."""
    backbone, projector = row.backbone, row.projector
    if backbone is None or not isinstance(projector, nn.Sequential):
        return row

    def fisher() -> list[Tensor]:
        data, streams = own()
        positions = data.pretrain_positions
        return ssl_fisher(backbone, projector, run.cfg, streams["train"], positions)

    return row._replace(fisher=fisher)


def _own(run: FinishedRun, probed: ImageSet, runtime: Runtime) -> tuple[Data, Streams]:
    """Open the images that the run was trained on, and its views of them."""
    data = open_own(run, probed)
    streams = open_streams(
        data,
        run.cfg.augment,
        seed=run.cfg.run.seed,
        batch_size=run.cfg.optim.batch_size,
        workers=probed.images.workers,
        runtime=runtime,
        progress=True,
    )
    return data, streams


def _row(
    name: str, backbone: nn.Module, streams: RowStreams, projector: nn.Module | None = None
) -> Row:
    """Put a backbone on the device. Raises InputError if it does not take the images."""
    stream = streams.clean["train"]
    device = stream.runtime.device
    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    augment = stream.augment
    what = f"{name} ({type(backbone).__name__})"
    check_takes(backbone, augment.image_size, what, augment.channels)
    return Row(name, backbone, streams, None if projector is None else projector.to(device))

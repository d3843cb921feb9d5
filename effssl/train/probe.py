"""Looking at a run while it trains: a probe, the curves so far, and what these say."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import torch

from effssl.evaluation.encode import Features, backbone_features, embed, spread, view_features
from effssl.evaluation.final_table import averaged_probe, validation_probe
from effssl.evaluation.retrieval import recall_at_1
from effssl.models import save_backbone
from effssl.run import distributed, pictures
from effssl.run.log import Clock, RunLog, read_metrics
from effssl.train.finish import backbone_spec
from effssl.train.job import Job
from effssl.train.steer import State, probes_of, state_of_probes

BEST = "backbone-best.safetensors"  # in a run's folder: the backbone of its best probe
DRAWN = 2000  # records of training in the picture of curves, at most: more than it has pixels
PAIRS = 1000  # held-out images that are looked for among each other, at most


def probe(job: Job, axes: dict[str, Any], clock: Clock, log: RunLog) -> bool:
    """Judge the encoder on the validation split, draw the curves, and keep it if it is the best.

    The clock pauses. Returns whether training is to end, as it has been flat for as many probes as
    --stop-when-flat says. Raises FloatingPointError for a collapse, if --on-collapse says so.
    """
    is_flat = False
    if distributed.is_first():
        with clock.paused():
            record = axes | _columns(job)
            metrics = [*read_metrics(job.out, at_most=DRAWN), {"kind": "probe", **record}]
            state = state_of_probes(probes_of(metrics), job.cfg.loss)
            if state is not None and state.is_best:
                # Before the record: of two that a kill comes between, the probe is made again.
                save_backbone(job.encoder.backbone, job.out / BEST, backbone_spec(job))
            log.probe(record)
            with pictures.or_a_line(picture := job.out / "curves.png", log.say):
                pictures.save_curves(picture, metrics, job.out.name)
            is_flat = _act_on(job, state, log)
    return distributed.from_first(is_flat)


def has_been_flat(job: Job) -> bool:
    """Say whether the probes of a run, so far, are what --stop-when-flat ends it for."""
    probes = probes_of(read_metrics(job.out, at_most=1))
    state, patience = state_of_probes(probes, job.cfg.loss), job.cfg.probe.stop_when_flat
    return state is not None and 0 < patience <= state.flat_for


def _act_on(job: Job, state: State | None, log: RunLog) -> bool:
    """Say what the probes say; returns whether training is to end."""
    if state is None:
        return False
    log.say(state.line)
    settings = job.cfg.probe
    if state.is_collapsed and settings.on_collapse == "stop":
        raise FloatingPointError(f"{state.line} (--on-collapse stop)")
    return 0 < settings.stop_when_flat <= state.flat_for


def _columns(job: Job) -> dict[str, float]:
    """Judge the encoder, its average if there is one, and its pairs."""
    features = backbone_features(job.encoder.backbone, job.streams)
    of_views = view_features(job.encoder.backbone, job.probe_streams)
    data, at_most = job.data, job.cfg.probe.probe_images
    columns = validation_probe(features, data, at_most, job.encoder.projector, of_views)
    if job.averaged is not None:
        averaged = backbone_features(job.averaged.backbone, job.streams)
        columns |= averaged_probe(averaged, data, at_most)
    return columns | _recall(job, features)


def _recall(job: Job, features: Features) -> dict[str, float]:
    """Say how often a held-out image's paired vector is the nearest to it, of those of others."""
    positions = spread(job.data.val_positions, PAIRS)
    columns = {}
    for branch, projector in zip(job.branches, job.encoder.branches, strict=True):
        if branch.name == "paired":
            z = embed(job.encoder.projector, features("train", positions))
            vectors = branch.rows(torch.from_numpy(positions).to(z.device))
            columns["paired/recall_at_1"] = recall_at_1(z, embed(projector, vectors))
    return columns


def picture_of_views(job: Job, log: RunLog) -> None:
    """Write views.png: images and the views that the first epoch makes of them."""
    if not distributed.is_first():
        return
    shown = spread(job.data.pretrain_positions, min(8, job.stream.batch_size))
    with (
        pictures.or_a_line(picture := job.out / "views.png", log.say),
        closing(job.stream.epoch(shown, 0)) as batches,
        closing(job.stream.clean(shown)) as clean,
    ):
        groups, _ = next(batches)
        pictures.save_views(picture, next(clean), groups, job.cfg.augment)

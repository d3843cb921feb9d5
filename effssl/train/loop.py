"""The training loop: train(job), and the command around it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from effssl import cli
from effssl.config import Config
from effssl.evaluation.encode import backbone_features, spread
from effssl.evaluation.final_table import format_table, validation_probe
from effssl.optim import set_learning_rate
from effssl.ranges import size_text
from effssl.run import checkpoint, distributed, folder, pictures, signals
from effssl.run.files import write_text
from effssl.run.log import Clock, RunLog, read_metrics
from effssl.run.signals import StopSwitch
from effssl.run.trace import Trace, tracing
from effssl.train.finish import finish
from effssl.train.forward import normalised_apart
from effssl.train.job import Job, build_job, extension, resume, seed_dropout

_INTERRUPTED = "interrupted; --resume goes on if training had begun"


def main(cfg: Config) -> int:
    """Train as the command line does; returns the exit code."""

    def work() -> int:
        with distributed.process_group():
            return train(build_job(cfg))

    return signals.exit_code(work, interrupted=_INTERRUPTED)


def train(job: Job) -> int:
    """Run a job to its end, or until it is told to stop; returns the exit code.

    In a process group each process trains on its part of every batch, and the first one does all
    the rest. Leaves in the run's folder: config.yaml, metrics.jsonl, tensorboard/, checkpoint.pt,
    backbone.safetensors, result.json, views.png, curves.png. Raises InputError before anything is
    written there, and later if a file cannot be written; FloatingPointError on a loss that is not
    finite, RuntimeError if loading fails.
    """
    cfg, out = job.cfg, job.out
    if cfg.run.resume and (out / "checkpoint.pt").exists():  # else it was stopped before it began
        resume(job)
    seed_dropout(job)
    if _is_finished(job):
        return 0
    longer = extension(job) if cfg.run.resume else None
    with folder.claimed(out), checkpoint.told_of_in_errors(out):
        if distributed.is_first():
            write_text(out / "config.yaml", cli.dump(cfg))
            # A finished run that goes on is not finished: its checkpoint leaves the other files.
            (out / "result.json").unlink(missing_ok=True)
        clock = Clock(job.seconds, job.runtime.wait)
        log = RunLog(out, start=_axes(job, clock), total_steps=job.total_steps)
        log.say(_introduction(job))
        if longer:
            log.extension(_axes(job, clock) | longer)
        with StopSwitch(clock, cfg.optim.max_seconds) as stop:
            _look_before_training(job, clock, log)
            with tracing(cfg.run.profile, out / "trace.json", clock, log.say) as trace:
                _train_epochs(job, clock, log, stop, trace)
            if stop.signalled:
                _save(job, clock)
                log.say(
                    f"stopped at step {job.step} of {job.total_steps}; "
                    f"go on with: python -m effssl.train --resume {out}"
                )
                log.close()
                return stop.exit_code
        if distributed.is_first():  # all is saved: from now on a signal may end it at once
            finish(job, clock.seconds, log)
    return 0


def _train_epochs(job: Job, clock: Clock, log: RunLog, stop: StopSwitch, trace: Trace) -> None:
    """Train until all steps are done or `stop` is set; probe after the epochs that ask for it."""
    run, saved_s = job.cfg.run, time.monotonic()
    is_stopped = stop.is_set()
    while job.step < job.total_steps and not is_stopped:
        epoch = job.step // job.steps_per_epoch
        with closing(job.batches(epoch)) as batches:
            for groups in batches:  # of views of one size, each [views, batch, 3, h, w]
                set_learning_rate(job.optimizer, job.schedule(job.step))
                with job.runtime.autocast():
                    _, z = job.forward(*map(in_a_row, groups))
                terms = job.loss_of(z.unflatten(0, (job.cfg.num_views, -1)))  # [views, batch, dim]
                is_logged = (job.step + 1) % run.log_every == 0
                is_saved = time.monotonic() - saved_s > run.save_every_s
                if is_logged or is_saved or job.runtime.device.type == "cpu":
                    _check_finite(job, terms["loss"])  # on a GPU, looking at it waits for it
                terms["loss"].backward()
                job.optimizer.step()
                job.optimizer.zero_grad(set_to_none=True)
                job.step += 1
                trace.step()
                if is_logged:
                    log.train(_record(job, clock, terms))
                if is_saved:
                    _save(job, clock)
                    saved_s = time.monotonic()
                if is_stopped := stop.is_set():
                    break
        if not stop.signalled and (stop.out_of_time or _is_probe_due(job)):
            _save(job, clock)
            _probe(job, clock, log)
            saved_s, is_stopped = time.monotonic(), stop.is_set()


def in_a_row(views: Tensor) -> Tensor:
    """Lay views [views, batch, 3, h, w] side by side, as the encoder wants them."""
    return views.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _look_before_training(job: Job, clock: Clock, log: RunLog) -> None:
    """Save, draw and probe what a run begins with; probe one that was stopped before its probe."""
    if job.step == 0:
        _save(job, clock)
        with clock.paused():
            _picture_of_views(job, log)
    if job.step == 0 or (_is_probe_due(job) and not log.has_probe(job.step)):
        _probe(job, clock, log)


def _save(job: Job, clock: Clock) -> None:
    """Write checkpoint.pt; the clock pauses.

    Raises FloatingPointError if weights are not finite.
    """
    if not distributed.is_first():
        return
    file = job.out / "checkpoint.pt"
    with clock.paused():
        if not all(bool(p.isfinite().all()) for p in job.encoder.parameters()):
            raise _diverged(job, f"weights are not finite after step {job.step}")
        state = checkpoint.capture(job.encoder, job.optimizer, job.runtime.device)
        position = {"step": job.step, "seconds": clock.seconds, "images": job.images}
        checkpoint.save(file, state | position)


def _probe(job: Job, clock: Clock, log: RunLog) -> None:
    """Judge the encoder on the validation split, and draw the curves so far; the clock pauses."""
    if not distributed.is_first():
        return
    features = backbone_features(job.encoder.backbone, job.streams)
    at_most, projector = job.cfg.probe.probe_images, job.encoder.projector
    with clock.paused():
        log.probe(_axes(job, clock) | validation_probe(features, job.data, at_most, projector))
        with pictures.or_a_line(picture := job.out / "curves.png", log.say):
            pictures.save_curves(picture, read_metrics(job.out), job.out.name)


def _picture_of_views(job: Job, log: RunLog) -> None:
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
        augment = job.cfg.augment
        pictures.save_views(picture, next(clean), groups, augment.mean, augment.std)


def _record(job: Job, clock: Clock, terms: dict[str, Tensor]) -> dict[str, Any]:
    """Say what the step that was just done gave."""
    values = {name: term.item() for name, term in terms.items()}
    return _axes(job, clock) | {"lr": job.schedule(job.step - 1)} | values


def _axes(job: Job, clock: Clock) -> dict[str, Any]:
    """Say where a record lies."""
    return {
        "step": job.step,
        "epoch": job.step / job.steps_per_epoch,
        "seconds": clock.seconds,
        "encoded_views": job.encoded_views,
    }


def _is_probe_due(job: Job) -> bool:
    epoch, rest = divmod(job.step, job.steps_per_epoch)
    every = job.cfg.probe.probe_every
    return job.step == job.total_steps or (rest == 0 and every > 0 and epoch % every == 0)


def _is_finished(job: Job) -> bool:
    """Say whether a run that is gone on with has its result already, and show that."""
    file, max_seconds = job.out / "result.json", job.cfg.optim.max_seconds
    is_late = max_seconds is not None and job.seconds >= max_seconds
    if not (file.is_file() and (job.step == job.total_steps or is_late)):
        return False
    if distributed.is_first():
        why = f": --max-seconds {max_seconds:g} are used up" if is_late else ""
        final = json.loads(file.read_text())["final"]
        print(f"{job.out} is finished{why}\n{format_table(final)}")
    return True


def _check_finite(job: Job, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise _diverged(job, f"the loss is {loss.item()} at step {job.step}")


def _diverged(job: Job, what: str) -> FloatingPointError:
    """Return the error of a training that cannot go on, with the ways out."""
    ways_out = ["a lower --lr", "a longer --warmup-epochs"]
    if job.runtime.autocast_dtype is not None:
        ways_out.append("--precision fp32")
    return FloatingPointError(
        f"{what}; start a new run with {' or '.join(ways_out)} (last good checkpoint: "
        f"{job.out / 'checkpoint.pt'})"
    )


def _introduction(job: Job) -> str:
    cfg, data = job.cfg, job.data
    num_parameters = sum(p.numel() for p in job.encoder.parameters()) / 1e6
    num_test = len(data.test.labels) if data.test else 0
    apart = normalised_apart(job.encoder)
    processes = distributed.world_size()
    norms = f"; BatchNorm: by the images of each of {processes} processes, not of the whole batch"
    return (
        f"{job.out}: {cfg.loss.method}, {_views_text(job)}, proj-dim {cfg.model.proj_dim}, "
        f"{cfg.model.backbone} ({num_parameters:.1f} M parameters) on {job.runtime.device}; "
        f"{cfg.images.data}: {len(data.pretrain_positions)} training, {len(data.val_positions)} "
        f"validation, {num_test} test images; steps {job.step} to {job.total_steps}{norms * apart}"
    )


def _views_text(job: Job) -> str:
    """Say how many views there are, and of what sizes if these are several."""
    views, (first, last) = f"{job.cfg.augment.views} views", (job.sizes[0], job.sizes[-1])
    if first != last:
        views += f" (of {size_text(first)} px at first, {size_text(last)} px at last)"
    if small := job.small:
        views += f" and {small.views} of {size_text(small.image_size)} px"
    return views

"""The training loop: train(job), and the command around it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

from torch import Tensor

from effssl import cli
from effssl.config import Config, flat
from effssl.evaluation.final_table import format_table
from effssl.optim import set_learning_rate
from effssl.run import checkpoint, distributed, folder, signals
from effssl.run.files import write_text
from effssl.run.log import Clock, RunLog
from effssl.run.signals import StopSwitch
from effssl.run.trace import Trace, tracing
from effssl.train.branches import prepare_branches
from effssl.train.finish import finish, save_start
from effssl.train.introduction import introduction
from effssl.train.job import Job, build_job
from effssl.train.look import look
from effssl.train.plan import plan
from effssl.train.probe import has_been_flat, picture_of_views, probe
from effssl.train.resume import extension, resume, seed_dropout, state_of
from effssl.train.step import check_finite, diverged, leave_gradients, update, weigh_keep

_INTERRUPTED = "interrupted; --resume goes on if training had begun"


def main(cfg: Config) -> int:
    """Train, plan it or look at its images, as the command line does; returns the exit code."""

    def work() -> int:
        with distributed.process_group():
            if cfg.run.look is not None:
                if distributed.is_first():
                    look(cfg, cfg.run.look)
            elif cfg.run.plan is not None:
                plan(cfg)
            else:
                return train(build_job(cfg))
            return 0

    return signals.exit_code(work, interrupted=_INTERRUPTED)


def train(job: Job) -> int:
    """Run a job to its end, or until it is told to stop; returns the exit code.

    In a process group each process trains on its part of every batch, and the first one does all
    the rest. Leaves in the run's folder: config.yaml, metrics.jsonl, tensorboard/, checkpoint.pt,
    backbone.safetensors, result.json, views.png, curves.png. Raises InputError before anything is
    written there, and later if a file cannot be written or a stored image is damaged;
    FloatingPointError on a loss that is not finite, RuntimeError if loading fails otherwise.
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
        with clock.paused():
            log = RunLog(
                out,
                start=_axes(job, clock),
                total_steps=job.total_steps,
                log_to=cfg.run.log_to,
                settings=flat(cfg),
            )
            for line in [introduction(job), *job.begins_with]:
                log.say(line)
            if longer:
                log.extension(_axes(job, clock) | longer)
            prepare_branches(job.branches, job.data, job.stream, cfg.augment, out)
        with StopSwitch(clock, cfg.optim.max_seconds) as stop:
            is_flat = _look_before_training(job, clock, log)
            with tracing(cfg.run.profile, out / "trace.json", clock, log.say) as trace:
                _train_epochs(job, clock, log, stop, trace, is_flat=is_flat)
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


def _train_epochs(
    job: Job, clock: Clock, log: RunLog, stop: StopSwitch, trace: Trace, *, is_flat: bool
) -> None:
    """Train until all steps are done, `stop` is set or the run is flat, as it may be already; probe
    after the epochs that ask for it."""
    run, saved_s = job.cfg.run, time.monotonic()
    is_stopped = stop.is_set() or is_flat
    while job.step < job.total_steps and not is_stopped:
        epoch = job.step // job.steps_per_epoch
        job.thaw(epoch)
        weigh_keep(job, epoch)
        with closing(job.batches(epoch)) as batches:
            for batch in batches:
                set_learning_rate(job.optimizer, job.schedule(job.step))
                terms = leave_gradients(job, batch, log.say)
                is_logged = (job.step + 1) % run.log_every == 0
                is_saved = time.monotonic() - saved_s > run.save_every_s
                if is_logged or is_saved or job.runtime.device.type == "cpu":
                    check_finite(job, terms["loss"])  # on a GPU, looking at it waits for it
                norm = update(job, terms["loss"], is_logged=is_logged, say=log.say)
                job.step += 1
                trace.step()
                if is_logged:
                    log.train(_record(job, clock, terms, norm))
                if is_saved:
                    _save(job, clock)
                    saved_s = time.monotonic()
                if is_stopped := stop.is_set():
                    break
        if not stop.signalled and (stop.out_of_time or _is_probe_due(job)):
            _save(job, clock)
            is_flat = probe(job, _axes(job, clock), clock, log)
            saved_s, is_stopped = time.monotonic(), stop.is_set() or is_flat


def _look_before_training(job: Job, clock: Clock, log: RunLog) -> bool:
    """Save, draw and probe what a run begins with; probe one that was stopped before its probe.

    Returns whether --stop-when-flat has ended it: then its table alone may be wanting.
    """
    if job.step == 0:
        with clock.paused():
            save_start(job)  # before the checkpoint, which does not go on without it
        _save(job, clock)
        with clock.paused():
            picture_of_views(job, log)
    is_wanted = _is_probe_due(job) or _is_out_of_time(job)
    is_due = job.step == 0 or (is_wanted and not log.has_probe(job.step))
    if distributed.from_first(is_due):
        return probe(job, _axes(job, clock), clock, log)
    with clock.paused():
        return distributed.from_first(has_been_flat(job))


def _save(job: Job, clock: Clock) -> None:
    """Write checkpoint.pt; the clock pauses.

    Raises FloatingPointError if weights or running averages are not finite.
    """
    if not distributed.is_first():
        return
    file = job.out / "checkpoint.pt"
    with clock.paused():
        if not all(bool(each.isfinite().all()) for each in job.encoder.state_dict().values()):
            raise diverged(job, f"weights are not finite after step {job.step}")
        checkpoint.save(file, state_of(job) | {"seconds": clock.seconds})


def _record(
    job: Job, clock: Clock, terms: dict[str, Tensor], norm: Tensor | None
) -> dict[str, Any]:
    """Say what the step that was just done gave."""
    values = {name: term.item() for name, term in terms.items()}
    if norm is not None:
        values["gradient_norm"] = norm.item()
    if job.scaler.is_enabled():
        values["gradient_scale"] = job.scaler.get_scale()
    if job.cfg.optim.max_skipped:
        values["skipped"] = job.skipped
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


def _is_out_of_time(job: Job) -> bool:
    """Say whether a run that is gone on with has used up --max-seconds."""
    return job.cfg.optim.max_seconds is not None and job.seconds >= job.cfg.optim.max_seconds


def _is_finished(job: Job) -> bool:
    """Say whether a run that is gone on with has its result already, and show that."""
    file, is_late = job.out / "result.json", _is_out_of_time(job)
    is_flat = job.step < job.total_steps and has_been_flat(job)
    if not (file.is_file() and (job.step == job.total_steps or is_late or is_flat)):
        return False
    if distributed.is_first():
        why = f": --max-seconds {job.cfg.optim.max_seconds:g} are used up" if is_late else ""
        why = f": --stop-when-flat {job.cfg.probe.stop_when_flat}" if is_flat else why
        final = json.loads(file.read_text())["final"]
        print(f"{job.out} is finished{why}\n{format_table(final)}")
    return True

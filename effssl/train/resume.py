"""Going on with a run: what its checkpoint holds, and what more epochs change."""

from __future__ import annotations

from typing import Any

import torch

from effssl import InputError, cli
from effssl.run import checkpoint, distributed
from effssl.train.job import Job
from effssl.train.parts import schedule_of


def state_of(job: Job) -> dict[str, Any]:
    """Return all that a run goes on from, but the seconds of its training."""
    state = checkpoint.capture(job.encoder, job.optimizer, job.runtime.device)
    return state | {
        "step": job.step,
        "images": job.images,
        "epoch": _epoch(job),
        "scaler": job.scaler.state_dict(),
        "micro_batch": job.micro_batch,
        "norms": job.norms,
        "skipped": job.skipped,
        "average": job.average.state_dict() if job.average else None,
    }


def resume(job: Job) -> None:
    """Go on where the run's checkpoint was saved. Raises InputError if its images were others, or
    if its epochs had other steps, which the number of processes may change with --no-drop-last."""
    state = checkpoint.load(job.out / "checkpoint.pt")
    if state["images"] != job.images:
        raise InputError(
            f"--resume {job.out}: its images were others ({state['images']}; here {job.images})"
        )
    own = _epoch(job)
    if (its := state.get("epoch", own)) != own:  # checkpoints of older versions have none
        raise InputError(
            f"--resume {job.out}: its epochs have {its[0]} steps on {its[1]} images, but {own[0]} "
            f"on {own[1]} in {distributed.world_size()} processes, by whose number a small last "
            "batch is left out; go on with as many processes as before"
        )
    checkpoint.restore(state, job.encoder, job.optimizer, job.runtime.device)
    job.step, job.seconds = state["step"], state["seconds"]
    if job.keep is not None:
        job.keep.load(job.out)
    if "scaler" in state:  # checkpoints of older versions have none
        if state["scaler"]:  # else it went on in another precision, and this scaler begins anew
            job.scaler.load_state_dict(state["scaler"])
        job.micro_batch, job.norms = state["micro_batch"], state["norms"]
        job.skipped = state["skipped"]
    if job.average is not None:
        job.average.load_state_dict(state["average"])


def _epoch(job: Job) -> list[int]:
    """Return the steps of an epoch, and its images."""
    return [job.steps_per_epoch, int(job.batch_ends[-1])]


def extension(job: Job) -> dict[str, float] | None:
    """Return what changes for a run that goes on with more epochs than its folder notes, else None.

    The rest follows the longer schedule, so the learning rate rises where it goes on:
    `lr_before` is what the shorter schedule has at that step, `lr` what the longer one has.
    """
    epochs, optim = cli.load(job.out / "config.yaml").optim.epochs, job.cfg.optim
    if epochs == optim.epochs:
        return None
    before = schedule_of(job.cfg, job.steps_per_epoch, epochs * job.steps_per_epoch)
    return {
        "epochs_before": epochs,
        "epochs": optim.epochs,
        "lr_before": before(job.step),
        "lr": job.schedule(job.step),
    }


def seed_dropout(job: Job) -> None:
    """Let every process but the first draw dropout of its own, another after each start: what they
    drew before is not kept, as the first one's is."""
    if (rank := distributed.rank()) > 0:
        seed = job.cfg.run.seed + rank + distributed.world_size() * (job.step + 1)
        torch.manual_seed(seed)

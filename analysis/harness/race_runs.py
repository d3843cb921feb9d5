"""The runs of a race: their names and flags, and their training, one at a time."""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from analysis.harness import training
from analysis.harness.race_contenders import OURS, TRIAL, Contender, Preset, Trial
from analysis.harness.records import Record
from effssl import cli
from effssl.config import Config
from effssl.losses.auto_weights import resolve

TRIAL_SEED = 1000  # none that is reported
BUSY = 0.5  # load average above which other work is said to run


class Race(NamedTuple):
    """A preset with the user's flags."""

    args: argparse.Namespace
    preset: Preset
    contenders: tuple[Contender, ...]  # those that are installed
    known: Mapping[str, Record] = MappingProxyType({})  # finished runs, of other machines too


class Start(NamedTuple):
    """One run: a contender as one of its trials has it, for a part of its whole length."""

    contender: Contender
    trial: int  # which of the contender's
    length: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.contender.name}_t{self.trial}_x{self.length:g}_s{self.seed}"


def trials(race: Race) -> list[Start]:
    """Return the trials of all that have a choice, contenders by turns."""
    most = max(len(contender.trials) for contender in race.contenders)
    return [
        Start(each, i, TRIAL, TRIAL_SEED)
        for i in range(most)
        for each in race.contenders
        if i < len(each.trials) > 1
    ]


def timed(race: Race, chosen: dict[str, int], seeds: Iterable[int]) -> list[Start]:
    """Return the timed runs of contenders of which a trial is chosen: seed by seed, the longest
    first, contenders by turns."""
    lengths = sorted({x for each in race.contenders for x in each.lengths}, reverse=True)
    return [
        Start(each, chosen[each.name], length, seed)
        for seed in seeds
        for length in lengths
        for each in race.contenders
        if each.name in chosen and length in each.lengths
    ]


def flags_of(race: Race, start: Start) -> list[str]:
    """Return the flags of effssl.train of a run. What is as long as its epochs has them cut to the
    length, and below a whole one its images; warm-up takes the same part of each."""
    args, contender = race.args, start.contender
    base = (*race.preset.flags, *contender.flags, "--data-dir", str(args.data_dir), *args.further)
    cfg = _parsed(base)
    flags = [*base, *trial_flags(cfg, contender.trials[start.trial])]
    flags += ["--seed", str(start.seed), "--split-seed", str(start.seed)]
    if contender.side != OURS:
        return [*flags, "--max-seconds", f"{start.length * args.run_seconds:g}"]
    passes = start.length * cfg.optim.epochs
    epochs = max(1, math.ceil(passes - 1e-9))
    warmup = cfg.optim.warmup_epochs / cfg.optim.epochs * epochs
    flags += ["--epochs", str(epochs), "--warmup-epochs", f"{warmup:.6g}"]
    return [*flags, "--fraction", f"{cfg.images.fraction * passes / epochs:.6g}"]


def trial_flags(cfg: Config, trial: Trial) -> list[str]:
    """Return the flags of a trial on these settings. With SGD and LARS the rate is linear in the
    batch, as the tools that use them document it."""
    flags, rate = [], trial.rate
    if trial.batch != 1:
        flags += ["--batch-size", str(round(cfg.optim.batch_size * trial.batch))]
        rate *= trial.batch if cfg.optim.optimizer in ("sgd", "lars") else 1
    if rate != 1:
        flags += ["--lr", f"{cfg.lr * rate:.6g}"]
    if trial.weight != 1:
        views, part = cfg.augment.views, cfg.images.fraction
        loss = resolve(cfg.loss, cfg.model.proj_dim, views=views, part=part)
        field = "cov_weight" if cfg.loss.method == "vicreg" else "redundancy_weight"
        weight = trial.weight * float(getattr(loss, field))
        flags += ["--" + field.replace("_", "-"), f"{weight:.6g}"]
    if trial.crop is not None:
        flags += ["--crop-scale", f"{trial.crop:g}", "1"]
    return flags


def trained(race: Race, starts: Iterable[Start], began: float) -> list[Start]:
    """Train what is missing, one at a time in this order, and return what has a result. began: when
    --seconds began to count. Raises as training.complete does."""
    starts, folder = list(starts), race.args.runs
    missing = [s for s in starts if s.name not in race.known and not _is_over(folder / s.name)]
    if missing and (load := os.getloadavg()[0]) > BUSY:
        print(
            f"warning: a load average of {load:.1f}: other work runs, or did a minute ago; beside "
            "it seconds are not those of a race",
            file=sys.stderr,
        )
    done = training.complete(
        {start.name: flags_of(race, start) for start in starts},
        folder,
        records=race.known,
        parallel=1,
        seconds=training.seconds_left(race.args.seconds, began),
        keep_mb=0,
        trainers={s.name: s.contender.trainer for s in starts},
        costs={s.name: s.length for s in starts},
    )
    return [start for start in starts if start.name in done]


@functools.lru_cache
def _parsed(flags: tuple[str, ...]) -> Config:
    """Return the settings of a contender, which all of its runs begin from."""
    return cli.parse(list(flags))


def record_of(race: Race, start: Start) -> Record:
    """Return what a finished run left: in its folder, else among the records."""
    return training.record_of(race.args.runs / start.name, race.known)


def _is_over(run: Path) -> bool:
    return training.has_result(run) or training.diverged(run)

"""Runs of effssl.train, and of other trainers with its flags, side by side and resumable: what is
missing is trained, what is there stays."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from analysis.harness import own_images, progress
from analysis.harness.records import Record, of_folder
from analysis.harness.runs import changed
from effssl import InputError, cli
from effssl.config import Config, flat
from effssl.run.files import write_text
from effssl.run.signals import DIVERGED
from effssl.run.threads import num_cores

Flags = dict[str, list[str]]  # name of a run -> flags of effssl.train


class Trainer(NamedTuple):
    """What trains: a module with the flags of effssl.train. resumes: a run that was stopped goes
    on, else it begins again."""

    module: str
    resumes: bool = True


EFFSSL = Trainer("effssl.train")


class RunFailed(InputError):
    """A run ended with an error; the message is one line."""


class Running:
    """The processes that train now, each in a slot of its own: a GPU, or a part of the cores."""

    def __init__(self, folder: Path, slots: int, trainers: Mapping[str, Trainer]):
        self._folder, self._slots, self._trainers = folder, slots, trainers
        self._free = list(range(slots))
        self._processes: dict[str, tuple[subprocess.Popen, int]] = {}

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def is_full(self) -> bool:
        return not self._free

    def start(self, name: str, flags: list[str]) -> None:
        slot = self._free.pop(0)
        trainer, run = self._trainers.get(name, EFFSSL), self._folder / name
        self._processes[name] = start_process(run, flags, slot, self._slots, trainer), slot

    def take_ended(self) -> list[str]:
        """Return the names of runs that ended since; one that diverged is marked. Raises RunFailed
        with a log's last lines."""
        ended = [
            name for name, (process, _) in self._processes.items() if process.poll() is not None
        ]
        for name in ended:
            process, slot = self._processes.pop(name)
            self._free.append(slot)
            if process.returncode != 0:
                last_lines = (self._folder / f"{name}.log").read_text().splitlines()[-3:]
                said = f"{self._folder / name} failed: {' | '.join(last_lines)}"
                if process.returncode != DIVERGED:
                    raise RunFailed(said)
                write_text(_mark(self._folder / name), f"{said}\n")
        return ended

    def stop(self) -> None:
        """Let all of them save and end; --resume goes on with them."""
        for process, _ in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process, _ in self._processes.values():
            process.wait()


def complete(
    runs: Flags,
    folder: Path,
    *,
    records: Mapping[str, Record] | None = None,
    parallel: int | None = None,
    seconds: float | None = None,
    keep_mb: float = math.inf,
    trainers: Mapping[str, Trainer] | None = None,
    costs: Mapping[str, float] | None = None,
) -> list[str]:
    """Train every run that has no result in folder/NAME yet, nor a record with its settings; return
    the names of those that have one at the end. One that diverged has none, which is said; it would
    diverge again, so it is not tried again, and keeps no other from its end.

    parallel: how many at once; None is one per GPU, or one per core without a GPU (a core each: on
    small encoders faster than one run on all of them). After `seconds`, on Ctrl-C and on SIGTERM
    the running ones save and stop; the next call goes on with them. A finished run's checkpoint of
    over `keep_mb` is removed: that of a projector 8192 wide is 0.9 GB, of which nothing but that
    projector's weights is lost. trainers: of the runs that effssl.train does not train. costs: what
    the bar weighs the runs by (None: encoded views). Raises InputError for bad flags, or if a
    folder holds a run with other settings or of other images; RunFailed when a run fails, with the
    end of its log."""
    identify = functools.cache(own_images.identity)  # a large set takes seconds
    configs = {name: _config(folder / name, flags, identify) for name, flags in runs.items()}
    known = records or {}
    recorded = {name for name, cfg in configs.items() if _is_recorded(name, cfg, known, identify)}

    def is_done(name: str) -> bool:
        return name in recorded or has_result(folder / name)

    def is_over(name: str) -> bool:
        return is_done(name) or diverged(folder / name)

    missing = [name for name in runs if not is_over(name)]
    slots = parallel or torch.cuda.device_count() or num_cores()
    running = Running(folder, slots, trainers or {})
    ends = math.inf if seconds is None else time.monotonic() + seconds
    with progress.bar(configs, missing, folder, costs) as show, _sigterm_is_ctrl_c():
        try:
            while (missing or len(running)) and time.monotonic() < ends:
                while missing and not running.is_full:
                    name = missing.pop(0)
                    # Another script that shares the folder may have been quicker.
                    if not is_over(name):
                        running.start(name, runs[name])
                time.sleep(0.2)
                ended = running.take_ended()
                for name in ended:
                    remove_large_checkpoint(folder / name, keep_mb)
                show(len(runs) - len(missing) - len(running), bool(ended))
        finally:
            running.stop()
    for name in runs:
        if is_over(name) and not is_done(name):
            run, mark = folder / name, _mark(folder / name)
            print(f"{run} diverged and is left out; remove it and {mark} to train it again")
    return [name for name in runs if is_done(name)]


def seconds_left(seconds: float | None, began_s: float) -> float | None:
    """Return what is left of `seconds` since `began_s`, by time.monotonic(); None for no end."""
    return None if seconds is None else max(0.0, seconds - (time.monotonic() - began_s))


def has_result(run: Path) -> bool:
    return (run / "result.json").is_file()


def diverged(run: Path) -> bool:
    return _mark(run).is_file()


def _mark(run: Path) -> Path:
    return run.parent / f"{run.name}.diverged"


def record_of(run: Path, known: Mapping[str, Record]) -> Record:
    """Return what a finished run left: in its folder, else among the known records."""
    return of_folder(run) if has_result(run) else known[run.name]


def start_process(
    run: Path, flags: list[str], slot: int, slots: int, trainer: Trainer = EFFSSL
) -> subprocess.Popen:
    """Start a trainer in a process, or go on with a run that has begun; its words go to RUN.log."""
    begun = trainer.resumes and (run / "config.yaml").is_file()
    command = [sys.executable, "-m", trainer.module]
    command += ["--resume", str(run)] if begun else [*flags, "--out", str(run)]
    # The checkout, for trainers that are part of it, whatever folder this is called from.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if gpus := torch.cuda.device_count():
        command += ["--device", f"cuda:{slot % gpus}"]
        # Runs beside each other share the cores that load their images.
        variables["NUMBA_NUM_THREADS"] = str(threads_each(slots))
    else:
        variables["OMP_NUM_THREADS"] = str(threads_each(slots))
    run.parent.mkdir(parents=True, exist_ok=True)
    with (run.parent / f"{run.name}.log").open("a") as log:
        # Its own session: Ctrl-C comes to this process alone, which then stops them in order.
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | variables,
            start_new_session=True,
        )


def threads_each(parallel: int | None) -> int:
    """Return the threads of each run, where so many share the cores."""
    return max(1, num_cores() // (parallel or num_cores()))


def remove_large_checkpoint(run: Path, keep_mb: float) -> None:
    file = run / "checkpoint.pt"
    if file.is_file() and file.stat().st_size > keep_mb * 1e6:
        file.unlink()


def _config(run: Path, flags: list[str], identify: own_images.Identify) -> Config:
    """Return the settings of a wanted run. Raises InputError if its folder holds one with others,
    or of other images."""
    cfg = cli.parse([*flags, "--out", str(run)])
    if (run / "config.yaml").is_file():
        began = cli.load(run / "config.yaml")
        was, now = flat(began), flat(cfg)
        which = ", ".join(f"{name} {was[name]} -> {now[name]}" for name in changed(was, now))
        if which or own_images.has_others(run, began, cfg, identify):
            differs = f"with other settings ({which})" if which else "of other images"
            raise InputError(f"{run} holds a run {differs}; move it away or name another folder")
    return cfg


def _is_recorded(
    name: str, cfg: Config, records: Mapping[str, Record], identify: own_images.Identify
) -> bool:
    """Say whether there is a record of this run; one of the same name with other settings, or known
    to be of other images, is none."""
    if name not in records or changed(records[name]["config"], flat(cfg)):
        return False
    return not own_images.are_others(records[name]["result"].get("images"), cfg, identify)


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

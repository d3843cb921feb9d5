"""Kills at random moments, and hours of steps. As many as a clean machine has time for:
EFFSSL_KILLS=50 EFFSSL_SOAK_S=1800 (make test-slow) for as many as it takes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from effssl import cli
from effssl.run.log import read_metrics
from effssl.train import loop as train
from tests.conftest import QUICK, command
from tests.train.test_train import DROPS, quick, same, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("EFFSSL_KILLS", "3"))
SOAK_S = float(os.environ.get("EFFSSL_SOAK_S", "25"))


def test_killed_at_any_moment_nothing_is_unreadable_and_it_ends_bit_for_bit(digits_dir, tmp_path):
    """A checkpoint is written after every step, so that many kills meet one half-written."""
    whole, run = tmp_path / "whole", tmp_path / "killed"
    epochs = 4 + KILLS
    flags = ["--epochs", epochs, "--probe-every", 3, "--save-every-s", 0, *DROPS]
    assert train.main(cli.parse(quick(digits_dir, whole, *flags))) == 0
    rng = np.random.default_rng(seed := time.time_ns())
    print("seed", seed)
    half_written = 0
    for kill in range(KILLS):
        before = len(read_metrics(run)) if run.exists() else 0
        further = int(rng.integers(1, 1 + 5 * epochs // (2 * KILLS)))  # records, to half its share
        again = ["--resume", run] if kill % 2 else [*quick(digits_dir, run, *flags), "--go-on"]
        process = subprocess.Popen(
            command(again), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 300
        while not run.exists() or len(read_metrics(run)) < before + further:  # it trains
            assert process.poll() is None, (kill, process.stderr.read())
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        half_written += bool(list(run.glob(".*.tmp")))
        assert not (run / "result.json").exists(), "the run is too short for so many kills"
        if (run / "checkpoint.pt").exists():
            weights(run)
        for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]:
            json.loads(line)  # the last may be cut short
    print(f"{KILLS} kills, {half_written} while a file was written")
    assert train.main(cli.parse([*quick(digits_dir, run, *flags), "--go-on"])) == 0
    assert same(weights(run), weights(whole))
    said, expected = (
        [(r["kind"], r["step"], r.get("loss")) for r in read_metrics(r)] for r in (run, whole)
    )
    assert said == expected
    assert not list(run.glob(".*.tmp"))


class Held(NamedTuple):
    """What a process holds: resident memory in MB, open files, threads."""

    mb: float
    files: int
    threads: int


def held_by(pid: int) -> Held:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Held(int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"]))


def test_hours_of_steps_hold_no_more_than_minutes(digits_dir, tmp_path):
    """Epochs of five steps, so that loaders come and go often; probes and checkpoints among
    them."""
    run = tmp_path / "run"
    flags = ["--data-dir", digits_dir, "--out", run, "--epochs", 10**6]
    flags += ["--max-seconds", SOAK_S, "--probe-every", 10, "--save-every-s", SOAK_S / 40]
    flags += ["--probe-images", 100]  # so many probes are not to take longer than the steps
    process = subprocess.Popen(
        command([*QUICK, *flags]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    seen: list[Held] = []
    is_warm = False
    while process.poll() is None:
        # The first steps and the first probe behind them take what all later ones use again.
        is_warm = is_warm or sum(r["kind"] == "probe" for r in read_metrics(run)) >= 2
        if is_warm:
            with contextlib.suppress(OSError, KeyError):  # it ended just now
                seen.append(held_by(process.pid))
        time.sleep(SOAK_S / 400)
    assert process.returncode == 0, process.stderr.read()
    middle = seen[: -len(seen) // 10]  # before what ends a run
    early, late = middle[: len(middle) // 3], middle[-len(middle) // 3 :]
    steps = read_metrics(run)[-1]["step"]
    mb = [statistics.median(each.mb for each in part) for part in (early, late)]
    print(f"{steps} steps; MB {mb}; files and threads {early[0][1:]} {late[-1][1:]}")
    assert len(seen) > 100 and steps > SOAK_S
    assert mb[1] - mb[0] < 0.01 * mb[0]
    # A pass has a thread of its own, so they go up and down: one more for each pass, probe or
    # checkpoint of a third of the run has the fewest of its end above the most of its beginning.
    for what in ("files", "threads"):
        most_early = max(getattr(each, what) for each in early)
        assert min(getattr(each, what) for each in late) <= most_early, what

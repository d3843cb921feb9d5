"""What a run says of itself: metrics.jsonl, TensorBoard, the console, and the clock of training."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from effssl.run import distributed
from effssl.run.files import append_line, named_in_errors, write_text
from effssl.run.trackers import Tracker, open_tracker

_AXES = ("step", "epoch", "seconds", "encoded_views")  # where a record lies, not what it measured
_OF_TRAINING = '{"kind": "train"'  # how the line of such a record begins
_LINE_EVERY_S = 10.0  # on a console that is no terminal


class Clock:
    """The seconds of training.

    Pauses (probes, checkpoints, pictures) do not count. `wait` waits for the device, so that what
    it still computes is counted before a pause.
    """

    def __init__(self, seconds: float, wait: Callable[[], object]):
        self._before, self._wait = seconds, wait
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block."""
        self._wait()
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class RunLog:
    """The records of a run, in metrics.jsonl, on TensorBoard and on the console.

    The console shows a bar on a terminal, else plain lines. In a process group the first process
    speaks and writes; the log of any other is silent.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: dict[str, Any],
        total_steps: int,
        log_to: tuple[str, ...] = (),
        settings: dict[str, Any] | None = None,
    ):
        """Open the log of a run that begins, or goes on, at the _AXES `start`.

        log_to: trackers that it goes to as well. settings: of the run, for these.
        """
        self._trackers: dict[str, Tracker] = {}
        self._file, self._total_steps = folder / "metrics.jsonl", total_steps
        self._began_s, self._start, self._last = time.perf_counter(), start, start
        self._spoke_s = 0.0
        self._is_silent = not distributed.is_first()
        if self._is_silent:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        # A run that goes on keeps its records; one that starts again from step 0 says all of it
        # again.
        start_step = start["step"]
        kept = [r for r in read_metrics(folder) if 0 < start_step >= r["step"]]
        write_text(self._file, "".join(json.dumps(r) + "\n" for r in kept))
        self._board_folder = folder / "tensorboard"
        threading.excepthook = _say_errors_of_threads
        with named_in_errors(self._board_folder):
            self._board = SummaryWriter(str(self._board_folder), purge_step=start_step + 1)
        self._is_terminal = sys.stdout.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not self._is_terminal,
            file=sys.stdout,
        )
        for name in log_to:
            self._attempt(name, functools.partial(self._open, name, folder, settings or {}))

    def train(self, record: dict[str, Any]) -> None:
        """Keep a training record: _AXES, lr, the loss and its terms before weighting.

        Encoded views a second since the last one are added as views_per_s.
        """
        if self._is_silent:
            return
        axes = {name: record[name] for name in _AXES}
        views, seconds = (record[k] - self._last[k] for k in ("encoded_views", "seconds"))
        self._last = record
        self._keep("train", {**axes, "views_per_s": views / seconds, **record})
        terms = " ".join(f"{k} {v:.4g}" for k, v in record.items() if k.startswith("loss"))
        text = f"{terms}, {views / seconds:.0f} views/s"
        now_s = time.perf_counter()
        if self._is_terminal:
            self._bar.set_postfix_str(text)
            self._bar.update(record["step"] - self._bar.n)
        elif now_s - self._spoke_s > _LINE_EVERY_S:
            self._spoke_s = now_s
            step, done = record["step"], record["step"] - self._start["step"]
            left_s = (self._total_steps - step) * (now_s - self._began_s) / max(1, done)
            at = f"step {step}/{self._total_steps} epoch {record['epoch']:.2f}"
            self.say(f"{at} {text}, {left_s:.0f} s to go")

    def probe(self, record: dict[str, Any]) -> None:
        """Keep a probe's record: _AXES and its measures."""
        if self._is_silent:
            return
        self._keep("probe", record)
        measures = ", ".join(f"{k} {v:.4g}" for k, v in record.items() if k not in _AXES)
        self.say(f"probe at epoch {record['epoch']:.4g}, {record['seconds']:.0f} s: {measures}")

    def extension(self, record: dict[str, Any]) -> None:
        """Keep that a run goes on with more epochs: _AXES, and `epochs` and `lr` with what they
        were before."""
        if self._is_silent:
            return
        self._keep("extension", record)
        self.say(
            f"--epochs {record['epochs_before']} -> {record['epochs']}: the schedule now ends at "
            f"step {self._total_steps}; from here, step {record['step']}, the learning rate is "
            f"that of the longer schedule: {record['lr']:.3g} in place of {record['lr_before']:.3g}"
        )

    def has_probe(self, step: int) -> bool:
        """Say whether a probe's record of `step` is there already."""
        records = read_metrics(self._file.parent, at_most=1)
        return any(r["kind"] == "probe" and r["step"] == step for r in records)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._is_silent:
            return
        if self._is_terminal:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """End the bar and TensorBoard's files."""
        if self._is_silent:
            return
        self._bar.close()
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, tracker.close)
        with named_in_errors(self._board_folder):
            self._board.close()

    def _open(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        self._trackers[name] = open_tracker(name, folder, settings)

    def _attempt(self, name: str, work: Callable[[], object]) -> None:
        """Let a tracker work; one that fails is told of, and left out from then on."""
        try:
            work()
        except Exception as error:  # servers and packages raise anything
            self._trackers.pop(name, None)
            reason = " ".join(str(error).split())[:200]
            self.say(f"--log-to {name} failed and is left out: {reason}")

    def _keep(self, kind: str, record: dict[str, Any]) -> None:
        append_line(self._file, json.dumps({"kind": kind, **record}))
        with named_in_errors(self._board_folder):
            for name, value in record.items():
                if name not in _AXES:
                    self._board.add_scalar(f"{kind}/{name}", value, record["step"])
            self._board.flush()  # raises what its thread could not write
        values = {name: value for name, value in record.items() if name != "step"}
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, functools.partial(tracker.log, kind, values, record["step"]))


def _say_errors_of_threads(error: threading.ExceptHookArgs) -> None:
    """Leave to the next call of TensorBoard, which raises it, what its thread cannot write."""
    if not type(error.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(error)


def read_metrics(folder: Path, *, at_most: int | None = None) -> list[dict[str, Any]]:
    """Return the records of a run, in order, without a last line that a kill cut short.

    at_most: of the records of training, evenly spread from the first; beside these, the last and
    the one before each record of another kind, whose loss a probe may be judged by (None: all). A
    long run has a million of them, which are gigabytes as dictionaries.
    """
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return []
    every = 1
    if at_most is not None:
        with file.open() as lines:
            every = max(1, -(-sum(line.startswith(_OF_TRAINING) for line in lines) // at_most))
    records, seen, left_out = [], 0, ""
    with file.open() as lines, contextlib.suppress(json.JSONDecodeError):
        for line in lines:
            if line.startswith(_OF_TRAINING):
                seen += 1
                if (seen - 1) % every:
                    left_out = line
                    continue
            elif left_out:
                records.append(json.loads(left_out))
            left_out = ""
            records.append(json.loads(line))
        if left_out:
            records.append(json.loads(left_out))
    return records

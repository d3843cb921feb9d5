"""What a run says of itself: metrics.jsonl, TensorBoard, the console, and the clock that counts training."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Clock:
    """Seconds of training. Pauses (probes, checkpoints, pictures) do not count; `settle` waits for the device."""

    def __init__(self, seconds: float, settle: Callable[[], object]):
        self._before, self._settle = seconds, settle
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._settle()
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class RunLog:
    """Records go to metrics.jsonl and TensorBoard; the console shows a bar on a terminal, else plain lines."""

    def __init__(self, folder: Path, *, start_step: int, total_steps: int):
        from torch.utils.tensorboard import SummaryWriter

        self._file = folder / "metrics.jsonl"
        # Of a run that is gone on with; one that starts again from step 0 says all of it again.
        kept = [r for r in read_metrics(folder) if 0 < start_step >= r["step"]]
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept))
        temporary.replace(self._file)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        self._terminal = sys.stdout.isatty()
        self._start, self._total = (time.perf_counter(), start_step), total_steps
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not self._terminal,
            file=sys.stdout,
        )
        self._spoke = 0.0

    def train(self, record: dict[str, Any]) -> None:
        """A training record: step, epoch, seconds, encoded_views, views_per_s, lr, loss and its terms."""
        self._keep("train", record)
        terms = " ".join(f"{k} {v:.4g}" for k, v in record.items() if k.startswith("loss"))
        text = f"{terms}, {record['views_per_s']:.0f} views/s"
        if self._terminal:
            self._bar.set_postfix_str(text)
            self._bar.update(record["step"] - self._bar.n)
        elif time.perf_counter() - self._spoke > 10:
            self._spoke = time.perf_counter()
            began, first = self._start
            eta_s = (self._total - record["step"]) * (self._spoke - began) / max(1, record["step"] - first)
            self.say(f"step {record['step']}/{self._total} epoch {record['epoch']:.2f} {text}, {eta_s:.0f} s to go")

    def probe(self, record: dict[str, Any]) -> None:
        """A probe's record: step, epoch, seconds, encoded_views and its measures."""
        self._keep("probe", record)
        measures = ", ".join(f"{k} {v:.4g}" for k, v in record.items() if k not in _AXES)
        self.say(f"probe at epoch {record['epoch']:.4g}, {record['seconds']:.0f} s: {measures}")

    def has_probe(self, step: int) -> bool:
        """Whether there is a probe's record of `step` already."""
        return any(r["kind"] == "probe" and r["step"] == step for r in read_metrics(self._file.parent))

    def say(self, text: str) -> None:
        if self._terminal:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        self._bar.close()
        self._board.close()

    def _keep(self, kind: str, record: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"kind": kind, **record}) + "\n")
        for name, value in record.items():
            if name not in _AXES:
                self._board.add_scalar(f"{kind}/{name}", value, record["step"])


_AXES = ("step", "epoch", "seconds", "encoded_views")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a last line that was cut short by a kill is left out."""
    file = folder / "metrics.jsonl"
    records = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records

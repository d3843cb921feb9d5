"""A trace of some training steps: which operations took the time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity

from effssl.run import distributed
from effssl.run.files import atomic
from effssl.run.log import Clock

WARM_UP = 5  # steps that allocate, and choose algorithms
_SHOWN = 10  # operations of the table


class Trace(Protocol):
    """What is told of every step that is done."""

    def step(self) -> None:
        """Note that a step is done."""


class _NoTrace:
    def step(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def tracing(
    num_steps: int, file: Path, clock: Clock, say: Callable[[str], None]
) -> Iterator[Trace]:
    """Trace `num_steps` of the steps within the block, after the first WARM_UP.

    Writes a Chrome trace of the first process to `file`, and says which operations took the most
    time; the clock pauses meanwhile. If the block ends sooner, the trace is of fewer steps, or a
    line says that there is none.
    """
    if num_steps == 0 or not distributed.is_first():
        yield _NoTrace()
        return
    is_written = False

    def write(profiler: torch.profiler.profile) -> None:
        nonlocal is_written
        traced = min(num_steps, profiler.step_num - WARM_UP)
        if traced < 1:
            return
        with clock.paused():
            with atomic(file) as temporary:
                profiler.export_chrome_trace(str(temporary))
            say(f"{file}: {traced} steps\n{_costliest(profiler, traced)}")
        is_written = True

    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(
        activities=[ProfilerActivity.CPU, *on_gpu],
        schedule=torch.profiler.schedule(wait=WARM_UP - 1, warmup=1, active=num_steps, repeat=1),
        on_trace_ready=write,
    ) as profiler:
        yield profiler
    if not is_written:
        say(f"--profile {num_steps}: no trace, as fewer than {WARM_UP + 1} steps were made")


def _costliest(profiler: torch.profiler.profile, num_steps: int) -> str:
    """List the operations that took the most time by themselves, on the GPU if there is one."""
    operations = profiler.key_averages()
    is_on_gpu = any(one.self_device_time_total > 0 for one in operations)
    kind = "self_device_time_total" if is_on_gpu else "self_cpu_time_total"
    rows = sorted(((getattr(one, kind), one) for one in operations), key=lambda row: -row[0])
    total_us = sum(us for us, _ in rows) or 1.0
    lines = [f"{'ms a step':>10} {'share':>6} {'calls':>6}  operation"]
    for us, one in rows[:_SHOWN]:
        a_step, calls = us / 1000 / num_steps, one.count / num_steps
        lines.append(f"{a_step:>10.2f} {us / total_us:>6.1%} {calls:>6.0f}  {one.key[:60]}")
    return "\n".join(lines)

"""How many threads load images, how many processes store them, and how torch's threads wait."""

from __future__ import annotations

import os
import sys

MOST_WORKERS = 8  # by default: each may need gigabytes for a large image


def num_cores() -> int:
    """Return how many cores this process may use."""
    can_tell = hasattr(os, "sched_getaffinity")  # Linux; the others know the machine's cores alone
    return len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1


def own_cores(part: int = 1) -> int:
    """Return how many cores there are for each process of this machine, or one in `part` of them,
    at most MOST_WORKERS."""
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's
    return max(1, min(num_cores() // num_processes // part, MOST_WORKERS))


def loading_threads(device: str) -> int:
    """Return how many threads load images by default, for a kind of device: `cuda`, `cpu`.

    On a CPU the cores are the encoder's; what loads takes a quarter of them. On two cores a second
    thread that loads made a step a fifth to a third longer (analysis/LOG.md).
    """
    return own_cores(part=4) if device == "cpu" else own_cores()


def keep_threads_awake() -> None:
    """Let threads of OpenMP wait awake for ten times as long as they do by default; to be called
    before torch is imported.

    libgomp counts threads that load among those of torch. If they are more than cores, it lets each
    sleep after a microsecond without work, as between two operations, and waking it takes longer
    than a small operation does. Where threads are not more than cores, all is as by default: it
    tries GOMP_SPINCOUNT times. What the user has set is left alone.
    """
    if sys.platform == "linux" and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ |= {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"}

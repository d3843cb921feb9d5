"""What a measurement was made on, and with: hardware, versions, commit and date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from effssl import __version__

_ROOT = Path(__file__).parents[2]  # of the checkout, if this package runs from one


def machine(device: torch.device) -> dict[str, Any]:
    """Describe this machine: `hardware`, `versions`, and the time as `finished`, ready for JSON."""
    return {
        "hardware": {
            "cpu": _cpu_name(),
            "cpu_vectors": torch.backends.cpu.get_cpu_capability(),  # one name has several kinds
            "cpu_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "versions": {
            "effssl": __version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "finished": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Return the checkout's commit, with "-dirty" if it has changes; None without a checkout."""
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()

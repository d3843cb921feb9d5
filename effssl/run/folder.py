"""The run folder: found free, claimed, and completed with a result."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from effssl import InputError, __version__

# What a finished run shows first
HIGHLIGHTS = ("views.png", "curves.png", "checkpoint.pt", "backbone.safetensors", "result.json")


def choose(out: Path | None, label: str) -> Path:
    """`out`, or runs/DATE_LABEL, not made yet. Raises InputError if it holds a run already or could not be made."""
    out = out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d_%H%M%S}_{label}"
    if (out / "config.yaml").exists() or (out / "checkpoint.pt").exists():
        raise InputError(f"--out {out} already holds a run; go on with --resume {out} or name another folder")
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(f"--out {out} cannot be written: {existing} is not a folder that you may write to")
    return out


def claim(out: Path) -> FileLock:
    """Make the folder and keep other processes from training in it until the lock is released, or its holder ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out} is being trained by another process") from None
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    return lock


def write_result(
    out: Path, final: dict[str, Any], *, steps: int, seconds: float, encoded_views: int, device: torch.device
) -> None:
    """result.json: the final table, its cost, and the machine that it was measured on."""
    result = {
        "final": final,
        "steps": steps,
        "seconds": round(seconds, 3),
        "encoded_views": encoded_views,
        "views_per_s": round(encoded_views / seconds, 1),
        **machine(device),
    }
    write_json(out / "result.json", result)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, its folder made where it is missing. Raises InputError where it cannot be written."""
    temporary = path.with_suffix(f"{path.suffix}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):  # nothing was written where a parent is a file
            temporary.unlink()


def _commit() -> str | None:
    """Of the checkout that this package runs from, with "-dirty" where it has changes; None where it is installed."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device: torch.device) -> dict[str, Any]:
    """What a measurement was made on and with, and when: hardware, versions, finished."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "hardware": {
            "cpu": names[0] if names else platform.processor(),
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

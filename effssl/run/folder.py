"""The run folder: found free, claimed, and completed with a result."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from effssl import InputError
from effssl.run import distributed
from effssl.run.files import check_writable, write_json
from effssl.run.provenance import machine

# What a finished run shows first
_HIGHLIGHTS = ("views.png", "curves.png", "checkpoint.pt", "backbone.safetensors", "result.json")


def choose(out: Path | None, label: str) -> Path:
    """Return `out`, or runs/DATE_LABEL if it is None; the folder is not made yet.

    Raises InputError if it holds a run already or could not be written.
    """
    out = out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d_%H%M%S}_{label}"
    if (out / "config.yaml").exists() or (out / "checkpoint.pt").exists():
        raise InputError(
            f"--out {out} already holds a run; go on with --resume {out} or name another folder"
        )
    check_writable(out, f"--out {out}")
    return out


def highlights(out: Path) -> list[Path]:
    """Return the files of a finished run that are worth a look first, of those that are there."""
    return [file for name in _HIGHLIGHTS if (file := out / name).exists()]


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make the folder, and keep others from training in it within the block.

    In a process group the first process does so for all. Raises InputError if somebody else trains
    there, or if the folder cannot be written.
    """
    if not distributed.is_first():
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out} is being trained by another process") from None
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def write_result(
    out: Path,
    final: dict[str, Any],
    *,
    steps: int,
    seconds: float,
    encoded_views: int,
    images: str | None,
    device: torch.device,
) -> None:
    """Write result.json: the final table, its cost, what the images are known by, and the machine
    that it was measured on."""
    result = {
        "final": final,
        "steps": steps,
        "seconds": round(seconds, 3),
        "encoded_views": encoded_views,
        "views_per_s": round(encoded_views / seconds, 1),
        "images": images,
        **machine(device),
    }
    write_json(out / "result.json", result)

"""What tells one state of an image set from another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def fingerprints(
    files: Sequence[str | Path], names: Sequence[str | Path], labels: np.ndarray
) -> tuple[str, str]:
    """Return fingerprint and identity of a sources.Source, of files by these names."""
    stats = [(name, _stat(file)) for name, file in zip(names, files, strict=True)]
    touched = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    copied = "\n".join(f"{name} {stat.st_size}" for name, stat in stats)
    as_bytes = labels.tobytes()
    return digest(os.fsencode(touched) + as_bytes), digest(os.fsencode(copied) + as_bytes)


def of_no_labels(known_by: str) -> str:
    """Return the fingerprint or identity that a set has with --no-labels."""
    return digest(f"{known_by} without labels".encode())


def digest(content: bytes) -> str:
    """Return 16 hexadecimal digits that stand for the content."""
    return hashlib.sha256(content).hexdigest()[:16]


def _stat(path: str | Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError:  # a link to nowhere: an image that does not decode, and is named as one
        return os.lstat(path)

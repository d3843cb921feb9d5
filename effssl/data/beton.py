"""Images -> one .beton file, written once, and never used stale or half-written.

The name ends in a fingerprint of what the file was made from, so that a file is never replaced while another process
reads it. It is written under a lock to a temporary name, synced, and renamed; NAME.json, with its length in bytes and
what it was made from, follows in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import multiprocessing.queues
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ffcv.writer
import numpy as np
from ffcv.fields import IntField, RGBImageField
from filelock import FileLock

from effssl import InputError
from effssl.data.datasets import Source

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
FORMAT = 2  # of what we write into a .beton; raise it when that changes


class Beton(NamedTuple):
    """A stored split."""

    path: Path
    labels: np.ndarray  # int64 [images], -1 where unlabelled
    classes: list[str]
    side: int | None  # in pixels where all images are squares of one size (stored raw), else None (stored as JPEG)
    identity: str  # see datasets.Source


def ensure_beton(source: Source, folder: Path, name: str, *, max_side: int, jpeg_quality: int, workers: int) -> Beton:
    """Return the stored form of `source`, FOLDER/NAME-FINGERPRINT.beton, writing it if it is not there.

    Raises InputError for images that do not decode (named), a file shorter than it was written, and a folder that
    cannot be written.
    """
    made_from = {"format": FORMAT, "fingerprint": source.fingerprint, "images": len(source.images), "side": source.side}
    if source.side is None:
        made_from |= {"max_side": max_side, "jpeg_quality": jpeg_quality}
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]
    path = folder / f"{name}-{digest}.beton"
    note = path.with_suffix(".json")
    if not _is_current(path, note, made_from):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            with lock:
                if not _is_current(path, note, made_from):  # another process may have written it while we waited
                    _write(source, path, note, made_from, max_side, jpeg_quality, workers)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; --beton-dir names another folder"
            ) from None
    return Beton(path, source.labels, source.classes, source.side, source.identity)


def _is_current(path: Path, note: Path, made_from: dict) -> bool:
    if not (path.is_file() and note.is_file()):
        return False
    try:
        noted = json.loads(note.read_text())
    except ValueError:
        return False
    if {k: noted.get(k) for k in made_from} != made_from:
        return False
    length = path.stat().st_size
    if length != noted["bytes"]:
        raise InputError(
            f"{path} is damaged ({length} bytes instead of {noted['bytes']}); delete it to have it rewritten"
        )
    return True


def _write(
    source: Source, path: Path, note: Path, made_from: dict, max_side: int, jpeg_quality: int, workers: int
) -> None:
    for left_over in path.parent.glob(f".{path.stem}-*.tmp"):  # of a writer that was killed; we hold the lock
        left_over.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary, complaints = Path(name), Path(name + ".tmp")
    print(f"writing {path} ({len(source.images)} images)", flush=True)
    if source.side is None:
        field = RGBImageField(write_mode="jpg", max_resolution=max_side, jpeg_quality=jpeg_quality)
    else:
        field = RGBImageField(write_mode="raw")
    try:
        writer = ffcv.writer.DatasetWriter(str(temporary), {"image": field, "label": IntField()}, num_workers=workers)
        samples = _Samples(source, max_side, complaints)
        try:
            with _workers_watched():
                writer.from_indexed_dataset(samples)
        except BaseException:
            with contextlib.suppress(AttributeError, FileNotFoundError):  # it may not have come that far
                writer.metadata_sm.close()
                writer.metadata_sm.unlink()
            raise
        if complaints.exists():
            raise InputError(_summary(complaints.read_text().splitlines()))
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary.write_text(json.dumps(made_from | {"bytes": path.stat().st_size}, indent=1) + "\n")
        temporary.replace(note)
    finally:
        temporary.unlink(missing_ok=True)
        complaints.unlink(missing_ok=True)


class _Samples:
    """(image, label) for FFCV's writer. An image that fails is noted and replaced, as an exception in one of FFCV's
    worker processes would leave the writer waiting for ever."""

    def __init__(self, source: Source, max_side: int, complaints: Path):
        self.images, self.labels, self.side = source.images, source.labels, source.side
        self.max_side, self.complaints = max_side, complaints
        self.parent, self.process = os.getpid(), os.getpid()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        if os.getpid() != self.process:  # the first image in a worker process
            self.process = os.getpid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # die with the writer, or wait for it for ever
            if os.getppid() != self.parent:
                os._exit(1)
        try:
            image = self.images[position]
            if self.side is None and max(image.shape[:2]) >= self.max_side * min(image.shape[:2]):
                raise InputError(f"{self._name(position)} is too narrow to store: {image.shape[1]}x{image.shape[0]}")
            if self.side is not None and image.shape[:2] != (self.side, self.side):
                found = f"{image.shape[1]}x{image.shape[0]}"
                raise InputError(f"{self._name(position)} is {found}, not {self.side}x{self.side} pixels")
        except InputError as error:
            with self.complaints.open("a") as file:
                file.write(f"{error}\n")
            image = np.zeros((self.side or 8, self.side or 8, 3), np.uint8)
        return image, int(self.labels[position])

    def _name(self, position: int) -> str:
        paths = getattr(self.images, "paths", None)
        return str(paths[position]) if paths else f"image {position}"


def _summary(complaints: list[str]) -> str:
    more = f" (and {len(complaints) - 3} more)" if len(complaints) > 3 else ""
    return "; ".join(sorted(complaints)[:3]) + more


@contextlib.contextmanager
def _workers_watched() -> Iterator[None]:
    """Raise in the main thread when one of FFCV's writer processes dies, which it would wait for for ever; leave none
    behind on any error."""
    processes: list[multiprocessing.Process] = []
    queues: list[multiprocessing.queues.Queue] = []

    def started(*args, **kwargs) -> multiprocessing.Process:
        processes.append(multiprocessing.Process(*args, **kwargs, daemon=True))
        return processes[-1]

    def queue() -> multiprocessing.queues.Queue:
        queues.append(multiprocessing.Queue())
        return queues[-1]

    def look(signum, frame) -> None:
        codes = [p.exitcode for p in processes if p.pid is not None and p.exitcode]
        if codes:
            raise RuntimeError(f"a process that writes the .beton died (exit code {codes[0]}; out of memory?)")

    in_main = threading.current_thread() is threading.main_thread()  # signals are handled nowhere else
    ffcv.writer.Process, ffcv.writer.Queue = started, queue  # FFCV keeps no hold of them
    if in_main:
        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)  # again and again: an exception in a finaliser is lost
    try:
        yield
    except BaseException:
        for each in queues:
            each.cancel_join_thread()  # or Python would wait at its end for somebody to read the work that is left
        raise
    finally:
        if in_main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        ffcv.writer.Process, ffcv.writer.Queue = multiprocessing.Process, multiprocessing.Queue
        for process in processes:
            if process.is_alive():
                process.join(timeout=1)  # FFCV has what they wrote; they are about to end
                process.kill()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

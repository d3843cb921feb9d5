"""FFCV's writer, tamed: it books a row for every image before it has seen any, and waits for ever for a worker that
fails. Here images that cannot be stored are left out and named, and a worker that dies ends the writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ffcv.writer
import numpy as np
from ffcv.fields import IntField, RGBImageField
from tqdm import tqdm

from effssl import InputError
from effssl.config import Storage
from effssl.data.sources import Source

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAMED = 20  # images that an error names at most
LINE_EVERY_S = 10.0  # of progress, where it is not a terminal that reads


class Complaint(NamedTuple):
    """About an image that cannot be stored."""

    position: int  # in the source
    why: str  # names the image


def write(source: Source, file: Path, storage: Storage) -> list[Complaint]:
    """Write the images of `source` into a .beton at `file`: raw where all are squares of one size, else as JPEGs with
    their longer side at most storage.max_side pixels. Returns what is left out, by position.

    Raises OSError where the disk is full, RuntimeError where a worker process dies; `file` is then no .beton.
    """
    if source.side is None:
        field = RGBImageField(write_mode="jpg", max_resolution=storage.max_side, jpeg_quality=storage.jpeg_quality)
    else:
        field = RGBImageField(write_mode="raw")
    complaints = Path(f"{file}.tmp")
    try:
        writer = _Writer(str(file), {"image": field, "label": IntField()}, num_workers=storage.workers)
        writer.complaints = complaints
        try:
            with _workers_watched():
                writer.from_indexed_dataset(_Samples(source, storage.max_side, complaints))
        except BaseException:
            with contextlib.suppress(AttributeError, FileNotFoundError):  # it may not have come that far
                writer.metadata_sm.close()
                writer.metadata_sm.unlink()
            raise
        return _read_complaints(complaints)
    finally:
        complaints.unlink(missing_ok=True)


def listing(reasons: list[str], count: int, what: str) -> str:
    """The message about images that cannot be used, with a line for each of the first NAMED."""
    named = [f"\n  {why}" for why in reasons[:NAMED]]
    more = f"\n  and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    way_out = "; --skip-corrupt leaves them out" if len(reasons) < count else ""
    return f"{len(reasons)} of {count} images {what}{way_out}:" + "".join(named) + more


def _read_complaints(file: Path) -> list[Complaint]:
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(Complaint(*json.loads(line)) for line in lines)


class _Writer(ffcv.writer.DatasetWriter):
    """FFCV's, which can leave images out at the end: it books a row for each before it has seen any."""

    complaints: Path

    def finalize(self, allocations: list[tuple[int, int, int]]) -> None:
        skipped = [c.position for c in _read_complaints(self.complaints)]
        if skipped:
            rows = np.frombuffer(bytes(self.metadata_sm.buf), self.metadata_type, count=self.num_samples)
            kept = np.setdiff1d(np.arange(self.num_samples), skipped)
            packed = rows[kept].tobytes()
            self.metadata_sm.buf[: len(packed)] = packed
            self.header["num_samples"] = len(kept)
            row_of = {position: row for row, position in enumerate(kept.tolist())}
            allocations = [(row_of[i], ptr, size) for i, ptr, size in allocations if i in row_of]
        super().finalize(allocations)


class _Samples:
    """(image, label) for FFCV's writer. An image that fails is noted and replaced, as an exception in one of FFCV's
    worker processes would leave the writer waiting for ever."""

    def __init__(self, source: Source, max_side: int, complaints: Path):
        self.images, self.labels, self.side = source.images, source.labels, source.side
        self.max_side, self.complaints = max_side, complaints

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        try:
            image = self.images[position]
            if self.side is None and max(image.shape[:2]) >= self.max_side * min(image.shape[:2]):
                raise InputError(f"{self._name(position)} is too narrow to store: {image.shape[1]}x{image.shape[0]}")
            if self.side is not None and image.shape[:2] != (self.side, self.side):
                found = f"{image.shape[1]}x{image.shape[0]}"
                raise InputError(f"{self._name(position)} is {found}, not {self.side}x{self.side} pixels")
        except InputError as error:
            with self.complaints.open("a") as file:
                file.write(json.dumps([int(position), str(error)]) + "\n")
            image = np.zeros((self.side or 8, self.side or 8, 3), np.uint8)
        return image, int(self.labels[position])

    def _name(self, position: int) -> str:
        paths = getattr(self.images, "paths", None)
        return str(paths[position]) if paths else f"image {position}"


@contextlib.contextmanager
def _workers_watched() -> Iterator[None]:
    """Raise in the main thread when one of FFCV's writer processes dies, which it would wait for for ever; leave none
    behind on any error."""
    processes: list[multiprocessing.Process] = []
    queues: list[multiprocessing.queues.Queue] = []

    def started(target: Callable, args: tuple) -> multiprocessing.Process:
        work = (os.getpid(), target, args)
        processes.append(_Worker(target=_work_for, args=work, daemon=True))
        return processes[-1]

    def queue() -> multiprocessing.queues.Queue:
        queues.append(multiprocessing.Queue())
        return queues[-1]

    def look(signum, frame) -> None:
        codes = [p.exitcode for p in processes if p.pid is not None and p.exitcode]
        if codes and codes[0] in _DISK_IS_FULL:
            raise OSError(codes[0], os.strerror(codes[0]))
        if codes:
            raise RuntimeError(f"a process that writes the .beton died (exit code {codes[0]}; out of memory?)")

    in_main = threading.current_thread() is threading.main_thread()  # signals are handled nowhere else
    ffcv.writer.Process, ffcv.writer.Queue = started, queue  # FFCV keeps no hold of them
    ffcv.writer.tqdm = functools.partial(tqdm, unit=" images") if sys.stderr.isatty() else _ProgressLines
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
        ffcv.writer.tqdm = tqdm
        for process in processes:
            if process.is_alive():
                process.join(timeout=1)  # FFCV has what they wrote; they are about to end
                process.kill()


class _Worker(multiprocessing.Process):
    """A terminal sends Ctrl-C to all processes, but the writer ends its workers: they inherit a mask that blocks it."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work_for(parent: int, target: Callable, args: tuple[Any, ...]) -> None:
    """In a worker process: do FFCV's work, and die with the writer (or wait for it for ever). The exit code tells of a
    disk that is full."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    try:
        target(*args)
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            os._exit(error.errno)
        raise


class _ProgressLines:
    """tqdm's part that FFCV uses, in lines."""

    def __init__(self, total: int):
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.due = self.began + LINE_EVERY_S

    def update(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now >= self.due:
            self.due = now + LINE_EVERY_S
            rate = self.done / (now - self.began)
            left_s = (self.total - self.done) / rate
            print(f"  {self.done} of {self.total} images, {rate:.0f}/s, {left_s:.0f} s left", flush=True)

    def close(self) -> None: ...

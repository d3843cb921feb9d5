"""FFCV's writer, tamed.

FFCV books a row for every image before it has seen any, and waits for ever for a worker that fails.
Here images that cannot be stored are left out and named, and a worker that dies ends the writing.
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
LINE_EVERY_S = 10.0  # of progress, if it is not a terminal that reads


class Complaint(NamedTuple):
    """About an image that cannot be stored."""

    position: int  # in the source
    why: str  # names the image


def write(source: Source, file: Path, storage: Storage) -> list[Complaint]:
    """Write the images of `source` into a .beton at `file`.

    They are stored raw if all are squares of one size, else as JPEGs with their longer side at most
    storage.max_side pixels. Returns what is left out, by position.

    Raises OSError if the disk is full, RuntimeError if a worker process dies; `file` is then no
    .beton.
    """
    if source.side is None:
        field = RGBImageField(write_mode="jpg", max_resolution=storage.max_side, jpeg_quality=storage.jpeg_quality)
    else:
        field = RGBImageField(write_mode="raw")
    complaints = Path(f"{file}.tmp")
    try:
        fields = {"image": field, "label": IntField()}
        writer = _Writer(str(file), fields, num_workers=storage.workers)
        writer.complaints = complaints
        try:
            with _workers_watched():
                writer.from_indexed_dataset(_Samples(source, storage.max_side, complaints))
        except BaseException:
            # It may not have come that far.
            with contextlib.suppress(AttributeError, FileNotFoundError):
                writer.metadata_sm.close()
                writer.metadata_sm.unlink()
            raise
        return _read_complaints(complaints)
    finally:
        complaints.unlink(missing_ok=True)


def listing(reasons: list[str], num_images: int, what: str) -> str:
    """Return the message about images that cannot be used; a line names each of the first NAMED."""
    named = [f"\n  {reason}" for reason in reasons[:NAMED]]
    more = f"\n  and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    way_out = "; --skip-corrupt leaves them out" if len(reasons) < num_images else ""
    return f"{len(reasons)} of {num_images} images {what}{way_out}:" + "".join(named) + more


def _read_complaints(file: Path) -> list[Complaint]:
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(Complaint(*json.loads(line)) for line in lines)


class _Writer(ffcv.writer.DatasetWriter):
    """FFCV's writer, which here can leave images out: their rows are taken away at the end."""

    complaints: Path

    def finalize(self, allocations: list[tuple[int, int, int]]) -> None:
        left_out = [complaint.position for complaint in _read_complaints(self.complaints)]
        if left_out:
            booked = bytes(self.metadata_sm.buf)
            rows = np.frombuffer(booked, self.metadata_type, count=self.num_samples)
            kept = np.setdiff1d(np.arange(self.num_samples), left_out)
            packed = rows[kept].tobytes()
            self.metadata_sm.buf[: len(packed)] = packed
            self.header["num_samples"] = len(kept)
            row_of = {position: row for row, position in enumerate(kept.tolist())}
            allocations = [(row_of[i], ptr, size) for i, ptr, size in allocations if i in row_of]
        super().finalize(allocations)


class _Samples:
    """Pairs (image, label) for FFCV's writer.

    An image that fails is noted and replaced: an exception in one of FFCV's worker processes would
    leave the writer waiting for ever.
    """

    def __init__(self, source: Source, max_side: int, complaints: Path):
        self.images, self.labels, self.side = source.images, source.labels, source.side
        self.max_side, self.complaints = max_side, complaints

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        try:
            image = self.images[position]
            height, width = image.shape[:2]
            name = self._name(position)
            if self.side is None and max(width, height) >= self.max_side * min(width, height):
                raise InputError(f"{name} is too narrow to store: {width}x{height}")
            if self.side is not None and (height, width) != (self.side, self.side):
                raise InputError(f"{name} is {width}x{height}, not {self.side}x{self.side} pixels")
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
    """Raise in the main thread if one of FFCV's worker processes dies, for which FFCV would wait.

    On any error no worker process is left behind.
    """
    processes: list[multiprocessing.Process] = []
    queues: list[multiprocessing.queues.Queue] = []

    def new_process(target: Callable, args: tuple) -> multiprocessing.Process:
        work = (os.getpid(), target, args)
        processes.append(_Worker(target=_work_for, args=work, daemon=True))
        return processes[-1]

    def new_queue() -> multiprocessing.queues.Queue:
        queues.append(multiprocessing.Queue())
        return queues[-1]

    def raise_for_the_dead(number: int, frame: object) -> None:
        codes = [p.exitcode for p in processes if p.pid is not None and p.exitcode]
        if codes and codes[0] in _DISK_IS_FULL:
            raise OSError(codes[0], os.strerror(codes[0]))
        if codes:
            raise RuntimeError(f"a process that writes the .beton died (exit code {codes[0]}; out of memory?)")

    # FFCV keeps no hold of its processes and queues.
    ffcv.writer.Process, ffcv.writer.Queue = new_process, new_queue
    on_terminal = functools.partial(tqdm, unit=" images")
    ffcv.writer.tqdm = on_terminal if sys.stderr.isatty() else _ProgressLines
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread:  # signals are handled nowhere else
        handler_before = signal.signal(signal.SIGALRM, raise_for_the_dead)
        # Again and again: an exception that is raised while Python runs a finaliser is lost.
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    except BaseException:
        for queue in queues:
            # Or Python would wait at its end for somebody to read the work that is left.
            queue.cancel_join_thread()
        raise
    finally:
        if is_main_thread:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler_before)
        ffcv.writer.Process, ffcv.writer.Queue = multiprocessing.Process, multiprocessing.Queue
        ffcv.writer.tqdm = tqdm
        for process in processes:
            if process.is_alive():
                process.join(timeout=1)  # FFCV has what it wrote; it is about to end
                process.kill()


class _Worker(multiprocessing.Process):
    """A worker process that does not hear Ctrl-C, which a terminal sends to all processes.

    The writer ends its workers, which inherit a mask that blocks the signal.
    """

    def start(self) -> None:
        mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)


def _work_for(parent: int, target: Callable, args: tuple[Any, ...]) -> None:
    """Do FFCV's work in a worker process, whose exit code tells of a disk that is full.

    It dies with the writer, for which it would wait for ever otherwise.
    """
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
    """The part of tqdm that FFCV uses, in lines."""

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
            progress = f"{self.done} of {self.total} images"
            print(f"  {progress}, {rate:.0f}/s, {left_s:.0f} s left", flush=True)

    def close(self) -> None: ...

"""Images -> one .beton file, written once, and never used stale or half-written.

The name ends in a fingerprint of what the file was made from, so that a file is never replaced while another process
reads it. It is written under a lock to a temporary name, synced, and renamed; NAME.json, with its length in bytes, what
it was made from and the images that it leaves out, follows in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import json
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ffcv.reader
import ffcv.writer
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from effssl import InputError
from effssl.data.datasets import Source

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORMAT = 2  # of what we write into a .beton; raise it when that changes
NAMED = 20  # images that an error names at most
LINE_EVERY_S = 10.0  # of progress, where it is not a terminal that reads


class Beton(NamedTuple):
    """A stored split."""

    path: Path
    labels: np.ndarray  # int64 [images], -1 where unlabelled
    classes: list[str]
    side: int | None  # in pixels where all images are squares of one size (stored raw), else None (stored as JPEG)
    identity: str  # see datasets.Source; another where images were left out
    positions: np.ndarray  # int64 [images], of these images in the source: all but those left out
    is_new: bool  # written by this very call


def ensure_beton(
    source: Source, folder: Path, name: str, *, max_side: int, jpeg_quality: int, workers: int, skip_corrupt: bool
) -> Beton:
    """Return the stored form of `source`, FOLDER/NAME-FINGERPRINT.beton, writing it if it is not there.

    Images that do not decode or cannot be stored are left out with `skip_corrupt`, which does not change the file's
    name: which images these are follows from the source. Without it they raise InputError naming them, also where
    another call has stored the others. Raises InputError too for a file shorter than it was written, and for a folder
    that cannot be written.
    """
    made_from = {"format": FORMAT, "fingerprint": source.fingerprint, "images": len(source.images), "side": source.side}
    if source.side is None:
        made_from |= {"max_side": max_side, "jpeg_quality": jpeg_quality}
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]
    path = folder / f"{name}-{digest}.beton"
    _remove_left_overs(folder, name)
    noted, is_new = _current(path, made_from), False
    if noted is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(_lock_of(path)):
                noted = _current(path, made_from)  # another process may have written it while we waited
                if noted is None:
                    noted = _write(source, path, made_from, max_side, jpeg_quality, workers, skip_corrupt)
                    is_new = True
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; --beton-dir names another folder"
            ) from None
    skipped = [_Complaint(*each) for each in noted.get("skipped", [])]
    if not skipped:
        positions = np.arange(len(source.images))
        return Beton(path, source.labels, source.classes, source.side, source.identity, positions, is_new)
    if not skip_corrupt:
        raise InputError(listing([c.why for c in skipped], len(source.images), "cannot be stored"))
    where = path.with_suffix(".json")
    print(f"{path.name} leaves out {len(skipped)} of {len(source.images)} images, named in {where}", flush=True)
    positions = np.setdiff1d(np.arange(len(source.images)), [c.position for c in skipped])
    others = hashlib.sha256(f"{source.identity} {positions.tolist()}".encode()).hexdigest()[:16]
    return Beton(path, source.labels[positions], source.classes, source.side, others, positions, is_new)


def check_beton(beton: Beton, source: Source, at_most: int = 1000) -> int:
    """Read a stored split back, past FFCV's loader: all labels and sizes, and the pixels of `at_most` images evenly
    spread, of which JPEGs must decode to the noted size and raw ones equal the source's.

    Returns how many images' pixels were read. Raises InputError naming the file for a difference.
    """
    try:
        reader = ffcv.reader.Reader(str(beton.path))
        images, labels = (reader.metadata[field] for field in reader.metadata.dtype.names)
        content = np.memmap(beton.path, np.uint8, "r")
        length = dict(zip(reader.alloc_table["ptr"].tolist(), reader.alloc_table["size"].tolist(), strict=True))
        if not np.array_equal(labels, beton.labels):
            raise ValueError("its labels are not the source's")
        for at in np.unique(np.linspace(0, len(images) - 1, at_most).round().astype(int)).tolist():
            ptr, shape = int(images["data_ptr"][at]), (int(images["height"][at]), int(images["width"][at]), 3)
            stored = content[ptr : ptr + length[ptr]]
            if images["mode"][at] == IMAGE_MODES["raw"]:
                same = np.array_equal(stored.reshape(shape), source.images[int(beton.positions[at])])
            else:
                same = np.asarray(Image.open(io.BytesIO(stored.tobytes()))).shape == shape
            if not same:
                raise ValueError(f"image {at} is not what was stored")
    except InputError:  # the source's
        raise
    except Exception as error:  # damaged files make NumPy and Pillow raise nearly anything
        reason = " ".join(str(error).split())
        raise InputError(f"{beton.path} is damaged ({reason}); delete it to have it rewritten") from None
    return min(at_most, len(images))


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _remove_left_overs(folder: Path, name: str) -> None:
    """Remove what killed writers of NAME left, also for images that have changed since; a living one holds its lock."""
    for stem in {left_over.name[1:].rpartition("-")[0] for left_over in folder.glob(f".{name}-*.tmp")}:
        with contextlib.suppress(Timeout, OSError), FileLock(_lock_of(folder / f"{stem}.beton"), timeout=0):
            _remove_temporaries(folder, stem)


def _remove_temporaries(folder: Path, stem: str) -> None:
    for temporary in folder.glob(f".{stem}-*.tmp"):
        temporary.unlink(missing_ok=True)


def _current(path: Path, made_from: dict) -> dict | None:
    """The note of a file that is whole and made from this; None where there is none."""
    try:
        noted = json.loads(path.with_suffix(".json").read_text())
        length = path.stat().st_size
    except (OSError, ValueError):  # not there, or what a crash of the machine left
        return None
    if {k: noted.get(k) for k in made_from} != made_from:
        return None
    if length != noted["bytes"]:
        raise InputError(
            f"{path} is damaged ({length} bytes instead of {noted['bytes']}); delete it to have it rewritten"
        )
    return noted


def _write(
    source: Source, path: Path, made_from: dict, max_side: int, jpeg_quality: int, workers: int, skip_corrupt: bool
) -> dict:
    """Write `path` and the note beside it, which is returned; the caller holds the lock."""
    _remove_temporaries(path.parent, path.stem)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary, complaints = Path(name), Path(name + ".tmp")
    print(f"writing {path} ({len(source.images)} images)", flush=True)
    if source.side is None:
        field = RGBImageField(write_mode="jpg", max_resolution=max_side, jpeg_quality=jpeg_quality)
    else:
        field = RGBImageField(write_mode="raw")
    try:
        writer = _Writer(str(temporary), {"image": field, "label": IntField()}, num_workers=workers)
        writer.complaints = complaints
        samples = _Samples(source, max_side, complaints)
        try:
            with _workers_watched():
                writer.from_indexed_dataset(samples)
        except BaseException:
            with contextlib.suppress(AttributeError, FileNotFoundError):  # it may not have come that far
                writer.metadata_sm.close()
                writer.metadata_sm.unlink()
            raise
        skipped = _read_complaints(complaints)
        if skipped and (not skip_corrupt or len(skipped) == len(samples)):
            raise InputError(listing([c.why for c in skipped], len(samples), "cannot be stored"))
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        stored = len(samples) - len(skipped)
        noted = made_from | {"bytes": path.stat().st_size, "stored": stored, "skipped": skipped}
        temporary.write_text(json.dumps(noted, indent=1) + "\n")
        temporary.replace(path.with_suffix(".json"))
        return noted
    finally:
        temporary.unlink(missing_ok=True)
        complaints.unlink(missing_ok=True)


class _Complaint(NamedTuple):
    position: int  # in the source
    why: str  # names the image


def _read_complaints(file: Path) -> list[_Complaint]:
    lines = file.read_text().splitlines() if file.exists() else []
    return sorted(_Complaint(*json.loads(line)) for line in lines)


def listing(reasons: list[str], count: int, what: str) -> str:
    """The message about images that cannot be used, with a line for each of the first NAMED."""
    named = [f"\n  {why}" for why in reasons[:NAMED]]
    more = f"\n  and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    way_out = "; --skip-corrupt leaves them out" if len(reasons) < count else ""
    return f"{len(reasons)} of {count} images {what}{way_out}:" + "".join(named) + more


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


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

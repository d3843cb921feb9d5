"""Images -> one .beton file, written once, and never used stale or half-written.

The file's name ends in a fingerprint of what it was made from, so that a file is never replaced
while another process reads it. It is written under a lock to a temporary name, synced, and renamed.
NAME.json follows in the same way: the length of the file in bytes, what it was made from, and the
images that it leaves out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from effssl import InputError
from effssl.data.decode import judge_gray
from effssl.data.image_files import ImageFiles
from effssl.data.loader import Reader, reader_of
from effssl.data.sources import Source
from effssl.data.storing import (
    Complaint,
    Written,
    about_bytes,
    is_storable,
    listing,
    stored_from,
)
from effssl.data.values import RGB, Values, window_of
from effssl.image_config import Storage
from effssl.run.files import to_disk


class Beton(NamedTuple):
    """A stored split."""

    path: Path
    labels: np.ndarray  # int64 [images], -1 if unlabelled
    classes: list[str]
    side: int | None  # in pixels if all are squares of one size, which are stored raw, else None
    identity: str  # see sources.Source; another one if images were left out
    positions: np.ndarray  # int64 [images], of these images in the source: all but those left out
    is_new: bool  # written by this very call
    reader: Reader = "ffcv"  # what reads it
    values: Values = RGB  # what the numbers of images are
    files: Sequence[object] | None = None  # of all images in the source, if they are files

    def name_of(self, row: int) -> str:
        """Return what a stored image is called: its file, or else its number."""
        return f"image {row}" if self.files is None else str(self.files[self.positions[row]])


def ensure_beton(source: Source, folder: Path, name: str, storage: Storage) -> Beton:
    """Return the stored form of `source`, FOLDER/NAME-FINGERPRINT.beton; write it if it is missing.

    Images that do not decode or cannot be stored are left out with `storage.skip_corrupt`, which
    does not change the file's name: which images these are follows from the source. They are tried
    again at every call: see _file_of. Without it InputError names them, also if an earlier call has
    stored the others. Raises InputError too for 16-bit gray that would be black, for a file shorter
    than it was written, for a folder that cannot be written, and if a process that writes dies.
    """
    reader = reader_of(storage.loader)
    path, made_from = _file_of(source, folder, name, storage)
    _remove_left_overs(folder, name)
    is_new = False
    note = _read_note(path, made_from)
    if note is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(_lock_of(path)):
                # Another process may have written it while this one waited.
                note = _read_note(path, made_from)
                if note is None:
                    note = _write(source, path, made_from, storage)
                    is_new = True
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"cannot write {path}: {reason}; --beton-dir names another folder"
            ) from None
    left_out = [Complaint(*entry) for entry in note.get("skipped", [])]
    if left_out and not storage.skip_corrupt:
        raise InputError(_cannot_be_stored(left_out, len(source.images)))
    if note.get("gray"):
        print(f"{path.name}: {note['gray']}", flush=True)
    kind = note.get("kind", "uint8")
    assert storage.gray_range != "auto"
    window = window_of(kind, storage.gray_range)
    values = RGB if storage.channels is None else Values(storage.channels, kind, window)
    return _stored(source, path, left_out, is_new, reader)._replace(values=values)


def known_sides(folder: Path, name: str, storage: Storage) -> dict[str, int | None]:
    """Return, by the fingerprints of what was stored as NAME, the sides of its images."""
    sides: dict[str, int | None] = {}
    for file in folder.glob(f"{name}-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(file.read_text())
            if ("channels" in note) == (storage.channels is not None):
                sides[note["fingerprint"]] = note["side"]
    return sides


def is_stored(source: Source, folder: Path, name: str, storage: Storage) -> bool:
    """Say whether ensure_beton would find the file that it is asked for."""
    return _read_note(*_file_of(source, folder, name, storage)) is not None


def _file_of(
    source: Source, folder: Path, name: str, storage: Storage
) -> tuple[Path, dict[str, Any]]:
    """Return the file of a source, and what decides about its bytes.

    Where images that a file leaves out can be stored by now, it is another file: that one may be
    being read.
    """
    made_from = stored_from(source, storage)
    skipped = (_read_note(_named(folder, name, made_from), made_from) or {}).get("skipped", [])
    mended = [at for at, _ in skipped if is_storable(source, at, storage.max_side)]
    if mended:
        made_from["mended"] = mended
    return _named(folder, name, made_from), made_from


def _named(folder: Path, name: str, made_from: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]
    return folder / f"{name}-{digest}.beton"


def _read_note(path: Path, made_from: dict[str, Any]) -> dict[str, Any] | None:
    """Read the note of a .beton that is whole and made from this; None if there is no such file."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        length = path.stat().st_size
    except (OSError, ValueError):  # not there, or what a crash of the machine left
        return None
    if {key: note.get(key) for key in made_from} != made_from:
        return None
    if length != note["bytes"]:
        raise InputError(
            f"{path} is damaged ({length} bytes instead of {note['bytes']}); delete it to have it "
            "rewritten"
        )
    return note


def _write(
    source: Source, path: Path, made_from: dict[str, Any], storage: Storage
) -> dict[str, Any]:
    """Write `path` and the note beside it, which is returned; the caller holds the lock.

    Not with run.files.atomic: a temporary file is told by its name to be one of this split, for
    _remove_left_overs, and OSError has to reach the caller.
    """
    num_images = len(source.images)
    print(f"writing {path} ({num_images} images{about_bytes(source, storage)})", flush=True)
    _remove_temporaries(path.parent, path.stem)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        left_out, gray_highs, kinds = _writer(storage)(source, temporary, storage)
        if left_out and (not storage.skip_corrupt or len(left_out) == num_images):
            raise InputError(_cannot_be_stored(left_out, num_images))
        if len(kinds) > 1:
            counted = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
            raise InputError(f"images are of several kinds of values: {counted}")
        about_gray = judge_gray(gray_highs, has_range=storage.gray_range is not None)
        to_disk(temporary)
        temporary.chmod(0o644)  # mkstemp lets nobody else read it
        temporary.replace(path)
        note = made_from | {
            "bytes": path.stat().st_size,
            "stored": num_images - len(left_out),
            "skipped": left_out,
            "gray": about_gray,
            "kind": next(iter(kinds)),
        }
        temporary.write_text(json.dumps(note, indent=1) + "\n")
        temporary.replace(path.with_suffix(".json"))
        return note
    finally:
        temporary.unlink(missing_ok=True)


def _writer(storage: Storage) -> Callable[[Source, Path, Storage], Written]:
    """Return what writes a .beton."""
    if storage.channels is None and reader_of(storage.loader) == "ffcv":
        from effssl.data import ffcv_writer

        return ffcv_writer.write
    from effssl.data import thread_writer

    return thread_writer.write


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _remove_left_overs(folder: Path, name: str) -> None:
    """Remove what killed writers of NAME left, also of images that have changed since then.

    A living writer holds its lock.
    """
    stems = {file.name[1:].rpartition("-")[0] for file in folder.glob(f".{name}-*.tmp")}
    for stem in stems:
        with (
            contextlib.suppress(Timeout, OSError),
            FileLock(_lock_of(folder / f"{stem}.beton"), timeout=0),
        ):
            _remove_temporaries(folder, stem)


def _remove_temporaries(folder: Path, stem: str) -> None:
    for temporary in folder.glob(f".{stem}-*.tmp"):
        temporary.unlink(missing_ok=True)


def _stored(
    source: Source, path: Path, left_out: list[Complaint], is_new: bool, reader: Reader
) -> Beton:
    identity, positions = source.identity, np.arange(len(source.images))
    if left_out:
        counted = f"{len(left_out)} of {len(positions)} images"
        note_file = path.with_suffix(".json")
        print(f"{path.name} leaves out {counted}, named in {note_file}", flush=True)
        positions = np.setdiff1d(positions, [complaint.position for complaint in left_out])
        identity = hashlib.sha256(f"{identity} {positions.tolist()}".encode()).hexdigest()[:16]
    labels, classes, side = source.labels[positions], source.classes, source.side
    files = source.images.paths if isinstance(source.images, ImageFiles) else None
    return Beton(path, labels, classes, side, identity, positions, is_new, reader, files=files)


def _cannot_be_stored(left_out: list[Complaint], num_images: int) -> str:
    return listing([complaint.why for complaint in left_out], num_images, "cannot be stored")

"""Images -> one .beton file, written once, and never used stale or half-written.

The name ends in a fingerprint of what the file was made from, so that a file is never replaced while another process
reads it. It is written under a lock to a temporary name, synced, and renamed; NAME.json, with its length in bytes, what
it was made from and the images that it leaves out, follows in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import ffcv.reader
import numpy as np
from ffcv.fields.rgb_image import IMAGE_MODES
from filelock import FileLock, Timeout
from PIL import Image

from effssl import InputError
from effssl.config import Storage
from effssl.data.ffcv_writer import Complaint, listing, write
from effssl.data.sources import Source

FORMAT = 2  # of what we write into a .beton; raise it when that changes


class Beton(NamedTuple):
    """A stored split."""

    path: Path
    labels: np.ndarray  # int64 [images], -1 where unlabelled
    classes: list[str]
    side: int | None  # in pixels where all images are squares of one size (stored raw), else None (stored as JPEG)
    identity: str  # see datasets.Source; another where images were left out
    positions: np.ndarray  # int64 [images], of these images in the source: all but those left out
    is_new: bool  # written by this very call


def ensure_beton(source: Source, folder: Path, name: str, storage: Storage) -> Beton:
    """Return the stored form of `source`, FOLDER/NAME-FINGERPRINT.beton, writing it if it is not there.

    Images that do not decode or cannot be stored are left out with `skip_corrupt`, which does not change the file's
    name: which images these are follows from the source. Without it they raise InputError naming them, also where
    another call has stored the others. Raises InputError too for a file shorter than it was written, and for a folder
    that cannot be written.
    """
    made_from = {"format": FORMAT, "fingerprint": source.fingerprint, "images": len(source.images), "side": source.side}
    if source.side is None:
        made_from |= {"max_side": storage.max_side, "jpeg_quality": storage.jpeg_quality}
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
                    noted = _write(source, path, made_from, storage)
                    is_new = True
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; --beton-dir names another folder"
            ) from None
    skipped = [Complaint(*each) for each in noted.get("skipped", [])]
    if not skipped:
        positions = np.arange(len(source.images))
        return Beton(path, source.labels, source.classes, source.side, source.identity, positions, is_new)
    if not storage.skip_corrupt:
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


def _write(source: Source, path: Path, made_from: dict, storage: Storage) -> dict:
    """Write `path` and the note beside it, which is returned; the caller holds the lock."""
    _remove_temporaries(path.parent, path.stem)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary, count = Path(name), len(source.images)
    print(f"writing {path} ({count} images)", flush=True)
    try:
        skipped = write(source, temporary, storage)
        if skipped and (not storage.skip_corrupt or len(skipped) == count):
            raise InputError(listing([c.why for c in skipped], count, "cannot be stored"))
        _sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        noted = made_from | {"bytes": path.stat().st_size, "stored": count - len(skipped), "skipped": skipped}
        temporary.write_text(json.dumps(noted, indent=1) + "\n")
        temporary.replace(path.with_suffix(".json"))
        return noted
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

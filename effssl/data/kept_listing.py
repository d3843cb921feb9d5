"""The listing of a set, kept beside what is stored of it, for --trust-store: names, labels and
classes, so that a set of millions need not be looked for again."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from effssl import InputError
from effssl.data.decode import Decoding
from effssl.data.file_paths import FilePaths, of_paths
from effssl.data.image_files import ImageFiles, describe_labels
from effssl.data.sources import Source
from effssl.run.files import atomic

_FORMAT = 1  # of the file; raise it when that changes


def keep_listing(file: Path, source: Source | None) -> None:
    """Write what was found of a split, or that there is none of it.

    Images within other files are not kept, as these are few. Where `file` cannot be written, as in
    a folder that is shared to be read, a line says so.
    """
    kept: dict[str, Any] = {"format": _FORMAT, "listed": time.strftime("%Y-%m-%d")}
    if source is not None:
        images = source.images
        if not isinstance(images, ImageFiles):
            return
        paths = images.paths
        if not isinstance(paths, FilePaths):
            plain = [path for path in paths if isinstance(path, Path)]
            if len(plain) < len(paths):
                return
            paths = of_paths(plain)
        kept |= {
            "folders": _packed(list(map(str, paths.folders))),
            "folder_of": paths.folder_of,
            "file_names": _packed(paths.names),
            "labels": source.labels,
            "classes": _packed(source.classes),
            "fingerprint": source.fingerprint,
            "identity": source.identity,
            "side": source.side or 0,
        }
        if images.names is not None:
            kept["names"] = _packed(images.names)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(file.with_suffix(".lock")),
            atomic(file) as temporary,
            temporary.open("wb") as out,
        ):
            np.savez(out, **kept)
    except (OSError, InputError) as error:
        print(f"--trust-store looks at the files again next time: {error}", flush=True)


def kept_listing(file: Path, split: str, decoding: Decoding) -> tuple[Source | None] | None:
    """Read what keep_listing wrote: (the split, or None if the set has none,), or None if nothing
    that can be read was kept."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            if kept["format"] != _FORMAT:
                return None
            if "labels" not in kept:
                return (None,)
            folders = [Path(folder) for folder in _unpacked(kept["folders"])]
            paths = FilePaths(folders, kept["folder_of"], _unpacked(kept["file_names"]))
            names = _unpacked(kept["names"]) if "names" in kept else None
            labels, classes = kept["labels"], _unpacked(kept["classes"])
            note = (
                f"{split}: {describe_labels(labels, classes)}, as of {kept['listed']}, when the "
                "files were last looked at (--trust-store)"
            )
            return (
                Source(
                    ImageFiles(paths, decoding, names),
                    labels,
                    classes,
                    str(kept["fingerprint"]),
                    str(kept["identity"]),
                    int(kept["side"]) or None,
                    [note],
                ),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or not whole
        return None


def _packed(texts: Sequence[str]) -> np.ndarray:
    """Return texts as bytes that are told apart by NUL, which no file name has."""
    return np.frombuffer(os.fsencode("".join(f"{text}\0" for text in texts)), np.uint8)


def _unpacked(packed: np.ndarray) -> list[str]:
    return os.fsdecode(packed.tobytes()).split("\0")[:-1]

"""Files that are whole or not there: written beside their name, then renamed into place."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effssl import InputError


class FileError(InputError):
    """A file cannot be written, or is damaged; the message names it."""


@contextlib.contextmanager
def atomic(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the block ends without an error.

    Whatever happens, nothing half-written stays: the temporary file is removed, and an older `path`
    is left as it was. Missing folders are made. `sync` waits until the bytes and the new name are
    on the disk, so that they survive a power cut. Raises FileError if the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with named_in_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                to_disk(temporary)
            temporary.replace(path)
            if sync:
                to_disk(path.parent)  # the rename itself
    finally:
        # It is gone after a rename, and was never there if a parent is a file.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Raise FileError, which names `path` and the reason, for an OSError in the block.

    The system's own error of a full disk names no file.
    """
    try:
        yield
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises InputError if it cannot be written.

    What is not UTF-8, as a file's name may be, is shown by its code.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, errors="backslashreplace")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all. Raises InputError if it cannot be written."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, whole or not at all. Raises InputError if it cannot be."""
    with named_in_errors(path):
        length = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a") as file:
                file.write(line + "\n")
        except OSError:
            os.truncate(path, length)  # a disk that is full has taken a part of it
            raise


def check_writable(folder: Path, flag: str) -> None:
    """Raise InputError, which begins with `flag`, if files could not be written in `folder`.

    A folder that does not exist yet is judged by the one that it would be made in. Nothing is made.
    """
    existing = nearest_existing(folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(
            f"{flag} cannot be written: {existing} is not a folder that you may write to"
        )


def nearest_existing(folder: Path) -> Path:
    """Return the folder itself, or the nearest of its parents that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk: a new name must not survive
    a crash without the bytes."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What lies in folders: links are followed, and no folder is passed over without a word."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from effssl import InputError

# What storage boxes, systems and archivers put beside people's files, in small letters.
NOT_OURS = {
    *("@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot"),
    *("~snapshot", "__macosx", "lost+found", "$recycle.bin", "recycler", "found.000"),
    "system volume information",
}


def is_read(folder_name: str) -> bool:
    """Say whether images are looked for in a folder: in none that is hidden or NOT_OURS."""
    return not folder_name.startswith(".") and folder_name.lower() not in NOT_OURS


def subfolders(folder: Path) -> list[Path]:
    """List the folders in `folder` that are read, sorted."""
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if is_read(e.name) and may_be_folder(e))


def names_in(folder: Path, unlisted: list[str]) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, and which are folders; of these those that are read.

    A folder that cannot be listed has none, and is added to `unlisted` with the reason: see
    check_listed. Raises InputError for a link to a folder that the link lies in.
    """
    names, links = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = may_be_folder(entry)
                if not is_folder or is_read(entry.name):
                    names.append((entry.name, is_folder))
                    if is_folder and entry.is_symlink():
                        links.append(folder / entry.name)
    except OSError as error:
        unlisted.append(f"{folder} ({error.strerror or error})")
        return []
    for link in links:
        _check_no_cycle(link)
    return sorted(names)


def check_listed(unlisted: list[str]) -> None:
    """Raise InputError if there were folders that could not be listed."""
    if unlisted:
        more = f" and {len(unlisted) - 1} more" if len(unlisted) > 1 else ""
        raise InputError(
            f"{unlisted[0]}{more} cannot be looked into, so images in there would be lost; make "
            "it readable or move it away"
        )


def may_be_folder(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a folder, or a link of which that cannot be told, as it may not be
    followed for example: to list it will fail."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno not in (errno.ELOOP, errno.ENOTDIR)  # these lead nowhere


def _check_no_cycle(link: Path) -> None:
    with contextlib.suppress(OSError):  # to list it will fail too
        target = link.stat()
        for folder in link.parents:
            if os.path.samestat(folder.stat(), target):
                raise InputError(
                    f"{link} is a link to {folder}, which it lies in, so images would be found "
                    "again and again; remove the link"
                )

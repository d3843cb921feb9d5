"""Files below a folder, as many as there may be: a name each, and a path when one is asked for.

A set may have a million files. A pathlib.Path takes longer to make, compare or take apart than the
system takes to tell a file's size, so what is asked of all files goes by folders and names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class FilePaths(Sequence[Path]):
    """Paths of files, in the order of their parts.

    Args:
        folders: in which files lie.
        folder_of: int [files], the folder of each.
        names: of each within its folder.
    """

    def __init__(self, folders: Sequence[Path], folder_of: np.ndarray, names: Sequence[str]):
        self.folders, self.folder_of, self.names = folders, folder_of, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, position: int) -> Path: ...
    @overload
    def __getitem__(self, position: slice) -> FilePaths: ...
    def __getitem__(self, position: int | slice) -> Path | FilePaths:
        if isinstance(position, slice):
            return FilePaths(self.folders, self.folder_of[position], self.names[position])
        return self.folders[self.folder_of[position]] / self.names[position]

    def texts(self, root: Path | None = None) -> list[str]:
        """Return the paths, or those below `root`, as texts."""
        folders = [str(f if root is None else f.relative_to(root)) for f in self.folders]
        begins = ["" if f == "." else f if f.endswith(os.sep) else f + os.sep for f in folders]
        of_file = self.folder_of.tolist()
        return [begins[i] + name for i, name in zip(of_file, self.names, strict=True)]

    def used_folders(self) -> list[Path]:
        """Return the folders in which there are files."""
        return [self.folders[number] for number in np.unique(self.folder_of).tolist()]

    def by_folder(self, number: Callable[[Path], int]) -> np.ndarray:
        """Return what `number` gives for the folder of each file, int64 [files]."""
        return np.array([number(f) for f in self.folders], np.int64)[self.folder_of]


def joined_paths(parts: Sequence[FilePaths]) -> FilePaths:
    """Return the files of all parts, in their order."""
    first = np.cumsum([0, *(len(part.folders) for part in parts)])
    return FilePaths(
        [folder for part in parts for folder in part.folders],
        np.concatenate([part.folder_of + at for part, at in zip(parts, first[:-1], strict=True)]),
        [name for part in parts for name in part.names],
    )


def of_paths(paths: Sequence[Path]) -> FilePaths:
    """Return these paths, in this order."""
    number: dict[Path, int] = {}
    folder_of = [number.setdefault(path.parent, len(number)) for path in paths]
    return FilePaths(list(number), np.array(folder_of, np.int64), [path.name for path in paths])

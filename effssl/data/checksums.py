"""Images whose bytes are not those that were stored, noticed when they are first read."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from effssl.data.beton_file import Storage, bytes_of, open_file


class Checksums:
    """The checksums of a .beton's images, and which of these have been compared.

    An image is compared once: afterwards it is read from the system's memory, at a cost in every
    pass.
    """

    def __init__(self, path: Path):
        self._expected = open_file(path).checksums
        count = 0 if self._expected is None else len(self._expected)
        self._is_new = np.ones(count, np.bool_)

    def hold(self, positions: np.ndarray, images: np.ndarray, storage: Storage) -> np.ndarray:
        """Say which images of a batch are what was stored, bool [batch]; all if that is not known.

        positions: uint64 [batch]; images: beton_file.IMAGE [batch]; storage: of the file.
        """
        hold = np.ones(len(positions), np.bool_)
        if self._expected is None:
            return hold
        for i in np.flatnonzero(self._is_new[positions]):
            hold[i] = zlib.crc32(bytes_of(images[i], storage).data) == self._expected[positions[i]]
        self._is_new[positions[hold]] = False
        return hold

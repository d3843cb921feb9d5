"""Images whose bytes are not those that were stored, noticed when they are first read."""

from __future__ import annotations

import zlib

import numpy as np

from effssl.data.beton_file import Storage, bytes_of


class Checksums:
    """The checksums of a .beton's images, and which of these have been compared.

    An image is compared when it is first read: in every pass that would cost time.

    Args:
        expected: uint32 [images]; None if they are not known.
    """

    def __init__(self, expected: np.ndarray | None):
        self._expected = expected
        self._is_new = np.ones(0 if expected is None else len(expected), np.bool_)

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

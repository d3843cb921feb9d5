"""What the numbers of stored images are, and which of them are black and white."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

KINDS = ("uint8", "uint16", "float32")  # of numbers that are stored
_WHITE = {"uint8": 255.0, "uint16": 65_535.0, "float32": 1.0}


class Values(NamedTuple):
    """The numbers of a stored set's images, which are all of one kind."""

    channels: int = 3
    kind: str = "uint8"  # of KINDS
    window: tuple[float, float] = (0.0, 255.0)  # what is seen as 0 and as 1; beyond it is clipped

    @property
    def read_as(self) -> np.dtype:
        """What loaders give: bytes as they are, others as numbers in [0, 1]."""
        return np.dtype(np.uint8 if self.kind == "uint8" else np.float32)

    def for_compiled(self) -> tuple[tuple[int, ...], tuple[np.ndarray, np.float32, np.float32]]:
        """Return an entry for each channel, and (an empty array of the kind, black, 1 / (white -
        black)): code is then compiled for this number of channels and this kind."""
        low, high = self.window
        in_numbers = np.float32(low), np.float32(1 / (high - low))
        return (0,) * self.channels, (np.empty(0, self.kind), *in_numbers)


RGB = Values()


def window_of(kind: str, given: tuple[float, float] | None) -> tuple[float, float]:
    """Return which values are black and white, where --gray-range says `given`: of bytes nothing
    else than 0 and 255."""
    return (0.0, _WHITE[kind]) if given is None or kind == "uint8" else given


def in_unit_range(pixels: np.ndarray, given: tuple[float, float] | None) -> np.ndarray:
    """Return pixels of one of KINDS as loaders give them, in [0, 1]: float64, NaN as 0."""
    low, high = window_of(str(pixels.dtype), given)
    return np.nan_to_num((pixels.astype(np.float64) - low) / (high - low)).clip(0, 1)

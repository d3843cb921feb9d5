"""A stored split compared with its images, past the loaders."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from effssl import InputError
from effssl.data.beton import Beton
from effssl.data.beton_file import RAW, bytes_of, open_file
from effssl.data.checksums import Checksums
from effssl.data.sources import Source

READ_BACK = 1_000  # images whose pixels check_beton reads at most


def check_beton(beton: Beton, source: Source) -> int:
    """Read a stored split back, past its loader, and compare it with its source.

    All labels are compared, and READ_BACK images evenly spread: their checksums must hold; raw ones
    must equal the source's, if they were not made smaller, JPEGs must decode to the size noted.
    Returns how many images' pixels were read. Raises InputError naming the file for a difference.
    """
    try:
        return _compare(beton, source)
    except InputError:  # the source's
        raise
    except Exception as error:  # damaged files make NumPy and Pillow raise nearly anything
        reason = " ".join(str(error).split())
        raise InputError(
            f"{beton.path} is damaged ({reason}); delete it to have it rewritten"
        ) from None


def _compare(beton: Beton, source: Source) -> int:
    """Do what check_beton says. Raises ValueError for a difference, and nearly anything else."""
    images, labels, storage, checksums = open_file(beton.path)
    if not np.array_equal(labels, beton.labels):
        raise ValueError("its labels are not the source's")
    rows = np.unique(np.linspace(0, len(images) - 1, READ_BACK).round().astype(int))
    hold = Checksums(checksums).hold(rows, images[rows], storage)
    for row, holds in zip(rows.tolist(), hold.tolist(), strict=True):
        shape = int(images["height"][row]), int(images["width"][row]), beton.values.channels
        stored = bytes_of(images[row], storage)
        if images["mode"][row] == RAW:
            original = source.images[int(beton.positions[row])]
            is_smaller = beton.side is None and max(shape) < max(original.shape)
            is_same = is_smaller or stored.tobytes() == original.tobytes()
        else:
            is_same = np.asarray(Image.open(io.BytesIO(stored.tobytes()))).shape == shape
        if not (holds and is_same):
            raise ValueError(f"image {row} is not what was stored")
    return len(rows)

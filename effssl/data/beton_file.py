"""The layout of a .beton, as FFCV 1.0 reads and writes it, in NumPy.

A header and what the two fields are, a row for each image, pages with the bytes of images, none of
which lies in two if it fits into one, and a table of where those of each begin and how many they
are (ffcv/types.py, writer.py and memory_allocator.py of version 1.0.2). Before the table, where
FFCV does not look, lie checksums of the images, which its format has none of.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from effssl import InputError

JPEG, RAW = 0, 1  # how an image is stored
# Bytes, powers of 2. FFCV's field for it has 32 bits, and it writes a page by a single write(2), of
# which Linux takes 2**31 - 4096 bytes at most and leaves the rest.
SMALLEST_PAGE, LARGEST_PAGE = 2**23, 2**30
_VERSION, _RGB_IMAGE, _INT = 2, 2, 1  # of the format; types of fields
_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_images", "<u8"),
        ("table", "<u8"),
    ],
    align=True,
)
_FIELD = np.dtype([("type", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
# The names are FFCV's: compiled code, which is made by types, then serves either reader.
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_ROW = np.dtype([("f0", IMAGE), ("f1", "<i8")], align=True)
_PART = np.dtype([("image", "<u8"), ("start", "<u8"), ("size", "<u8")])
_CRC32 = b"\neffssl crc32 of every image\n"  # stands behind them

# The bytes of the file, and where in it the parts that are images begin, sorted, and how long each
# is: what FFCV gives every decoder.
Storage = tuple[np.ndarray, np.ndarray, np.ndarray]


class BetonFile(NamedTuple):
    """What a .beton holds; nothing of it can be written to."""

    images: np.ndarray  # IMAGE [images]
    labels: np.ndarray  # int64 [images]
    storage: Storage
    checksums: np.ndarray | None  # uint32 [images]; None in files of before there were any


class StoredImage(NamedTuple):
    """An image as it is to lie in a .beton."""

    mode: int  # JPEG or RAW
    size: tuple[int, int]  # height and width in pixels
    content: bytes
    label: int


def open_file(path: Path) -> BetonFile:
    """Open a .beton, whose images are mapped into memory, not read. Raises InputError for a file
    that is none."""
    try:
        header = np.fromfile(path, _HEADER, 1)[0]
        fields = np.fromfile(path, _FIELD, 2, offset=_HEADER.itemsize)
        if header["version"] != _VERSION or fields["type"].tolist() != [_RGB_IMAGE, _INT]:
            raise ValueError("another format")
        count, start = int(header["num_images"]), _HEADER.itemsize + fields.nbytes
        rows = np.fromfile(path, _ROW, count, offset=start)
        table = np.fromfile(path, _PART, offset=int(header["table"]))
        if len(rows) != count or len(table) != count:
            raise ValueError("it is cut short")
        content = np.memmap(path, np.uint8, "r")
        checksums = _checksums_before(content[: int(header["table"])], count)
    except (OSError, ValueError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a .beton that can be read: {reason}") from None
    rows.setflags(write=False)
    order = np.argsort(table["start"])
    storage = content, table["start"][order], table["size"][order]
    return BetonFile(rows["f0"], rows["f1"], storage, checksums)


def bytes_of(stored: np.void, storage: Storage) -> np.ndarray:
    """Return the bytes of an image, one of BetonFile.images: uint8 [bytes]."""
    content, starts, sizes = storage
    start = int(stored["data_ptr"])
    size = int(sizes[np.searchsorted(starts, stored["data_ptr"])])
    return content.view(np.ndarray)[start : start + size]


def checksums_text(checksums: np.ndarray) -> bytes:
    """Return what lies before the table: the checksums of the images, uint32 [images], by row."""
    return checksums.astype("<u4").tobytes() + _CRC32


def _checksums_before(content: np.ndarray, count: int) -> np.ndarray | None:
    end = len(content) - len(_CRC32)
    if content[end:].tobytes() != _CRC32:
        return None
    return np.frombuffer(content[end - 4 * count : end].tobytes(), "<u4")


def num_bytes_in(path: Path) -> int:
    """Return the bytes that the images of a .beton take, without what fills up pages."""
    _, _, sizes = open_file(path).storage
    return int(sizes.sum())


def page_size_for(max_side: int) -> int:
    """Return the bytes of a page into which every RGB image fits whose longer side has `max_side`
    pixels, or else of the largest page."""
    fits = 2 ** math.ceil(math.log2(3 * max_side**2))
    return min(max(fits, SMALLEST_PAGE), LARGEST_PAGE)


def write_file(path: Path, images: Iterable[StoredImage], at_most: int, page_size: int) -> int:
    """Write images, as they come, into a .beton; room is kept for rows of `at_most`.

    An image that is larger than a page begins one and goes on behind it; FFCV minds only where it
    reads single pages, as it does not here.

    Returns how many they were. Raises OSError if the disk is full.
    """
    rows, table = np.zeros(at_most, _ROW), np.zeros(at_most, _PART)
    checksums = np.zeros(at_most, "<u4")
    count, fields = 0, _fields()
    start = at = _page_from(_HEADER.itemsize + fields.nbytes + rows.nbytes, page_size)
    with path.open("wb") as file:
        file.seek(start)
        for image in images:
            num_bytes = len(image.content)
            if at % page_size + num_bytes > page_size:  # the rest of this page stays empty
                at = _page_from(at, page_size)
                file.seek(at)
            file.write(image.content)
            height, width = image.size
            rows[count] = (image.mode, width, height, at), image.label
            table[count] = count, at, num_bytes
            checksums[count] = zlib.crc32(image.content)
            at, count = at + num_bytes, count + 1
        file.seek(_page_from(at, page_size))
        file.write(checksums_text(checksums[:count]))
        end = file.tell()
        file.write(table[:count].tobytes())
        file.seek(0)
        header = np.array((_VERSION, len(fields), page_size, count, end), _HEADER)
        file.write(header.tobytes() + fields.tobytes() + rows[:count].tobytes())
    return count


def _fields() -> np.ndarray:
    fields = np.zeros(2, _FIELD)
    for field, (kind, name) in zip(fields, ((_RGB_IMAGE, b"image"), (_INT, b"label")), strict=True):
        field["type"], field["name"][: len(name)] = kind, np.frombuffer(name, np.uint8)
    return fields


def _page_from(at: int, page_size: int) -> int:
    """Return where the first page begins that does not begin before `at`."""
    return -(-at // page_size) * page_size

"""FFCV's writer, tamed.

FFCV books a row for every image before it has seen any, and waits for ever for a worker that fails.
Here images that cannot be stored are left out and named; ffcv_workers looks after the workers.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import zlib
from collections import Counter
from pathlib import Path

import ffcv.writer
import numpy as np
from ffcv.fields import IntField, RGBImageField

from effssl import InputError
from effssl.data.beton_file import LARGEST_PAGE, checksums_text, page_size_for
from effssl.data.ffcv_workers import workers_watched
from effssl.data.sources import Source
from effssl.data.storing import Complaint, Written, has_jpegs, storable
from effssl.image_config import Storage
from effssl.run.threads import own_cores


def write(source: Source, file: Path, storage: Storage) -> Written:
    """Write the images of `source` into a .beton at `file`.

    They are stored raw if all are squares of one size, else with their longer side at most
    storage.max_side pixels, as JPEGs or, with storage.store lossless, raw.

    Raises OSError if the disk is full, InputError if a worker process dies or raw images may be too
    large for FFCV's pages; `file` is then no .beton.
    """
    side = source.side or storage.max_side
    mode = "jpg" if has_jpegs(source, storage) else "raw"
    if mode == "raw" and 3 * side**2 > LARGEST_PAGE:
        raise InputError(
            f"--max-side {side}: FFCV stores raw images of up to {math.isqrt(LARGEST_PAGE // 3)} "
            "px a side; --loader threads stores larger ones"
        )
    field = RGBImageField(mode, max_resolution=side, jpeg_quality=storage.jpeg_quality)
    page = page_size_for(side)
    noted = Path(f"{file}.tmp")
    try:
        fields = {"image": field, "label": IntField()}
        writer = _Writer(
            str(file), fields, page_size=page, num_workers=storage.workers or own_cores()
        )
        writer.noted = noted
        try:
            with workers_watched():
                writer.from_indexed_dataset(_Samples(source, storage.max_side, noted))
        except BaseException:
            # It may not have come that far.
            with contextlib.suppress(AttributeError, FileNotFoundError):
                writer.metadata_sm.close()
                writer.metadata_sm.unlink()
            raise
        return _read_notes(noted)
    finally:
        noted.unlink(missing_ok=True)


def _read_notes(file: Path) -> Written:
    """Read what the worker processes have noted: [position, why] or [position, gray_high]."""
    lines = file.read_text().splitlines() if file.exists() else []
    notes = sorted((json.loads(line) for line in lines), key=operator.itemgetter(0))
    return Written(
        left_out=[Complaint(*note) for note in notes if isinstance(note[1], str)],
        gray_highs=[note[1] for note in notes if isinstance(note[1], int)],
        kinds=Counter(uint8=1),
    )


class _Writer(ffcv.writer.DatasetWriter):
    """FFCV's writer, which here can leave images out: their rows are taken away at the end, where
    checksums of the others are added."""

    noted: Path

    def finalize(self, allocations: list[tuple[int, int, int]]) -> None:
        left_out = [complaint.position for complaint in _read_notes(self.noted).left_out]
        if left_out:
            booked = bytes(self.metadata_sm.buf)
            rows = np.frombuffer(booked, self.metadata_type, count=self.num_samples)
            kept = np.setdiff1d(np.arange(self.num_samples), left_out)
            packed = rows[kept].tobytes()
            self.metadata_sm.buf[: len(packed)] = packed
            self.header["num_samples"] = len(kept)
            row_of = {position: row for row, position in enumerate(kept.tolist())}
            allocations = [(row_of[i], ptr, size) for i, ptr, size in allocations if i in row_of]
        content, checksums = np.memmap(self.fname, np.uint8, "r"), np.zeros(len(allocations), "u4")
        for row, start, size in allocations:
            checksums[row] = zlib.crc32(content[start : start + size].data)
        with open(self.fname, "ab") as file:  # the table follows
            file.write(checksums_text(checksums))
        super().finalize(allocations)


class _Samples:
    """Pairs (image, label) for FFCV's writer.

    An image that fails is noted and replaced: an exception in one of FFCV's worker processes would
    leave the writer waiting for ever.
    """

    def __init__(self, source: Source, max_side: int, noted: Path):
        self.source, self.max_side, self.noted = source, max_side, noted

    def __len__(self) -> int:
        return len(self.source.images)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        try:
            image, gray_high = storable(self.source, position, self.max_side)
            if gray_high is not None:
                self._note(position, gray_high)
        except InputError as error:
            self._note(position, str(error))
            side = self.source.side or 8
            image = np.zeros((side, side, 3), np.uint8)
        return image, int(self.source.labels[position])

    def _note(self, position: int, content: str | int) -> None:
        with self.noted.open("a") as file:
            file.write(json.dumps([int(position), content]) + "\n")

"""FFCV's writer, tamed.

FFCV books a row for every image before it has seen any, and waits for ever for a worker that fails.
Here images that cannot be stored are left out and named; ffcv_workers looks after the workers.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
from pathlib import Path
from typing import NamedTuple

import ffcv.writer
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import encode_jpeg, resizer

from effssl import InputError
from effssl.data.ffcv_workers import workers_watched
from effssl.data.image_files import ImageFiles
from effssl.data.sources import Source
from effssl.image_config import Storage
from effssl.ranges import text_of_bytes

SAMPLED = 64  # images that stand for all in an estimate
NAMED = 20  # images that an error names at most


class Complaint(NamedTuple):
    """About an image that cannot be stored."""

    position: int  # in the source
    why: str  # names the image


class Written(NamedTuple):
    """What is known of images once they are written."""

    left_out: list[Complaint]  # by position
    gray_highs: list[int]  # see decode.Decoded


def write(source: Source, file: Path, storage: Storage) -> Written:
    """Write the images of `source` into a .beton at `file`.

    They are stored raw if all are squares of one size, else with their longer side at most
    storage.max_side pixels, as JPEGs or, with storage.store lossless, raw.

    Raises OSError if the disk is full, RuntimeError if a worker process dies; `file` is then no
    .beton.
    """
    side = source.side or storage.max_side
    if source.side is None and storage.store == "auto":
        field = RGBImageField("jpg", max_resolution=side, jpeg_quality=storage.jpeg_quality)
    else:
        field = RGBImageField("raw", max_resolution=side)
    # FFCV writes in pages, and an image has to fit into one.
    page = 2 ** max(23, math.ceil(math.log2(3 * side**2)))
    noted = Path(f"{file}.tmp")
    try:
        fields = {"image": field, "label": IntField()}
        writer = _Writer(str(file), fields, page_size=page, num_workers=storage.workers)
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


def about_bytes(source: Source, storage: Storage) -> str:
    """Say how many bytes images of varied size would take as JPEGs and without loss.

    Estimated from up to SAMPLED images, evenly spread, that decode; "" for images of one size,
    which are stored raw anyhow, and if none decodes.
    """
    if source.side is not None:
        return ""
    as_jpeg, raw = [], []
    for position in np.unique(np.linspace(0, len(source.images) - 1, SAMPLED).astype(int)).tolist():
        with contextlib.suppress(InputError):
            image = resizer(source.images[position], storage.max_side)
            as_jpeg.append(len(encode_jpeg(image, storage.jpeg_quality)))
            raw.append(image.nbytes)
    if not raw:
        return ""
    jpeg, lossless = (text_of_bytes(np.mean(each) * len(source.images)) for each in (as_jpeg, raw))
    return f"; as JPEG about {jpeg}, lossless about {lossless}"


def listing(reasons: list[str], num_images: int, what: str) -> str:
    """Return the message about images that cannot be used; a line names each of the first NAMED."""
    named = [f"\n  {reason}" for reason in reasons[:NAMED]]
    more = f"\n  and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    way_out = "; --skip-corrupt leaves them out" if len(reasons) < num_images else ""
    return f"{len(reasons)} of {num_images} images {what}{way_out}:" + "".join(named) + more


def _read_notes(file: Path) -> Written:
    """Read what the worker processes have noted: [position, why] or [position, gray_high]."""
    lines = file.read_text().splitlines() if file.exists() else []
    notes = sorted((json.loads(line) for line in lines), key=operator.itemgetter(0))
    return Written(
        left_out=[Complaint(*note) for note in notes if isinstance(note[1], str)],
        gray_highs=[note[1] for note in notes if isinstance(note[1], int)],
    )


class _Writer(ffcv.writer.DatasetWriter):
    """FFCV's writer, which here can leave images out: their rows are taken away at the end."""

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
        super().finalize(allocations)


class _Samples:
    """Pairs (image, label) for FFCV's writer.

    An image that fails is noted and replaced: an exception in one of FFCV's worker processes would
    leave the writer waiting for ever.
    """

    def __init__(self, source: Source, max_side: int, noted: Path):
        self.images, self.labels, self.side = source.images, source.labels, source.side
        self.max_side, self.noted = max_side, noted

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        try:
            image = self._image(position)
            height, width = image.shape[:2]
            name = self._name(position)
            if self.side is None and max(width, height) >= self.max_side * min(width, height):
                raise InputError(f"{name} is too narrow to store: {width}x{height}")
            if self.side is not None and (height, width) != (self.side, self.side):
                raise InputError(f"{name} is {width}x{height}, not {self.side}x{self.side} pixels")
        except InputError as error:
            self._note(position, str(error))
            image = np.zeros((self.side or 8, self.side or 8, 3), np.uint8)
        return image, int(self.labels[position])

    def _image(self, position: int) -> np.ndarray:
        if not isinstance(self.images, ImageFiles):
            return self.images[position]
        image, gray_high = self.images.decoded(position)
        if gray_high is not None:
            self._note(position, gray_high)
        return image

    def _note(self, position: int, content: str | int) -> None:
        with self.noted.open("a") as file:
            file.write(json.dumps([int(position), content]) + "\n")

    def _name(self, position: int) -> str:
        if isinstance(self.images, ImageFiles):
            return str(self.images.paths[position])
        return f"image {position}"

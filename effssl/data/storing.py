"""What is stored of an image, and what is said of those that cannot be, whoever writes them."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from effssl import InputError
from effssl.data.image_files import ImageFiles
from effssl.data.sources import Source
from effssl.image_config import Storage
from effssl.ranges import text_of_bytes

FORMAT = 2  # of what is written into a .beton; raise it when that changes
SAMPLED = 64  # images that stand for all in an estimate
NAMED = 20  # images that an error names at most
LINE_EVERY_S = 10.0  # of progress, if it is not a terminal that reads


class Complaint(NamedTuple):
    """About an image that cannot be stored."""

    position: int  # in the source
    why: str  # names the image


class Written(NamedTuple):
    """What is known of images once they are written."""

    left_out: list[Complaint]  # by position
    gray_highs: list[int]  # see decode.Decoded
    kinds: Counter[str]  # of values, one of values.KINDS -> images


def stored_from(source: Source, storage: Storage) -> dict[str, Any]:
    """Say what decides about the bytes of the file that images are stored in."""
    made_from = {
        "format": FORMAT,
        "fingerprint": source.fingerprint,
        "images": len(source.images),
        "side": source.side,
    }
    if source.side is None:
        made_from["max_side"] = storage.max_side
        is_raw = storage.store == "lossless" or storage.channels is not None
        made_from |= {"store": "raw"} if is_raw else {"jpeg_quality": storage.jpeg_quality}
    if storage.channels is not None:
        # Values are stored as they are, and the range is that of who reads them; without one it was
        # judged whether all of it is used.
        return made_from | {"channels": storage.channels, "judged": storage.gray_range is None}
    if storage.gray_range is not None:
        made_from["gray_range"] = list(storage.gray_range)
    return made_from


def storable(source: Source, position: int, max_side: int) -> tuple[np.ndarray, int | None]:
    """Return an image's pixels and its gray_high: see decode.Decoded.

    Raises InputError, which names the image, if it cannot be stored.
    """
    image, gray_high = _pixels_of(source, position)
    height, width = image.shape[:2]
    name = _name_of(source, position)
    if source.side is None and max(width, height) >= max_side * min(width, height):
        raise InputError(f"{name} is too narrow to store: {width}x{height}")
    if source.side is not None and (height, width) != (source.side, source.side):
        side = source.side
        raise InputError(f"{name} is {width}x{height}, not {side}x{side} pixels")
    return image, gray_high


def is_storable(source: Source, position: int, max_side: int) -> bool:
    """Say whether an image can be stored."""
    try:
        storable(source, position, max_side)
    except InputError:
        return False
    return True


def _pixels_of(source: Source, position: int) -> tuple[np.ndarray, int | None]:
    if not isinstance(source.images, ImageFiles):
        return source.images[position], None
    image, gray_high = source.images.decoded(position)
    return image, gray_high


def _name_of(source: Source, position: int) -> str:
    if isinstance(source.images, ImageFiles):
        return str(source.images.paths[position])
    return f"image {position}"


def has_jpegs(source: Source, storage: Storage) -> bool:
    """Say whether images are to be stored as JPEG, else raw."""
    return source.side is None and storage.store == "auto" and storage.channels is None


def smaller(image: np.ndarray, max_side: int) -> np.ndarray:
    """Make an image smaller if its longer side has more than `max_side` pixels.

    [height, width, channels] -> of the same kind, by Pillow's filter that is nearest to FFCV's
    writer, which averages areas: photographs differ by 0.2 to 0.3 of 255 on average.
    """
    height, width = image.shape[:2]
    part = max_side / max(height, width)
    if part >= 1:
        return image
    size = int(part * width), int(part * height)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.HAMMING))
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, 2, 0)]
    smaller_planes = [plane.resize(size, Image.Resampling.HAMMING) for plane in planes]
    made = np.stack([np.asarray(plane) for plane in smaller_planes], 2)
    return made if image.dtype == np.float32 else made.round().astype(image.dtype)


def as_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an image, uint8 [height, width, 3], as JPEG."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def about_bytes(source: Source, storage: Storage) -> str:
    """Say how many bytes images of varied size would take as JPEGs, if they may, and without loss.

    Estimated from up to SAMPLED images, evenly spread, that can be stored; "" for images of one
    size, which are stored raw anyhow, and if none can.
    """
    if source.side is not None:
        return ""
    jpeg_sizes, raw_sizes = [], []
    for position in np.unique(np.linspace(0, len(source.images) - 1, SAMPLED).astype(int)).tolist():
        with contextlib.suppress(InputError):
            image, _ = storable(source, position, storage.max_side)
            image = smaller(image, storage.max_side)
            if storage.channels is None:
                jpeg_sizes.append(len(as_jpeg(image, storage.jpeg_quality)))
            raw_sizes.append(image.nbytes)
    if not raw_sizes:
        return ""
    raw, *jpeg = (
        text_of_bytes(np.mean(of) * len(source.images)) for of in (raw_sizes, jpeg_sizes) if of
    )
    return f"; as JPEG about {jpeg[0]}, lossless about {raw}" if jpeg else f"; about {raw}"


def listing(reasons: list[str], num_images: int, what: str) -> str:
    """Return the message about images that cannot be used; a line names each of the first NAMED."""
    named = [f"\n  {reason}" for reason in reasons[:NAMED]]
    more = f"\n  and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    way_out = "; --skip-corrupt leaves them out" if len(reasons) < num_images else ""
    return f"{len(reasons)} of {num_images} images {what}{way_out}:" + "".join(named) + more


def progress(total: int) -> tqdm | ProgressLines:
    """Return a bar of `total` images on a terminal, lines elsewhere."""
    make = functools.partial(tqdm, unit=" images") if sys.stderr.isatty() else ProgressLines
    return make(total=total)


class ProgressLines:
    """The part of tqdm that writers use, in lines."""

    def __init__(self, total: int):
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.due = self.began + LINE_EVERY_S

    def update(self, count: int) -> None:
        """Count images that are written, and say so if a line is due."""
        self.done += count
        now = time.monotonic()
        if now >= self.due:
            self.due = now + LINE_EVERY_S
            rate = self.done / (now - self.began)
            left_s = (self.total - self.done) / rate
            of_all = f"{self.done} of {self.total} images"
            print(f"  {of_all}, {rate:.0f}/s, {left_s:.0f} s left", flush=True)

    def close(self) -> None:
        """End, as a bar does."""

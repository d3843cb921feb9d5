"""Images on their way to the backbone: files read in threads, or a stored split."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from effssl import InputError
from effssl.data.decode import Decoding
from effssl.data.image_files import ImageFiles
from effssl.data.values import in_unit_range
from effssl.views.decode_crops import central_part
from effssl.views.stream import ViewStream

# ([batch, height, width, channels] on the device, bytes or float32 in [0, 1]; positions int64)
Batches = Generator[tuple[Tensor, np.ndarray], None, None]


class Findings(NamedTuple):
    """What reading images shows of them; it fills as batches are taken."""

    undecoded: list[tuple[int, str]]  # (position, why)
    gray_highs: list[int]  # see decode.Decoded
    has_range: bool  # a range says what is black and white in gray


class ImageBatches(NamedTuple):
    """Images in batches, and what is known of them; a position counts in `names`."""

    names: Sequence[str]
    labels: np.ndarray  # int64 [images], -1 if there is none
    classes: list[str]
    batches: Batches
    findings: Findings


class OtherSideError(Exception):
    """An image is not a square of the side that the others have."""


def read_files(
    files: ImageFiles,
    side: int | None,
    canvas: tuple[int, int],
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    findings: Findings,
) -> Batches:
    """Read files ahead of the backbone, in their order.

    Threads do it, as images are read once: a PNG of 32 px takes 0.11 ms of a core, in a
    DataLoader's processes 0.14, stored and read by FFCV 0.35; a JPEG of 96 px 0.25, 0.48 and 2.9
    (two cores).

    Args:
        files: the images.
        side: the side in pixels of images that are squares of one size, which are taken as they
            are; None for images of varied size, whose central parts are taken.
        canvas: height and width, whose shape these parts have and which they are resized to.
        batch_size: images a batch; those that do not decode are missing in theirs.
        workers: threads.
        device: where the batches go.
        findings: takes what is found.

    Raises:
        OtherSideError: if an image is not a square of `side`.
    """

    def load(positions: range) -> tuple[Tensor, np.ndarray]:
        parts, decoded = [], []
        for position in positions:
            try:
                image, gray_high = files.decoded(position)
            except InputError as error:
                findings.undecoded.append((position, str(error)))
                continue
            if gray_high is not None:
                findings.gray_highs.append(gray_high)
            if side is not None and image.shape[:2] != (side, side):
                raise OtherSideError
            image = _as_read(image, files.decoding)
            parts.append(image if side is not None else central_part(image, canvas))
            decoded.append(position)
        nothing = np.zeros((0, *canvas, files.decoding.channels or 3), np.uint8)
        pixels = torch.from_numpy(np.stack(parts) if parts else _as_read(nothing, files.decoding))
        return pixels.to(device), np.array(decoded, dtype=np.int64)

    pool = ThreadPoolExecutor(workers, "load")
    pending: deque[Future] = deque()
    try:
        for start in range(0, len(files), batch_size):
            pending.append(pool.submit(load, range(start, min(start + batch_size, len(files)))))
            if len(pending) > workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _as_read(pixels: np.ndarray, decoding: Decoding) -> np.ndarray:
    """Return pixels as loaders give them: what --channels keeps as float32 in [0, 1]."""
    if not decoding.has_arrays:
        return pixels
    return in_unit_range(pixels, decoding.gray_range).astype(np.float32)


def read_stored(stream: ViewStream) -> Batches:
    """Read all images of a stream's split, in their order."""
    every = np.arange(len(stream.stored.labels))
    with closing(stream.load_clean(every)) as batches:
        for pixels, positions in batches:
            yield pixels, positions.cpu().numpy()

"""Batches of pixels read without FFCV: JPEGs decoded by Pillow in threads, the rest as with it."""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numba
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effssl import InputError
from effssl.data.beton_file import JPEG, RAW, BetonFile, Storage, bytes_of, open_file
from effssl.data.checksums import Checksums
from effssl.data.pixels import Decoder, raise_if_damaged

AHEAD = 3  # batches that are read before they are asked for, as by FFCV
PART = 16  # images whose pixels are held at a time

A = TypeVar("A")
B = TypeVar("B")


def open_passes(
    path: Path, batch_size: int, workers: int, decoder: Decoder
) -> Callable[[np.ndarray], Generator[Tensor, None, None]]:
    """Open a .beton for any number of passes, one at a time: see loader.open_loader.

    Raises InputError for a file that is no .beton.
    """
    file = open_file(path)
    checksums = Checksums(file.checksums)
    try:
        shape = decoder.shape_of(file.images)
    except ValueError as error:
        raise InputError(f"{path} is not a .beton that can be read: {error}") from None
    num_threads = min(workers, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    has_jpegs = bool((file.images["mode"] == JPEG).any())
    # One is with who asked, one is being made, the others are waiting.
    kind, whole = decoder.values.read_as, (batch_size, *shape)
    buffers = itertools.cycle([np.empty(whole, kind) for _ in range(AHEAD + 2)])
    # They are kept for all passes: OpenMP's threads of a thread that ends are a leak. One thread
    # makes the batches, one after the other.
    thread = ThreadPoolExecutor(1, "read", numba.set_num_threads, (num_threads,))
    pool = ThreadPoolExecutor(num_threads, "decode")

    def batches(positions: np.ndarray) -> Generator[Tensor, None, None]:
        ahead_of_use = ahead(pool, lambda at: decode_stored(file, at), positions, 2 * PART)
        with closing(ahead_of_use) as decoded:
            for start in range(0, len(positions), batch_size):
                of_batch = positions[start : start + batch_size]
                out = next(buffers)[: len(of_batch)]
                step = PART if has_jpegs else batch_size
                for begin in range(0, len(of_batch), step):
                    part = slice(begin, begin + step)
                    at = of_batch[part]
                    images, storage = file.images[at], file.storage
                    raise_if_damaged(checksums.hold(at, images, storage), at)
                    if has_jpegs:
                        images, storage = as_raw(images, list(itertools.islice(decoded, len(at))))
                    raise_if_damaged(decoder.read(at, out[part], images, storage), at)
                yield torch.from_numpy(out)

    def read(positions: np.ndarray) -> Generator[Tensor, None, None]:
        source = batches(positions)
        pending = deque(thread.submit(next, source, None) for _ in range(AHEAD))
        try:
            while (batch := pending.popleft().result()) is not None:
                pending.append(thread.submit(next, source, None))
                yield batch
        finally:
            for each in pending:
                each.cancel()
            thread.submit(source.close).result()

    return read


def ahead(
    pool: Executor, function: Callable[[A], B], items: Iterable[A], count: int
) -> Generator[B, None, None]:
    """Yield function(item) of each item, in order, with up to `count` at work before they are asked
    for. Closed early, it waits for those that are at work."""
    waiting = iter(items)
    pending: deque[Future[B]] = deque(
        pool.submit(function, item) for item in itertools.islice(waiting, count)
    )
    try:
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
            yield result
    finally:
        for each in pending:
            each.cancel()
        wait(pending)


def decode_stored(file: BetonFile, position: int) -> np.ndarray:
    """Return the pixels of a stored image, uint8 [bytes]; none if it does not decode."""
    stored = file.images[position]
    of_image = bytes_of(stored, file.storage)
    if stored["mode"] == RAW:
        return of_image
    try:
        with Image.open(io.BytesIO(of_image.data)) as image:
            return np.asarray(image.convert("RGB")).reshape(-1)
    except Exception:  # Pillow raises nearly anything for damaged files
        return np.empty(0, np.uint8)


def as_raw(images: np.ndarray, decoded: list[np.ndarray]) -> tuple[np.ndarray, Storage]:
    """Return images, beton_file.IMAGE [images], and their pixels as if they were stored raw."""
    sizes = np.array([len(pixels) for pixels in decoded], np.uint64)
    starts = np.cumsum(sizes) - sizes
    content = np.concatenate(decoded)
    content.setflags(write=False)  # as a file's is: compiled code serves both
    images = images.copy()
    images["mode"], images["data_ptr"] = RAW, starts
    return images, (content, starts, sizes)

"""Stored images -> batches of pixels on the device, in an order that the caller chooses.

FFCV reads them, or, where it cannot be had, threads of this process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from effssl import InputError
from effssl.data.ffcv_setup import WHY_NOT
from effssl.data.pixels import DamagedImage, Decoder
from effssl.ranges import LoaderName
from effssl.run import distributed
from effssl.run.files import FileError

Reader = Literal["ffcv", "threads"]


class Loader(NamedTuple):
    """A stored split, to be read any number of times, one at a time."""

    path: Path
    # positions uint64 [n] -> what the decoder makes of the images there, in that order: its
    # values.read_as [batch, ...] on the CPU, each for as long as no further one is asked for
    read: Callable[[np.ndarray], Generator[Tensor, None, None]]
    name_of: Callable[[int], str]  # position -> what an error calls the image there


@functools.cache
def reader_of(loader: LoaderName) -> Reader:
    """Return what reads and writes stored images, and say so if `auto` finds no FFCV.

    Raises InputError if it is to be FFCV, and that cannot be imported.
    """
    if loader == "ffcv" and WHY_NOT is not None:
        raise InputError(
            f"--loader ffcv: FFCV cannot be imported: {WHY_NOT}; --loader threads does without"
        )
    if loader == "auto" and WHY_NOT is not None and distributed.is_first():
        slower = "threads read the images, JPEGs at about 0.8 of the speed"  # docs/measurements.md
        print(f"FFCV cannot be imported ({WHY_NOT}): {slower}", flush=True)
    if loader == "auto":
        return "ffcv" if WHY_NOT is None else "threads"
    return loader


def open_loader(
    path: Path,
    batch_size: int,
    workers: int,
    decoder: Decoder,
    reader: Reader = "ffcv",
    name_of: Callable[[int], str] = "image {}".format,
) -> Loader:
    """Open a .beton for any number of passes, one at a time.

    decoder: what makes pixels of stored images, made for this loader alone. name_of: see Loader.
    Raises InputError for a file that cannot be read.
    """
    if reader == "ffcv":
        from effssl.data import ffcv_loader

        return Loader(path, ffcv_loader.open_passes(path, batch_size, workers, decoder), name_of)
    from effssl.data import thread_loader

    return Loader(path, thread_loader.open_passes(path, batch_size, workers, decoder), name_of)


def read_batches(
    loader: Loader, positions: np.ndarray, device: torch.device
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Make one pass over the images at `positions`, in that order.

    Yields (what the loader's decoder makes of the images, [batch, ...], their positions int64
    [batch]) on the device; the last batch may be smaller. Closing the generator ends the threads
    that read. Raises FileError naming an image that is damaged; any other error in these threads
    is raised here as RuntimeError.
    """
    if len(positions) == 0:
        return
    copies = torch.cuda.Stream(device) if device.type == "cuda" else None
    start = 0
    with closing(loader.read(positions.astype(np.uint64))) as batches:
        while (pixels := _next(batches, loader)) is not None:
            at = torch.from_numpy(positions[start : start + len(pixels)].astype(np.int64))
            start += len(pixels)
            yield _copied(pixels, device, copies), _copied(at, device, copies)
    if start != len(positions):
        raise RuntimeError(f"{start} of {len(positions)} images of {loader.path} were read")


def _next(batches: Generator[Tensor, None, None], loader: Loader) -> Tensor | None:
    """Return the next batch, None at the end. What goes wrong is raised with the file's name."""
    try:
        return next(batches, None)
    except DamagedImage as error:
        why = f"{loader.name_of(error.row)} is not what was stored"
        raise FileError(
            f"{loader.path} is damaged ({why}); delete it to have it rewritten"
        ) from None
    except Exception as error:
        raise RuntimeError(f"reading {loader.path} failed: {error!r}") from error


def _copied(x: Tensor, device: torch.device, copies: torch.cuda.Stream | None) -> Tensor:
    """Copy to the device, on a CPU too, and return when that is done: see Loader.

    On a GPU the copy has a stream of its own: in the stream that computes it would wait for all
    that is queued there, such as the last step.
    """
    if copies is None:
        return x.to(device, copy=True)
    with torch.cuda.stream(copies):
        copied = x.to(device, non_blocking=True)
    copies.synchronize()
    copied.record_stream(
        torch.cuda.current_stream(device)
    )  # its memory is that stream's to use, too
    return copied

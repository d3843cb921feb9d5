"""FFCV -> batches of uint8 images on the device, in an order that the caller chooses."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from queue import Empty

import numba
import numpy as np
import torch
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.compiler import Compiler
from ffcv.transforms import ToTensor
from torch import Tensor

from effssl import InputError


def open_loader(
    path: Path, batch_size: int, workers: int, decoder: SimpleRGBImageDecoder
) -> Loader:
    """Open a .beton for any number of passes, one at a time.

    decoder: what makes pixels of stored images, made for this loader alone, such as
    ffcv_decoders.WholeImageDecoder. FFCV compiles nothing: its own decoders work, but are slow.
    Raises InputError for a file that FFCV cannot read.
    """
    num_cores = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # those that we may use
    Compiler.set_enabled(False)
    try:
        return Loader(
            str(path),
            batch_size=batch_size,
            num_workers=min(workers, num_cores),
            pipelines={"image": [decoder, ToTensor()], "label": None},
            drop_last=False,
        )
    except (AssertionError, ValueError, IndexError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a .beton that can be read: {reason}") from None
    finally:
        Compiler.set_enabled(True)


def read_batches(
    loader: Loader, positions: np.ndarray, device: torch.device
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Make one pass over the images at `positions`, in that order.

    Yields (what the loader's decoder makes of the images, uint8 [batch, ...], their positions int64
    [batch]) on the device; the last batch may be smaller. Closing the generator ends FFCV's thread.
    An error in that thread is raised here.
    """
    if len(positions) == 0:
        return
    source = _WatchedIterator(loader, positions.astype(np.uint64))
    copies = torch.cuda.Stream(device) if device.type == "cuda" else None
    try:
        start = 0
        for (images,) in source:
            at = torch.from_numpy(positions[start : start + len(images)].astype(np.int64))
            start += len(images)
            yield _copied(images, device, copies), _copied(at, device, copies)
        if start != len(positions):
            raise RuntimeError(f"FFCV gave {start} of {len(positions)} images of {loader.fname}")
    finally:
        source.stop()


def _copied(x: Tensor, device: torch.device, copies: torch.cuda.Stream | None) -> Tensor:
    """Copy to the device, and return when that is done, as FFCV reuses its buffers (on a CPU too).

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


class _WatchedIterator(EpochIterator):
    """FFCV's thread of one pass, in our order; its failure is raised instead of waited for."""

    failure: BaseException | None = None

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:  # it is raised again in the consumer's thread
            self.failure = error

    def __next__(self):
        while True:
            alive = (
                self.is_alive()
            )  # before looking into the queue, so that a last batch is not missed
            try:
                result = self.output_queue.get(timeout=0.2)
                break
            except Empty:
                if not alive:
                    raise RuntimeError(
                        f"reading {self.loader.fname} failed: {self.failure!r}"
                    ) from self.failure
        if result is None:
            self.close()
            raise StopIteration
        return result[1]

    def stop(self) -> None:
        """End the thread, which looks at the event only while the queue is full."""
        self.iter_ixes = iter(())
        self.terminate_event.set()
        while self.is_alive():
            try:
                self.output_queue.get_nowait()
            except Empty:
                self.join(timeout=0.05)
        self.close()

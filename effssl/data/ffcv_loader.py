"""FFCV -> batches of uint8 images on the device, in an order that the caller chooses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import numba
import numpy as np
import torch
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.transforms import ToTensor

from effssl import InputError
from effssl.views.decode_crops import MultiViewDecoder


def open_loader(
    path: Path, batch_size: int, workers: int, canvas: int | None, crops: MultiViewDecoder | None = None
) -> Loader:
    """Compile the reading of a .beton; one loader serves any number of passes, one at a time.

    canvas: None for images of one size, which are read as they are; else images are decoded once each and their
    central square is resized to this side.
    crops: for images of varied size, in place of `canvas`: random crops are cut of each; made for this loader alone.
    Raises InputError for a file that FFCV cannot read.
    """
    if crops is not None:
        decoder: SimpleRGBImageDecoder = crops
    elif canvas is not None:
        decoder = CenterCropRGBImageDecoder((canvas, canvas), ratio=1.0)
    else:
        decoder = SimpleRGBImageDecoder()
    try:
        return Loader(
            str(path),
            batch_size=batch_size,
            num_workers=min(workers, numba.config.NUMBA_NUM_THREADS),  # type: ignore[attr-defined]  # cores we may use
            pipelines={"image": [decoder, ToTensor()], "label": None},
            drop_last=False,
        )
    except (AssertionError, ValueError, IndexError, OSError, TypeError) as error:
        raise InputError(f"{path} is not a .beton that can be read: {' '.join(str(error).split())}") from None


def batches(
    loader: Loader, order: np.ndarray, device: torch.device, *, epoch: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over the images at the positions `order`, in that order; `epoch` is that of random crops.

    Yields (images uint8 [batch, height, width, 3], or [batch, views, size, size, 3] of random crops, positions int64
    [batch]) on the device; the last batch may be smaller. Closing the generator ends FFCV's thread. An error in that
    thread is raised here.
    """
    if len(order) == 0:
        return
    decoder = loader.pipeline_specs["image"].decoder
    if isinstance(decoder, MultiViewDecoder):
        decoder.epoch = epoch
    source = _WatchedIterator(loader, order.astype(np.uint64))
    copies = torch.cuda.Stream(device) if device.type == "cuda" else None
    try:
        start = 0
        for (images,) in source:
            positions = torch.from_numpy(order[start : start + len(images)].astype(np.int64))
            start += len(images)
            yield _copied(images, device, copies), _copied(positions, device, copies)
        if start != len(order):
            raise RuntimeError(f"FFCV delivered {start} of {len(order)} images of {loader.fname}")
    finally:
        source.stop()


def _copied(x: torch.Tensor, device: torch.device, copies: torch.cuda.Stream | None) -> torch.Tensor:
    """On the device, and whole before this returns, as FFCV reuses its buffers (on a CPU too). On a GPU through a
    stream of its own: a copy in the stream that computes would wait for all that is queued there, such as the last
    step."""
    if copies is None:
        return x.to(device, copy=True)
    with torch.cuda.stream(copies):
        copied = x.to(device, non_blocking=True)
    copies.synchronize()
    copied.record_stream(torch.cuda.current_stream(device))  # its memory is that stream's to use, too
    return copied


class _WatchedIterator(EpochIterator):
    """FFCV's thread of one pass, in our own order; its failure reaches the consumer instead of hanging it."""

    failure: BaseException | None = None

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:  # it is raised again in the consumer's thread
            self.failure = error

    def __next__(self):
        while True:
            alive = self.is_alive()  # before looking into the queue, so that a last batch is not missed
            try:
                result = self.output_queue.get(timeout=0.2)
                break
            except Empty:
                if not alive:
                    raise RuntimeError(f"reading {self.loader.fname} failed: {self.failure!r}") from self.failure
        if result is None:
            self.close()
            raise StopIteration
        return result[1]

    def stop(self) -> None:
        """End the thread: it looks at the event only while the queue is full, so leave it nothing to wait for."""
        self.iter_ixes = iter(())
        self.terminate_event.set()
        while self.is_alive():
            try:
                self.output_queue.get_nowait()
            except Empty:
                self.join(timeout=0.05)
        self.close()

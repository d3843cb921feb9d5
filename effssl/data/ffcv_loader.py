"""Batches of pixels read by FFCV, in an order that the caller chooses."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Empty

import numba
import numpy as np
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.transforms import ToTensor
from torch import Tensor

from effssl import InputError
from effssl.data.beton_file import open_file
from effssl.data.checksums import Checksums
from effssl.data.pixels import Decoder, raise_if_damaged

Pass = Callable[[np.ndarray], Generator[Tensor, None, None]]


def open_passes(path: Path, batch_size: int, workers: int, decoder: Decoder) -> Pass:
    """Open a .beton for any number of passes, one at a time: see loader.open_loader.

    Raises InputError for a file that FFCV cannot read.
    """
    loader = _open(path, batch_size, workers, decoder)

    def read(positions: np.ndarray) -> Generator[Tensor, None, None]:
        source = _WatchedIterator(loader, positions)
        try:
            for (pixels,) in source:
                # FFCV uses its buffers again, for what it reads next.
                yield pixels
        finally:
            source.stop()

    return read


def _open(path: Path, batch_size: int, workers: int, decoder: Decoder) -> Loader:
    """Open a .beton by FFCV, which compiles nothing: its own decoders would work, but slowly."""
    num_cores = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # those that we may use
    num_threads = min(workers, num_cores)
    # FFCV has a thread for each pass, and keeps 10 KB for every thread that ever decoded a JPEG.
    thread = ThreadPoolExecutor(1, "read", numba.set_num_threads, (num_threads,))
    checksums = Checksums(open_file(path).checksums)
    Compiler.set_enabled(False)
    try:
        return Loader(
            str(path),
            batch_size=batch_size,
            num_workers=num_threads,
            pipelines={
                "image": [_FfcvDecoder(decoder, checksums, thread), ToTensor()],
                "label": None,
            },
            drop_last=False,
        )
    except (AssertionError, ValueError, IndexError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a .beton that can be read: {reason}") from None
    finally:
        Compiler.set_enabled(True)


class _FfcvDecoder(SimpleRGBImageDecoder):  # FFCV takes no other class for an image's decoder
    """A decoder of ours behind FFCV's interface."""

    def __init__(self, decoder: Decoder, checksums: Checksums, thread: Executor):
        super().__init__()
        self._decoder, self._checksums, self._thread = decoder, checksums, thread

    def declare_state_and_memory(self, previous_state):
        """Tell FFCV what comes out."""
        shape, kind = self._decoder.shape_of(self.metadata), self._decoder.values.read_as
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=kind)
        return state, AllocationQuery(shape, kind)

    def generate_code(self) -> Callable:
        """Give FFCV the function that reads a batch."""

        def read(positions, out, images, storage):
            of_batch = images[positions]
            raise_if_damaged(self._checksums.hold(positions, of_batch, storage), positions)
            raise_if_damaged(self._decoder.read(positions, out, of_batch, storage), positions)
            return out

        return lambda *arguments: self._thread.submit(read, *arguments).result()


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
                    assert self.failure is not None  # else it has put an end into the queue
                    raise self.failure from None
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

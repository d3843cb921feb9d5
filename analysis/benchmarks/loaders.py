"""K views of the images of a set through effssl's stream, for the benchmark of loading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.benchmarks.cases import COLOUR, CROPS, Case, Pass, chosen_positions
from effssl.data.beton import Beton
from effssl.data.loader import Loader, Reader, open_loader, read_batches
from effssl.data.pixels import WholeImageDecoder
from effssl.run.device import Runtime, open_runtime
from effssl.views.decode_crops import CentralCropDecoder
from effssl.views.stream import ViewStream


def effssl_views(case: Case, device: str, reader: Reader = "ffcv") -> Pass:
    """Return passes through effssl's stream, as training uses it; without views through the loader
    alone."""
    chosen, runtime = chosen_positions(case), open_runtime(device)

    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).permutation(chosen)

    if case.views == 0:
        loader = _loader_of_images(case, reader)
        return lambda epoch: (len(x) for x, _ in read_batches(loader, order(epoch), runtime.device))
    stream = open_stream(case, runtime, reader)
    return lambda epoch: (len(x.flatten(0, 1)) for (x,), _ in stream.epoch(order(epoch), epoch))


def open_stream(case: Case, runtime: Runtime, reader: Reader = "ffcv") -> ViewStream:
    """Return the stream that training uses."""
    augment = COLOUR if case.colour else CROPS
    stored = Beton(
        path=case.beton,
        labels=np.zeros(case.total, np.int64),
        classes=[],
        side=case.side,
        identity="",
        positions=np.arange(case.total),
        is_new=False,
        reader=reader,
    )
    return ViewStream(
        stored,
        replace(augment, views=case.views, image_size=case.size),
        seed=0,
        batch_size=case.batch,
        workers=case.workers,
        runtime=runtime,
    )


def _loader_of_images(case: Case, reader: Reader) -> Loader:
    """Return a loader of whole images of one size, or of the central squares of others."""
    is_raw, square = case.side is not None, (case.size, case.size)
    decoder = WholeImageDecoder() if is_raw else CentralCropDecoder(square)
    return open_loader(case.beton, case.batch, case.workers, decoder, reader)

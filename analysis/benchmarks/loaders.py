"""K views of the images of a set through effssl's stream, for the benchmark of loading."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from analysis.benchmarks.cases import COLOUR, Case, Pass, chosen_positions
from effssl.data.beton import Beton
from effssl.data.ffcv_decoders import WholeImageDecoder
from effssl.data.ffcv_loader import Loader, open_loader, read_batches
from effssl.run.device import Runtime
from effssl.views.assemble import views_of_images
from effssl.views.counters import uniform
from effssl.views.decode_crops import CentralCropDecoder, crops_of_groups
from effssl.views.draws import draw_colours, draw_crops, draw_flips
from effssl.views.stream import ViewStream


def effssl_views(case: Case, device: str) -> Pass:
    """Return passes through effssl: with all augmentations its stream, as training uses it; crops
    alone as its loader cuts them, or with colours as they are; without views the loader alone."""
    chosen, where = chosen_positions(case), torch.device(device)

    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).permutation(chosen)

    if case.views == 0:
        loader = _loader_of_images(case)
        return lambda epoch: (len(x) for x, _ in read_batches(loader, order(epoch), where))
    stream = open_stream(case, where)
    if case.colour:
        return lambda epoch: (len(x.flatten(0, 1)) for (x,), _ in stream.epoch(order(epoch), epoch))

    def crops(epoch: int) -> Iterator[int]:
        for pixels, positions in stream.load(order(epoch), epoch):
            yield len(_crops(case, pixels, positions, epoch).flatten(0, 1))

    return crops


def open_stream(case: Case, device: torch.device) -> ViewStream:
    """Return the stream that training uses."""
    return _open_stream(case._replace(colour=False), Runtime(device))


@functools.lru_cache(maxsize=1)  # for both kinds of augmentation: compiling it takes seconds
def _open_stream(case: Case, runtime: Runtime) -> ViewStream:
    augment = replace(COLOUR, views=case.views, image_size=case.size)
    stored = Beton(
        path=case.beton,
        labels=np.zeros(case.total, np.int64),
        classes=[],
        side=case.side,
        identity="",
        positions=np.arange(case.total),
        is_new=False,
    )
    return ViewStream(
        stored,
        augment,
        seed=0,
        batch_size=case.batch,
        workers=case.workers,
        runtime=runtime,
    )


def _loader_of_images(case: Case) -> Loader:
    """Return a loader of whole images of one size, or of the central squares of others."""
    is_raw, square = case.side is not None, (case.size, case.size)
    decoder = WholeImageDecoder() if is_raw else CentralCropDecoder(square)
    return open_loader(case.beton, case.batch, case.workers, decoder)


def _crops(case: Case, pixels: torch.Tensor, positions: torch.Tensor, epoch: int) -> torch.Tensor:
    """Return the crops [views, batch, ...] of what the stream loaded."""
    if case.side is None:
        (cut,) = crops_of_groups(pixels, (replace(COLOUR, views=case.views, image_size=case.size),))
        return cut.transpose(0, 1)  # by the loader
    plain = replace(COLOUR, image_size=case.size, hflip_prob=0.0, jitter_prob=0.0, gray_prob=0.0)
    numbers = uniform(positions, num_views=case.views, seed=0, epoch=epoch)
    crops = draw_crops(numbers, plain, stored=(case.side, case.side))
    flips, colours = draw_flips(numbers, plain), draw_colours(numbers, plain)
    return views_of_images(pixels, crops, flips, colours, plain)

"""Stored images -> views: ViewStream, which training, evaluation, pictures and benchmarks share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from effssl.data.beton import Beton
from effssl.data.loader import Loader, open_loader, read_batches
from effssl.data.pixels import Decoder, WholeImageDecoder
from effssl.image_config import Augment
from effssl.ranges import ImageSize, height_width
from effssl.run.device import Runtime
from effssl.run.threads import loading_threads
from effssl.views.assemble import clean_view, views_of_crops, views_of_images
from effssl.views.counters import NUM_SLOTS, uniform
from effssl.views.decode_crops import CentralCropDecoder, MultiViewDecoder, crops_of_groups
from effssl.views.draws import draw_colours, draw_crops
from effssl.views.own_transform import transformed
from effssl.views.rand_augment import NUMBERS, rand_augmented
from effssl.views.shape_draws import draw_flips, draw_shapes

CLEAN_BATCH = 256  # clean views made at a time, unless a stream is told otherwise
_CANVAS = 1.5  # size of what clean views of JPEGs are made of, as a multiple of a view's


class ViewStream:
    """The views of a stored split's images.

    Images of one size are read whole and cropped on the device. Of images of varied size, which are
    stored as JPEG, each is decoded once, and its crops are cut there.

    Args:
        stored: the split.
        augment: how views are made, and how many.
        seed: what the views are drawn from, with epoch and position; nothing else moves them.
        batch_size: images in a batch of `epoch`.
        workers: threads that load; None for as many as suit the device.
        runtime: where views are made, and whether that is compiled.
        progress: bars, if stderr is a terminal.
        small: how a second group of views is made, which are of another size (see sizes.py).
        clean_batch_size: images in a batch of `clean`.

    Its loaders are kept, so a stream serves any number of passes, one of each kind at a time.
    """

    def __init__(
        self,
        stored: Beton,
        augment: Augment,
        *,
        seed: int,
        batch_size: int,
        clean_batch_size: int = CLEAN_BATCH,
        workers: int | None,
        runtime: Runtime,
        progress: bool = False,
        small: Augment | None = None,
    ):
        self.stored, self.augment, self.runtime = stored, augment, runtime
        self._small = () if small is None else (small,)
        self.batch_size, self._clean_batch_size = batch_size, clean_batch_size
        self._seed, self._workers, self._progress = seed, workers, progress
        self._assemble = views_of_crops if stored.side is None else views_of_images
        fast = torch.compile(self._assemble, dynamic=False) if runtime.compile else self._assemble
        self._assemble_fast = fast

    def with_views(
        self, augment: Augment, *, seed: int | None = None, batch_size: int | None = None
    ) -> ViewStream:
        """Return a stream of the same images with other views; None keeps what this one has."""
        return ViewStream(
            self.stored,
            augment,
            seed=self._seed if seed is None else seed,
            batch_size=batch_size or self.batch_size,
            clean_batch_size=self._clean_batch_size,
            workers=self._workers,
            runtime=self.runtime,
            progress=self._progress,
        )

    def epoch(
        self, positions: np.ndarray, epoch: int, *, size: ImageSize | None = None
    ) -> Generator[tuple[list[Tensor], Tensor], None, None]:
        """Make augmented views of the images at `positions`, in that order.

        size: of the first group's views, at most what its Augment says; None is just that.
        Yields (for each group its views, float32 [views, batch, c, h, w], normalised; positions
        int64 [batch]) on the device; the last batch may be smaller.
        """
        batches = self.load(positions, epoch, size=size)
        with closing(batches), self._bar(len(positions)) as bar:
            for pixels, at in batches:
                yield self.make_views(pixels, at, epoch, size=size), at
                bar.update(len(at))

    def load(
        self, positions: np.ndarray, epoch: int, *, size: ImageSize | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Read what the views of an epoch are made of: the first half of `epoch`.

        It stands by itself for benchmarks, which time the halves apart.

        Yields (pixels, positions int64 [batch]) on the device: images of one size whole, [batch,
        height, width, channels]; of images of varied size all their crops one after the other, as
        decode_crops.py has them, [batch, numbers]. Pixels are bytes, or float32 in [0, 1].
        """
        if self.stored.side is None:
            self._crop_decoder.next_pass(epoch, self.augment.image_size if size is None else size)
        yield from read_batches(self._crop_loader, positions, self.runtime.device)

    def clean(
        self, positions: np.ndarray, *, size: ImageSize | None = None
    ) -> Generator[Tensor, None, None]:
        """Make one clean view of each image at `positions`, in that order.

        size: of the views, in pixels; None is that of the augmented ones.
        Yields float32 [batch, c, h, w], normalised, on the device: the image's largest central part
        that has the view's shape, resized.
        """
        augment = self.augment if size is None else replace(self.augment, image_size=size)
        with closing(self.load_clean(positions)) as batches, self._bar(len(positions)) as bar:
            for pixels, at in batches:
                yield clean_view(pixels, augment)
                bar.update(len(at))

    def load_clean(self, positions: np.ndarray) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Read what clean views are made of: the first half of `clean`, for callers that time it.

        Yields ([batch, height, width, channels], positions int64 [batch]) on the device: images of
        one size whole; of images of varied size their central parts.
        """
        yield from read_batches(self._clean_loader, positions, self.runtime.device)

    def make_views(
        self, pixels: Tensor, positions: Tensor, epoch: int, *, size: ImageSize | None = None
    ) -> list[Tensor]:
        """Make a batch's views of what `load` gave for that size: see `epoch`."""
        groups, side = self._groups(size), self.stored.side
        num_views = [group.views for group in groups]
        operations = self.augment.rand_augment[0] if self.augment.rand_augment else 0
        numbers = uniform(
            positions,
            num_views=sum(num_views),
            seed=self._seed,
            epoch=epoch,
            further=NUMBERS * operations,
        )
        of_groups = [pixels] * len(groups) if side else crops_of_groups(pixels, groups)
        # A batch of another size would make torch.compile compile again, for this size too.
        is_whole = len(positions) == self.batch_size
        assemble: Callable[..., Tensor] = self._assemble_fast if is_whole else self._assemble
        views = []
        for group, of_group, u in zip(groups, of_groups, numbers.split(num_views), strict=True):
            draws: list[Any] = [draw_flips(u, group), draw_colours(u, group)]
            if side is not None:  # else the crops are cut already
                draws.insert(0, draw_crops(u, group, stored=(side, side)))
            made = assemble(of_group, *draws, group, draw_shapes(u, group))
            if group.rand_augment is not None:
                made = rand_augmented(made, u[..., NUM_SLOTS:], group)
            if group.transform is not None:
                made = transformed(made, group, int(u.view(torch.int32).sum(dtype=torch.int64)))
            views.append(made)
        return views

    def _groups(self, size: ImageSize | None = None) -> tuple[Augment, ...]:
        """Say how the views of each group are made, those of the first in this size."""
        first = self.augment if size is None else replace(self.augment, image_size=size)
        return first, *self._small

    @functools.cached_property
    def _crop_decoder(self) -> MultiViewDecoder:
        return MultiViewDecoder(self._groups(), self._seed, self.stored.values)

    @functools.cached_property
    def _crop_loader(self) -> Loader:
        whole = WholeImageDecoder(self.stored.values)
        decoder = self._crop_decoder if self.stored.side is None else whole
        return self._open(decoder, self.batch_size)

    @functools.cached_property
    def _clean_loader(self) -> Loader:
        values, canvas = self.stored.values, canvas_of(self.augment.image_size)
        is_whole = self.stored.side is not None
        decoder = WholeImageDecoder(values) if is_whole else CentralCropDecoder(canvas, values)
        return self._open(decoder, self._clean_batch_size)

    def _open(self, decoder: Decoder, batch_size: int) -> Loader:
        path, reader, name_of = self.stored.path, self.stored.reader, self.stored.name_of
        workers = self._workers or loading_threads(self.runtime.device.type)
        return open_loader(path, batch_size, workers, decoder, reader, name_of)

    def _bar(self, num_images: int) -> tqdm:
        is_off = None if self._progress else True  # None: off unless stderr is a terminal
        return tqdm(total=num_images, unit="image", delay=2, leave=False, disable=is_off)


def canvas_of(size: ImageSize) -> tuple[int, int]:
    """Return height and width, in pixels, of the central parts that JPEGs' clean views are made of.

    size: of the views.
    """
    height, width = height_width(size)
    return round(_CANVAS * height), round(_CANVAS * width)

"""Representations of images, with their names and labels."""

from __future__ import annotations

import time
from contextlib import closing
from typing import NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from effssl import InputError
from effssl.data.decode import judge_gray
from effssl.data.storing import listing
from effssl.embed.images import ImageBatches
from effssl.evaluation.encode import encode
from effssl.image_config import Augment
from effssl.models import representation_dim
from effssl.run.device import Runtime
from effssl.views.assemble import clean_view


class Embedded(NamedTuple):
    """Representations of images, in the order of their names."""

    names: list[str]  # path below the folder; split/number if the set has no files
    representations: np.ndarray  # float32 [images, dim]
    labels: np.ndarray  # int64 [images], -1 if there is none
    classes: list[str]
    skipped: list[str]  # why each image that was left out was
    notes: list[str]  # what is to be said to the user: these reasons, and what else was found
    seconds: float  # from the first look at the images to the last representation
    loader_share: float  # part of these seconds that was spent waiting for images, in [0, 1]

    @property
    def images_per_s(self) -> float:
        """Images that were encoded in a second."""
        return len(self.names) / self.seconds


def represent(
    backbone: nn.Module,
    images: ImageBatches,
    augment: Augment,
    runtime: Runtime,
    *,
    began: float,
    skip_corrupt: bool,
) -> Embedded:
    """Encode the clean view of every image.

    Args:
        backbone: the model, on the runtime's device; its modules stay in the modes they are in.
        images: what to encode.
        augment: how clean views are made.
        runtime: where the backbone runs, and in what precision.
        began: time.monotonic() at the first look at the images, from which seconds count.
        skip_corrupt: leave out images that do not decode, unless none does.

    Raises:
        InputError: for images that do not decode, naming them, and for 16-bit gray that is black.
    """
    num_images = len(images.names)
    h = np.zeros((num_images, representation_dim(backbone)), np.float32)
    waited_s = time.monotonic() - began
    with closing(images.batches), tqdm(total=num_images, unit=" images", disable=None) as bar:
        while True:
            asked = time.monotonic()
            batch = next(images.batches, None)
            waited_s += time.monotonic() - asked
            if batch is None:
                break
            pixels, positions = batch
            bar.update(len(positions))
            will_fail = images.findings.undecoded and not skip_corrupt
            if len(positions) == 0 or will_fail:  # then only look for more that do not decode
                continue
            h[positions] = encode(backbone, [clean_view(pixels, augment)], runtime).cpu().numpy()
    seconds = time.monotonic() - began
    undecoded = sorted(images.findings.undecoded)
    reasons = [why for _, why in undecoded]
    if undecoded and (not skip_corrupt or len(undecoded) == num_images):
        raise InputError(listing(reasons, num_images, "do not decode"))
    _, gray_highs, has_range = images.findings
    about_gray = judge_gray(gray_highs, has_range=has_range)
    kept = np.setdiff1d(np.arange(num_images), [position for position, _ in undecoded])
    names = [images.names[position] for position in kept]
    labels = images.labels[kept]
    share = waited_s / seconds
    notes = [f"left out: {why}" for why in reasons] + ([about_gray] if about_gray else [])
    return Embedded(names, h[kept], labels, images.classes, reasons, notes, seconds, share)

"""Digits, and streams of their views."""

from __future__ import annotations

import pytest
import torch

from effssl.data.stored import open_data
from effssl.evaluation.encode import crops_and_flips
from effssl.image_config import Augment, Images
from effssl.run.device import Runtime
from effssl.views.stream import ViewStream

CPU = Runtime(torch.device("cpu"))
AUGMENT = Augment(
    image_size=8,
    crop_scale=(0.5, 1.0),
    hflip_prob=0.0,
    mean=(0.3, 0.3, 0.3),
    std=(0.35, 0.35, 0.35),
)


@pytest.fixture(scope="session")
def digits(digits_dir):
    """(data, a stream of train's views, clean views of train at positions as a list of batches)."""
    data = open_data(Images(data_dir=digits_dir))
    augment = crops_and_flips(AUGMENT, views=1)
    stream = ViewStream(data.train, augment, seed=0, batch_size=64, workers=2, runtime=CPU)
    return data, stream, lambda positions: list(stream.clean(positions))

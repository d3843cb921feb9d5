"""Augmented views with labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from effssl import InputError
from effssl.data.beton import ensure_beton
from effssl.data.sources import open_source
from effssl.data.splits import epoch_order
from effssl.evaluation.encode import crops_and_flips
from effssl.evaluation.labelled_views import even_batch_size, labelled_views
from effssl.image_config import Augment, Storage
from effssl.run.device import Runtime
from effssl.views.stream import ViewStream
from tests.conftest import write_class_folders

pytestmark = pytest.mark.slow

STRONG = Augment(
    views=3, image_size=8, crop_scale=(0.5, 1.0), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)
WHOLE = replace(
    crops_and_flips(STRONG, views=1), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), hflip_prob=0.0
)


def stream_of(beton, augment, *, batch_size, seed=0) -> ViewStream:
    runtime = Runtime(torch.device("cpu"))
    return ViewStream(beton, augment, seed=seed, batch_size=batch_size, workers=2, runtime=runtime)


@pytest.mark.parametrize(
    ("count", "at_most", "size"), [(450, 256, 225), (451, 256, 225), (10, 3, 2), (9, 64, 9)]
)
def test_even_batches_leave_out_fewer_images_than_there_are_batches(count, at_most, size):
    assert even_batch_size(count, at_most) == size
    assert count - count // size * size < -(-count // at_most)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """24 images of 12 px, and the same in various sizes, of two classes of different shades."""
    stored = []
    for name in ("same", "varied"):
        root = tmp_path_factory.mktemp(name)
        write_class_folders(root / "train", per_class=12)
        if name == "varied":
            for i, path in enumerate(sorted(root.rglob("*.png"))):
                Image.open(path).resize((20 + i % 5, 24)).save(path)
        stored.append(
            ensure_beton(open_source("folder", root, "train"), root / "beton", name, Storage())
        )
    return stored


def test_views_are_those_of_pretraining_with_the_labels_of_their_images(squares):
    beton, positions = squares[0], np.arange(1, 24)
    stream = stream_of(beton, replace(WHOLE, image_size=12), batch_size=5, seed=3)
    made = labelled_views(stream, positions, seed=3)
    assert made.steps_per_epoch == 4
    source = open_source("folder", beton.path.parents[1], "train")
    for epoch in range(2):
        order = epoch_order(positions, 3, epoch)[:20]
        for i, (x, y) in enumerate(made.epoch(epoch)):
            at = order[5 * i : 5 * i + 5]
            assert x.shape == (1, 5, 3, 12, 12)
            pixels = (
                torch.from_numpy(np.stack([source.images[p] for p in at])).permute(0, 3, 1, 2) / 255
            )
            torch.testing.assert_close(x[0], pixels, rtol=0, atol=1e-5)
            assert y.tolist() == beton.labels[at].tolist()
    strong = stream_of(beton, STRONG, batch_size=5, seed=3)
    x, _ = next(labelled_views(strong, positions, seed=3).epoch(1))
    (expected,), _ = next(strong.epoch(epoch_order(positions, 3, 1), 1))
    assert torch.equal(x, expected)


def test_views_grow_by_the_step_and_keep_their_images(squares):
    stream = stream_of(squares[0], replace(WHOLE, image_size=12), batch_size=5)
    positions, order = np.arange(24), epoch_order(np.arange(24), 0, 1)
    made = labelled_views(stream, positions, seed=0, size_of=lambda step: 8 if step < 6 else 12)
    batches = list(made.epoch(1))  # steps 4 to 7
    assert [x.shape[-1] for x, _ in batches] == [8, 8, 12, 12]
    labels = torch.cat([y for _, y in batches])
    assert labels.tolist() == squares[0].labels[order[:20]].tolist()


@pytest.mark.slow
def test_views_of_images_of_varied_size_have_the_labels_of_their_images_too(squares):
    stream = stream_of(squares[1], replace(WHOLE, views=2), batch_size=6)
    made = labelled_views(stream, np.arange(24), seed=0)
    passes = [list(made.epoch(epoch)) for epoch in (0, 0, 1)]
    for batches in passes:
        x, y = torch.cat([x for x, _ in batches], 1), torch.cat([y for _, y in batches])
        assert x.shape == (2, 24, 3, 8, 8)
        shade = x.mean((0, 2, 3, 4))  # 64 and 124 of 255 on average
        assert y.tolist() == (shade > 94 / 255).long().tolist()
        assert y.sum() == 12
    assert all(
        torch.equal(a, b)
        for one, two in zip(*passes[:2], strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(passes[0][0][0], passes[2][0][0])


def test_images_without_a_label_are_left_out(squares):
    labels = squares[0].labels.copy()
    labels[::3] = -1
    stream = stream_of(squares[0]._replace(labels=labels), WHOLE, batch_size=4)
    made = labelled_views(stream, np.arange(24), seed=0)
    assert made.steps_per_epoch == 4
    assert sorted(torch.cat([y for _, y in made.epoch(0)]).tolist()) == sorted(
        labels[labels >= 0].tolist()
    )


def test_a_batch_larger_than_the_set_is_refused(squares):
    with pytest.raises(InputError, match="a batch of 7 is larger than the set: 6 labelled images"):
        labelled_views(stream_of(squares[0], WHOLE, batch_size=7), np.arange(6), seed=0)

"""One object makes views: the same whatever the batch, the workers, and who asks."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from effssl.data.beton import Beton, ensure_beton
from effssl.data.sources import open_source
from effssl.image_config import Augment, Storage
from effssl.ranges import height_width
from effssl.run.device import Runtime
from effssl.views import assemble
from effssl.views.counters import uniform
from effssl.views.draws import draw_colours, draw_crops
from effssl.views.shape_draws import draw_flips
from effssl.views.stream import ViewStream, canvas_of

pytestmark = pytest.mark.slow

COUNT, SIDE = 20, 24
AUGMENT = Augment(views=3, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CPU = Runtime(torch.device("cpu"))


def write_images(folder, sides) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i, (height, width) in enumerate(sides):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(folder / f"{i:02}.png")


def store(root, sides) -> Beton:
    write_images(root / "images", sides)
    return ensure_beton(open_source("folder", root / "images", "train"), root, "x", Storage())


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Beton:
    """Images of one size, stored raw."""
    return store(tmp_path_factory.mktemp("squares"), [(SIDE, SIDE)] * COUNT)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Beton:
    """Images of varied size, stored as JPEG."""
    return store(tmp_path_factory.mktemp("photographs"), [(40 + i, 60 - i) for i in range(COUNT)])


def stream_of(
    stored, *, augment=AUGMENT, batch_size=8, workers=2, seed=3, runtime=CPU, small=None
) -> ViewStream:
    return ViewStream(
        stored,
        augment,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        runtime=runtime,
        small=small,
    )


def views_of(stream, positions, epoch=5) -> torch.Tensor:
    """[views, images, 3, size, size], in the order of the positions."""
    batches = list(stream.epoch(positions, epoch))
    assert torch.equal(torch.cat([at for _, at in batches]), torch.from_numpy(positions))
    return torch.cat([x for (x,), _ in batches], 1)


def test_views_of_squares_are_drawn_and_put_together(squares):
    positions = np.random.default_rng(1).permutation(COUNT)
    actual = views_of(stream_of(squares), positions)
    assert actual.shape == (3, COUNT, 3, 16, 16) and actual.dtype == torch.float32
    images = open_source("folder", squares.path.parent / "images", "train").images
    whole = torch.from_numpy(np.stack([images[i] for i in positions]))
    numbers = uniform(torch.from_numpy(positions), num_views=3, seed=3, epoch=5)
    crops = draw_crops(numbers, AUGMENT, stored=(SIDE, SIDE))
    draws = crops, draw_flips(numbers, AUGMENT), draw_colours(numbers, AUGMENT)
    torch.testing.assert_close(actual, assemble.views_of_images(whole, *draws, AUGMENT))


@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_views_depend_on_seed_epoch_and_position_alone(kind, request):
    stored, positions = request.getfixturevalue(kind), np.arange(COUNT)
    expected = views_of(stream_of(stored), positions)
    order = np.random.default_rng(0).permutation(COUNT)
    other = views_of(stream_of(stored, batch_size=7, workers=1), order)
    torch.testing.assert_close(other[:, torch.from_numpy(np.argsort(order))], expected)
    more = views_of(stream_of(stored, augment=replace(AUGMENT, views=5)), positions)
    torch.testing.assert_close(more[:3], expected)
    for changed in (
        views_of(stream_of(stored), positions, epoch=6),
        views_of(stream_of(stored, seed=4), positions),
    ):
        assert (changed != expected).flatten(2).any(2).all()


@pytest.mark.parametrize("size", [16, (16, 28), (28, 16)])
@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_clean_views_are_the_images_resized(kind, size, request):
    stored, augment = request.getfixturevalue(kind), replace(AUGMENT, image_size=size)
    positions = np.array([4, 0, 19])
    (actual,) = stream_of(stored, augment=augment).clean(positions)
    images = open_source("folder", stored.path.parent / "images", "train").images
    for x, position in zip(actual, positions, strict=True):
        whole = torch.from_numpy(np.array(images[position]))
        expected = assemble.clean_view(whole[None], augment)[0]
        assert x.shape == (3, *height_width(size))
        # JPEG, and resizing twice by way of a canvas, move pixels a little.
        bound = 1e-5 if kind == "squares" else 0.5
        assert (x - expected).abs().max() <= bound


def test_other_views_of_the_same_images(squares):
    stream = stream_of(squares)
    other = stream.with_views(replace(AUGMENT, views=2, image_size=8), seed=9, batch_size=5)
    batches = [x.shape for (x,), _ in other.epoch(np.arange(COUNT), 0)]
    assert batches == [(2, 5, 3, 8, 8)] * 4
    expected = stream_of(squares, augment=other.augment, seed=9)
    torch.testing.assert_close(views_of(other, np.arange(4)), views_of(expected, np.arange(4)))
    assert stream.with_views(AUGMENT).batch_size == 8


@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_small_views_are_further_views_of_the_same_images(kind, request):
    """They are drawn as views 3 and 4 of their own recipe would be; the others stay as they are."""
    stored, positions = request.getfixturevalue(kind), np.arange(COUNT)
    small = replace(AUGMENT, views=2, image_size=8, crop_scale=(0.1, 0.4))
    batches = list(stream_of(stored, small=small).epoch(positions, 5))
    full, of_small = (torch.cat(views, 1) for views in zip(*(x for x, _ in batches), strict=True))
    assert of_small.shape == (2, COUNT, 3, 8, 8)
    assert torch.equal(full, views_of(stream_of(stored), positions))
    five = views_of(stream_of(stored, augment=replace(small, views=5)), positions)
    assert torch.equal(of_small, five[3:])


@pytest.mark.parametrize("size", [8, (10, 16)])
@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_a_pass_may_have_smaller_views_and_the_next_one_the_whole_again(kind, size, request):
    stored, positions = request.getfixturevalue(kind), np.arange(COUNT)
    small = replace(AUGMENT, views=1, image_size=9)
    stream = stream_of(stored, small=small)
    whole = [x for x, _ in stream.epoch(positions, 5)]
    smaller = [x for x, _ in stream.epoch(positions, 5, size=size)]
    again = [x for x, _ in stream.epoch(positions, 5)]
    expected = views_of(stream_of(stored, augment=replace(AUGMENT, image_size=size)), positions)
    assert torch.equal(torch.cat([first for first, _ in smaller], 1), expected)
    for (first, second), (first_again, second_again), (_, beside) in zip(
        whole, again, smaller, strict=True
    ):
        assert torch.equal(first, first_again) and torch.equal(second, second_again)
        assert torch.equal(second, beside)


def test_no_images_are_no_batches(squares):
    stream = stream_of(squares)
    none = np.zeros(0, np.int64)
    assert list(stream.epoch(none, 0)) == list(stream.clean(none)) == []


def test_compiled_views_are_the_same_and_the_last_batch_too(squares, monkeypatch):
    """Without the minute of a C++ compiler, which tests/test_device.py takes."""
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    compiled = stream_of(squares, runtime=replace(CPU, compile=True))
    torch.testing.assert_close(
        views_of(compiled, np.arange(COUNT)),
        views_of(stream_of(squares), np.arange(COUNT)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_canvas_is_larger_than_a_view():
    assert canvas_of(32) == (48, 48)
    assert canvas_of((24, 40)) == (36, 60)

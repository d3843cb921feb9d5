"""What compiled loops make on a CPU is what the operations of ops.py make, one by one and all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from effssl.ranges import height_width
from effssl.views import assemble, cpu_views, ops
from effssl.views.draws import ColourDraws, CropDraws
from tests.views.test_draws import draw
from tests.views.test_ops import random_images, settings

AS_IT_IS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
NEUTRAL |= {"hue": 0.0, "gray": False, "blur_sigma": 0.0, "solarize": False}


def smooth_images(batch, height, width):
    """Images of all brightnesses, of which parts are black, white, gray and of equal channels."""
    coarse = F.resize(random_images(batch, 6, 5).permute(0, 3, 1, 2), [height, width])
    images = coarse.permute(0, 2, 3, 1).contiguous()
    part = max(1, height // 6)
    images[:, :part], images[:, part : 2 * part] = 0, 255
    images[:, 2 * part : 3 * part, :, 1:] = images[:, 2 * part : 3 * part, :, :1]
    images[:, 3 * part : 4 * part, :, 1] = images[:, 3 * part : 4 * part, :, 0]
    images[:, 4 * part : 5 * part, :, 2] = images[:, 4 * part : 5 * part, :, 1]
    return images


def by_torch(images, crops, flips, colours, augment):
    x = ops.resized_crop(images, crops, flips, augment.image_size)
    return ops.recoloured(x.flatten(0, 1), colours, augment).view_as(x)


def whole(images, num_views=1):
    zero = torch.zeros(num_views, len(images))
    return CropDraws(zero, zero, zero + images.shape[1], zero + images.shape[2])


def changed(shape, **values) -> ColourDraws:
    """Draws that are the same for all views."""
    return ColourDraws(**{k: torch.full(shape, v) for k, v in (NEUTRAL | values).items()})


def assert_near(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


EACH = [{}, {"gray": True}, {"solarize": True}]
EACH += [{name: f} for name in ("brightness", "contrast", "saturation") for f in (0.0, 0.3, 2.5)]
EACH += [{"hue": turns} for turns in (-0.5, -0.2, 1e-4, 0.1, 0.5)]
EACH += [{"blur_sigma": sigma} for sigma in (0.05, 0.1, 0.7, 2.0, 50.0)]
EACH += [{"brightness": 0.7, "contrast": 1.4, "saturation": 0.0, "hue": 0.5, "blur_sigma": 1.0}]
EACH += [{"brightness": 1.4, "hue": -0.5, "gray": True, "solarize": True}]


@pytest.mark.parametrize("values", EACH, ids=str)
@pytest.mark.parametrize("size", [32, (33, 71)])  # one tile, and several; kernels of 3 pixels
def test_each_operation_is_that_of_ops(size, values):
    images, augment = smooth_images(3, *height_width(size)), settings(size, **AS_IT_IS)
    flips = torch.tensor([[False, True, False]])
    drawn = whole(images), flips, changed((1, 3), **values)
    actual = cpu_views.views_on_cpu(images[:, None], *drawn, augment)
    assert_near(actual, by_torch(images, *drawn, augment))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    ("stored", "size"),
    [
        ((32, 32), 32),
        ((31, 47), (17, 29)),
        ((9, 7), 40),
        ((100, 60), 8),
        ((1, 1), 8),
        ((96, 96), 96),
    ],
)
def test_all_operations_together_are_those_of_ops(stored, size, batch, views):
    images, augment = smooth_images(batch, *stored), settings(size, **AS_IT_IS, views=views)
    changes = {"stored": stored, "views": views, "image_size": size, "crop_scale": (0.01, 1.0)}
    drawn = draw(batch, **changes, hue=0.5, solarize_prob=0.5)
    actual = assemble.views_of_images(images, drawn.crops, drawn.flips, drawn.colours, augment)
    assert actual.shape == (views, batch, 3, *height_width(size))
    assert_near(actual, by_torch(images, drawn.crops, drawn.flips, drawn.colours, augment))


def test_large_kernels_blur_as_those_of_ops():
    images, augment = random_images(2, 240, 224), settings((240, 224), **AS_IT_IS)
    colours = changed((1, 2))._replace(blur_sigma=torch.tensor([[1.3, 7.0]]))
    drawn = whole(images), torch.zeros(1, 2, dtype=torch.bool), colours
    assert_near(
        assemble.views_of_images(images, *drawn, augment), by_torch(images, *drawn, augment)
    )


def test_operations_that_are_left_out_change_nothing():
    images, augment = random_images(4, 24, 24), settings(24, **AS_IT_IS)
    flips = torch.zeros(1, 4, dtype=torch.bool)
    neutral = changed((1, 4))
    left_out = neutral._replace(hue=None, gray=None, blur_sigma=None, solarize=None)
    a, b = (
        assemble.views_of_images(images, whole(images), flips, c, augment)
        for c in (neutral, left_out)
    )
    assert torch.equal(a, b)
    assert_near(a[0], images.permute(0, 3, 1, 2).float() / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("stored", "size"), [((48, 64), 32), ((200, 160), (24, 31)), ((16, 20), 48)]
)
def test_crops_are_torchvisions(stored, size):
    images, augment = random_images(4, *stored), settings(size, **AS_IT_IS)
    crops, flips, _ = draw(4, stored=stored, views=3, crop_scale=(0.01, 1.0))
    actual = assemble.views_of_images(images, crops, flips, changed((3, 4)), augment)
    for view, image in np.ndindex(3, 4):
        pixels = images[image].permute(2, 0, 1).float() / 255
        crop = (int(p[view, image]) for p in crops)
        expected = F.resized_crop(pixels, *crop, [*height_width(size)], antialias=True)
        is_flipped = flips[view, image]
        assert_near(actual[view, image], F.hflip(expected) if is_flipped else expected)


@pytest.mark.parametrize("size", [8, (24, 41)])
def test_crops_already_cut_are_recoloured_as_by_ops(size):
    side, augment = height_width(size), settings(size, **AS_IT_IS)
    crops = smooth_images(15, *side).unflatten(0, (5, 3))  # [batch, views, h, w, 3]
    _, flips, colours = draw(5, views=3, image_size=size)
    pixels = crops.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2)
    expected = ops.recoloured(ops.flipped(pixels, flips.flatten()), colours, augment)
    actual = assemble.views_of_crops(crops, flips, colours, augment)
    assert_near(actual.flatten(0, 1), expected)
    spread = torch.stack([crops, crops])[0::2].transpose(1, 2).contiguous().transpose(1, 2)[0]
    assert not spread.is_contiguous()
    assert torch.equal(assemble.views_of_crops(spread, flips, colours, augment), actual)


def views_of(images, drawn, augment, pick=slice(None)):
    crops = CropDraws(*(d[:, pick] for d in drawn.crops))
    colours = drawn.colours.map(lambda d: d[:, pick])
    return assemble.views_of_images(images[pick], crops, drawn.flips[:, pick], colours, augment)


def test_views_are_the_same_bits_for_any_threads_and_batch():
    images, augment = random_images(11, 40, 40), settings(24)
    drawn = draw(11, stored=(40, 40), views=3, image_size=24)
    num_threads, alone = torch.get_num_threads(), None
    try:
        for threads in (1, 2, 3, 50):
            torch.set_num_threads(threads)
            views = views_of(images, drawn, augment)
            alone = views if alone is None else alone
            assert torch.equal(views, alone)
    finally:
        torch.set_num_threads(num_threads)
    pick = torch.tensor([7, 2])
    assert torch.equal(views_of(images, drawn, augment, pick), alone[:, pick])
    assert views_of(images, drawn, augment, slice(0, 0)).shape == (3, 0, 3, 24, 24)


def test_threads_that_make_views_at_once_do_not_disturb_each_other():
    images, augment = random_images(6, 40, 40), settings(24)
    drawn = draw(6, stored=(40, 40), views=2, image_size=24)
    expected = views_of(images, drawn, augment)
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda _: views_of(images, drawn, augment), range(12)))
    assert all(torch.equal(views, expected) for views in made)


@pytest.mark.parametrize(("channels", "kind"), [(1, "bytes"), (5, "floats")])  # compiled for each
def test_any_number_of_channels_is_that_of_ops(channels, kind):
    """Brightness, contrast, blur and solarisation, of each view by other numbers."""
    rng = np.random.default_rng(channels)
    images = torch.from_numpy(rng.integers(0, 256, (5, 40, 33, channels), dtype=np.uint8))
    images = images if kind == "bytes" else images.float().square() / 255**2
    looks = {"mean": tuple(rng.random(channels)), "std": tuple(0.1 + rng.random(channels))}
    off = {"hue": 0.0, "saturation": 0.0, "gray_prob": 0.0}
    how = {"views": 3, "image_size": (24, 31), "blur_prob": 0.5, "solarize_prob": 0.3} | off
    drawn, augment = draw(5, stored=(40, 33), **how), settings((24, 31), **looks, **off)
    actual = cpu_views.views_on_cpu(images[:, None], *drawn, augment)
    assert actual.shape == (3, 5, channels, 24, 31)
    assert_near(actual, by_torch(images, *drawn, augment), atol=2e-5)

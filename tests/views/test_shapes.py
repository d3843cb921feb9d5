"""Turns, warps and erased rectangles: what is drawn, torchvision's result, and one on all paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
import torchvision.transforms.v2 as tv
import torchvision.transforms.v2.functional as F
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from effssl import InputError, cli
from effssl.views import assemble, shape_ops
from effssl.views.counters import QUARTERS, uniform
from effssl.views.draws import draw_colours, draw_crops
from effssl.views.shape_draws import UNSHAPED, draw_flips, draw_shapes, warps
from tests.views.test_ops import NEUTRAL, assert_near, random_floats, random_images, settings

AS_IT_IS = NEUTRAL | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
ALL = {
    "hflip_prob": 0.5,
    "vflip_prob": 0.5,
    "quarter_turns": True,
    "rotate": 30.0,
    "shear": 10.0,
    "affine_scale": (0.7, 1.5),
    "erase_prob": 0.5,
}


def numbers_of(n, views=2, seed=3):
    return uniform(torch.arange(n), num_views=views, seed=seed, epoch=1)


def views_of(images, augment, *, compiled=False):
    """All views of images: by loops, or by the operations of GPUs."""
    u = numbers_of(len(images), augment.views)
    crops = draw_crops(u, augment, stored=tuple(images.shape[1:3]))
    drawn = draw_flips(u, augment), draw_colours(u, augment), augment, draw_shapes(u, augment)
    with pytest.MonkeyPatch.context() as patch:
        if compiled:
            patch.setattr(assemble, "_is_for_loops", lambda pixels: False)
        return assemble.views_of_images(images, crops, *drawn)


def test_left_out_all_is_none():
    assert draw_shapes(numbers_of(5), settings(16)) == UNSHAPED


def test_each_of_the_eight_ways_to_lie_is_as_likely_and_is_numpys():
    augment = settings(16, **AS_IT_IS | {"hflip_prob": 0.5, "quarter_turns": True})
    images = random_images(1, 16, 16).expand(800, -1, -1, -1)
    views = views_of(images, augment).flatten(0, 1)
    image = images[0].permute(2, 0, 1).numpy() / np.float32(255)
    ways = [np.rot90(m, k, (1, 2)) for m in (image, image[..., ::-1]) for k in range(4)]
    which = [[np.allclose(view, way, atol=1e-6) for way in ways] for view in views.numpy()]
    assert (np.sum(which, 1) == 1).all()
    assert stats.chisquare(np.sum(which, 0)).pvalue > 1e-3


def test_quarters_and_flips_compose_as_numpys():
    """Of the same numbers: with quarter turns a view is what it was without, turned."""
    augment = settings(16, **AS_IT_IS | {"hflip_prob": 0.5, "vflip_prob": 0.5})
    turning = settings(16, **AS_IT_IS | {"hflip_prob": 0.5, "vflip_prob": 0.5}, quarter_turns=True)
    images = random_images(40, 16, 16)
    before, after = views_of(images, augment), views_of(images, turning)
    quarters = (4 * numbers_of(40)[..., QUARTERS]).int()
    assert set(quarters.flatten().tolist()) == {0, 1, 2, 3}
    for view, image in np.ndindex(2, 40):
        turned = np.rot90(before[view, image].numpy(), int(quarters[view, image]), (1, 2))
        np.testing.assert_array_equal(after[view, image].numpy(), turned)


@pytest.mark.parametrize("angle", [-170, -30, 0, 15, 90])
@pytest.mark.parametrize(("scale", "shear"), [(1.0, (0, 0)), (1.7, (20, -10)), (0.8, (5, 30))])
def test_a_warp_is_torchvisions_where_that_has_pixels(angle, scale, shear):
    x = random_floats(1, 3, 40, 56)
    radians = [torch.tensor([math.radians(a)]) for a in (angle, *shear)]
    m = warps(radians[0], torch.tensor([scale]), *radians[1:])
    actual = shape_ops.warped(x, m)
    how = {"interpolation": F.InterpolationMode.BILINEAR, "translate": [0, 0], "scale": scale}
    given = {"angle": angle, "shear": list(map(float, shear))} | how
    expected = F.affine(x, **given)
    inside = F.affine(torch.ones_like(x), **given) > 1 - 1e-5
    assert inside.float().mean() > 0.2
    assert_near(actual[inside], expected[inside], atol=1e-4)


@pytest.mark.parametrize("size", [16, (24, 41)])
def test_loops_and_operations_of_gpus_agree(size):
    changes = ALL | ({} if size == 16 else {"quarter_turns": False})
    augment = settings(size, **changes, views=3)
    images = random_images(9, 50, 61)
    assert_near(views_of(images, augment), views_of(images, augment, compiled=True), atol=2e-4)


def test_crops_that_are_cut_already_are_turned_as_whole_images():
    augment = settings(16, **NEUTRAL | ALL, views=1)
    crops = random_images(30, 16, 16)
    u = numbers_of(30, 1)
    drawn = draw_flips(u, augment), draw_colours(u, augment), augment, draw_shapes(u, augment)
    expected = views_of(crops, augment)
    assert torch.equal(assemble.views_of_crops(crops[:, None], *drawn), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "_is_for_loops", lambda pixels: False)
        assert_near(assemble.views_of_crops(crops[:, None], *drawn), expected, atol=2e-4)


class NothingNew(TorchDispatchMode):
    """Lets no tensor be made of numbers in Python, which a GPU would be waited for to take."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


def test_a_warp_takes_no_numbers_to_the_device_again():
    x, matrices = random_floats(2, 3, 9, 15), torch.eye(2).expand(2, 2, 2)
    first = shape_ops.warped(x, matrices)
    with NothingNew():
        assert torch.equal(shape_ops.warped(x, matrices), first)


def test_beyond_the_border_a_view_is_reflected():
    """Magnified by a third, an image is its own mirror images side by side."""
    x = random_floats(2, 3, 9, 15)
    m = warps(*(torch.full((2,), v) for v in (0.0, 1 / 3, 0.0, 0.0)))
    padded = nnf.pad(x, (15, 15, 9, 9), mode="constant")
    padded[..., :9, :], padded[..., 18:, :] = padded[..., 9:18, :].flip(-2), 0
    padded[..., 18:, :] = padded[..., 9:18, :].flip(-2)
    padded[..., :15], padded[..., 30:] = padded[..., 15:30].flip(-1), padded[..., 15:30].flip(-1)
    assert_near(shape_ops.warped(x, m), padded[..., 1::3, 1::3], atol=1e-5)


def test_what_is_drawn_has_the_ranges_that_are_asked():
    augment = settings(32, rotate=20.0, shear=5.0, affine_scale=(0.5, 2.0), erase_prob=0.4)
    shapes = draw_shapes(numbers_of(20_000, 1), augment)
    inverse = torch.linalg.inv(shapes.warp.double())
    scale = torch.linalg.det(inverse).sqrt()
    assert 0.49 < scale.min() < 0.52 and 1.95 < scale.max() < 2.05
    angle = torch.atan2(inverse[..., 1, 0], inverse[..., 0, 0]).rad2deg()
    assert 24 < angle.max() < 26 and -26 < angle.min() < -24  # with the shear's 5 degrees
    top, left, height, width = shapes.erase.unbind(-1)
    erased = height > 0
    assert erased.float().mean() == pytest.approx(0.4, abs=0.02)
    assert ((top + height <= 32) & (left + width <= 32) & (top >= 0) & (left >= 0)).all()
    area = (height * width)[erased] / 32**2
    assert 0.01 < area.min() < 0.03 and 0.3 < area.max() < 0.36


def test_areas_are_erased_as_by_torchvision():
    augment = settings(64, erase_prob=1.0)
    ours = draw_shapes(numbers_of(4000, 1), augment).erase[0, :, 2:].prod(-1)
    torch.manual_seed(0)
    image = torch.ones(1, 64, 64)
    theirs = [(tv.RandomErasing(1.0)(image) == 0).sum() for _ in range(4000)]
    assert stats.ks_2samp(ours.numpy(), np.array(theirs)).pvalue > 1e-3


def test_erased_is_the_mean_colour_and_nothing_else_changes():
    plain, erasing = settings(16, **NEUTRAL), settings(16, **NEUTRAL, erase_prob=0.5)
    images = random_images(20, 16, 16)
    before, after = views_of(images, plain), views_of(images, erasing)
    top, left, height, width = draw_shapes(numbers_of(20), erasing).erase.long().unbind(-1)
    for view, image in np.ndindex(2, 20):
        t, s = int(top[view, image]), int(left[view, image])
        expected = before[view, image].clone()
        expected[:, t : t + height[view, image], s : s + width[view, image]] = 0
        assert torch.equal(after[view, image], expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quarter-turns", "--image-size", "24", "40"], "views of 24 x 40 px are not square"),
        (["--rotate", "181"], "--rotate 181: must be at most 180"),
        (["--shear", "-1"], "--shear -1: must be at least 0"),
        (["--affine-scale", "0", "1"], "--affine-scale 0 1: must be two numbers"),
        (["--erase-scale", "0.5", "0.2"], "--erase-scale 0.5 0.2"),
    ],
)
def test_what_cannot_be_is_one_line(flags, message):
    with pytest.raises(InputError, match=message):
        cli.parse(["--data", "cifar10", *flags])

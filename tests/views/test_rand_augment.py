"""RandAugment: torchvision's operations at its magnitudes, drawn for every view by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as tv
from scipy import stats
from torchvision.transforms.v2 import InterpolationMode

from effssl.image_config import Augment
from effssl.views.counters import NUM_SLOTS, uniform
from effssl.views.rand_augment import NUMBERS, operations, rand_augmented
from tests.views.test_own_transform import first_batch
from tests.views.test_stream import AUGMENT, squares  # noqa: F401

SPACE = tv.RandAugment._AUGMENTATION_SPACE
MEAN = (0.5, 0.4, 0.3)
PLAIN = Augment(mean=(0.0,) * 3, std=(1.0,) * 3, rand_augment=(1, 9))


def smooth_images(count, height, width, seed=0):
    coarse = torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def torchvisions(x, name, magnitude, sign):
    """What torchvision's own policy does for an operation, a magnitude and a sign."""
    values, is_signed = SPACE[name]
    values = values(31, *x.shape[-2:])
    value = 0.0 if values is None else float(values[magnitude]) * (sign if is_signed else 1)
    fill = {torch.Tensor: list(MEAN)}
    how = {"interpolation": InterpolationMode.BILINEAR, "fill": fill}
    return tv.RandAugment()._apply_image_or_video_transform(x, name, value, **how)


@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
@pytest.mark.parametrize("number", range(14), ids=list(SPACE))
def test_each_operation_is_torchvisions(number, magnitude):
    x, name = smooth_images(4, 33, 48), list(SPACE)[number]
    every = operations((33, 48), magnitude, MEAN)
    assert len(every) == len(SPACE)
    for sign in (1, -1):
        expected = torchvisions(x, name, magnitude, sign)
        torch.testing.assert_close(every[number](x, sign), expected, rtol=0, atol=1e-5)
    always = name in ("AutoContrast", "Equalize")
    is_still = name == "Identity" or (magnitude == 0 and not always)
    changed = (every[number](x, 1) - x).abs().max() > 1e-3
    # At magnitude 0 a threshold of 1 inverts nothing, and 8 bits keep what eyes see.
    assert changed != is_still or name == "Posterize"


def test_each_view_has_the_operation_and_sign_of_its_own_numbers():
    views = smooth_images(2 * 60, 16, 16).view(2, 60, 3, 16, 16)
    numbers = torch.rand(2, 60, NUMBERS, generator=torch.Generator().manual_seed(1))
    made = rand_augmented(views, numbers, PLAIN)
    every = operations((16, 16), 9, PLAIN.mean)
    for k in range(2):
        for i in range(60):
            which, sign = int(numbers[k, i, 0] * 14), 1 if numbers[k, i, 1] < 0.5 else -1
            alone = every[which](views[k, i][None], sign)[0]
            torch.testing.assert_close(made[k, i], alone, rtol=0, atol=1e-5)


def test_operations_follow_one_another():
    views = smooth_images(5, 16, 16)[None]
    solarised, posterised = (11 + 0.5) / 14, (10 + 0.5) / 14
    first_then = torch.tensor([solarised, 0.2, posterised, 0.2]).expand(1, 5, 4)
    made = rand_augmented(views, first_then, replace(PLAIN, rand_augment=(2, 20)))
    every = operations((16, 16), 20, PLAIN.mean)
    torch.testing.assert_close(made[0], every[10](every[11](views[0], 1), 1), rtol=0, atol=1e-5)


def test_operations_and_signs_are_equally_likely_and_independent():
    u = uniform(torch.arange(3000), num_views=2, seed=1, epoch=0, further=4)[..., NUM_SLOTS:]
    assert torch.equal(
        uniform(torch.arange(9), num_views=2, seed=1, epoch=0),
        uniform(torch.arange(9), num_views=2, seed=1, epoch=0, further=4)[..., :NUM_SLOTS],
    )
    which = (u[..., [0, 2]] * 14).long().numpy().reshape(-1, 2)
    for column in which.T:
        assert stats.chisquare(np.bincount(column, minlength=14)).pvalue > 1e-3
    pairs = np.histogram2d(*which.T, bins=14)[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


@pytest.mark.slow
def test_a_stream_makes_them_again_for_the_same_numbers_only(squares):  # noqa: F811
    policy = replace(AUGMENT, rand_augment=(2, 9))
    plain, views = first_batch(squares, AUGMENT), first_batch(squares, policy)
    assert torch.equal(views, first_batch(squares, policy))
    # Two identities in a row leave one of 196 as it is.
    unmoved = ((views - plain).abs().flatten(2).amax(-1) < 1e-5).float().mean()
    assert unmoved < 0.2
    other = first_batch(squares, policy, epoch=2)
    assert (other - views).abs().mean() > 0.1
    # The batch does not matter: the views of image 3 are the same alone.
    alone = first_batch(squares, policy, batch_size=2, at=3)
    torch.testing.assert_close(alone[:, 0], views[:, 3], rtol=0, atol=1e-5)

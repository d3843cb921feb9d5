from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from scipy import stats

from effssl.image_config import Augment
from effssl.views import draws
from effssl.views.counters import NUM_SLOTS, uniform
from effssl.views.shape_draws import draw_flips

CROP = {"crop_scale": (0.2, 1.0), "crop_ratio": (3 / 4, 4 / 3), "hflip_prob": 0.5}
JITTER = {"jitter_prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
OTHERS = {"gray_prob": 0.2, "blur_prob": 0.5, "blur_sigma": (0.1, 2.0), "solarize_prob": 0.2}
RECIPE = {"views": 2} | CROP | JITTER | OTHERS


class Drawn(NamedTuple):
    """All draws of some views."""

    crops: draws.CropDraws
    flips: torch.Tensor
    colours: draws.ColourDraws

    @property
    def all(self) -> list[torch.Tensor]:
        return [*self.crops, self.flips, *self.colours]


def draw(n=6, *, stored=(32, 32), seed=3, epoch=1, numbers=None, **changes) -> Drawn:
    """The draws of n samples, or of those in a tensor, with changes to RECIPE."""
    indices = n if isinstance(n, torch.Tensor) else torch.arange(n)
    # Settings may be any here, also such as a run's are not allowed to be.
    augment = SimpleNamespace(**(vars(Augment()) | RECIPE | changes))
    if numbers is None:
        numbers = uniform(indices, num_views=augment.views, seed=seed, epoch=epoch)
    crops = draws.draw_crops(numbers, augment, stored=stored)
    return Drawn(crops, draw_flips(numbers, augment), draws.draw_colours(numbers, augment))


@pytest.mark.parametrize("extreme", [None, 0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("stored", [(32, 32), (31, 77), (224, 100), (3, 1)])
def test_crop_is_within_the_image(stored, extreme):
    numbers = None if extreme is None else torch.full((2, 500, NUM_SLOTS), extreme)
    d = draw(500, stored=stored, crop_scale=(0.001, 1.0), numbers=numbers).crops
    for start, length, side in ((d.top, d.height, stored[0]), (d.left, d.width, stored[1])):
        assert ((start >= 0) & (length >= 1) & (start + length <= side)).all()
        assert torch.equal(start, start.round())
        assert torch.equal(length, length.round())


def test_crops_have_the_shape_of_views_that_are_not_square():
    ratio, aspect = (3 / 4, 4 / 3), 40 / 24
    wide = draw(500, stored=(240, 400), image_size=(24, 40), crop_ratio=ratio).crops
    asked = tuple(aspect * r for r in ratio)
    expected = draw(500, stored=(240, 400), image_size=40, crop_ratio=asked).crops
    assert all(torch.equal(a, b) for a, b in zip(wide, expected, strict=True))
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    same = draw(9, stored=(24, 40), image_size=(24, 40), **whole).crops
    assert [x.unique().tolist() for x in same] == [[0.0], [0.0], [24.0], [40.0]]


@pytest.mark.parametrize(
    ("stored", "scale", "ratio"),
    [((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((64, 48), (0.3, 0.6), (0.7, 2.0))],
)
def test_crop_is_distributed_as_torchvisions(stored, scale, ratio):
    d = draw(10_000, stored=stored, views=1, crop_scale=scale, crop_ratio=ratio).crops
    ours = torch.stack([d.top, d.left, d.height, d.width])[:, 0].numpy()
    torch.manual_seed(0)
    blank = torch.zeros(3, *stored)
    theirs = np.array(
        [tv.RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(10_000)]
    ).T

    def measures(top, left, height, width):
        return height * width, height / width, top, left, top + height, left + width

    for one, other in zip(measures(*ours), measures(*theirs), strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-3


@pytest.mark.parametrize("stored", [(31, 100), (100, 31), (30, 31)])
def test_crop_that_never_fits_is_the_central_one(stored):
    d = draw(50, stored=stored, crop_scale=(4.0, 5.0)).crops
    expected = tv.RandomResizedCrop.get_params(torch.zeros(3, *stored), [4.0, 5.0], [3 / 4, 4 / 3])
    for actual, value in zip((d.top, d.left, d.height, d.width), expected, strict=True):
        assert (actual == value).all()


def test_jitter_is_uniform_over_torchvisions_ranges():
    strengths = {"brightness": 0.4, "contrast": 1.5, "saturation": 0.2, "hue": 0.1}
    d, reference = draw(5_000, jitter_prob=0.8, **strengths).colours, tv.ColorJitter(**strengths)
    applied = d.brightness != 1
    for name in strengths:
        low, high = getattr(reference, name)
        drawn = getattr(d, name)
        assert (drawn[~applied] == (0 if name == "hue" else 1)).all()
        assert (
            stats.kstest(drawn[applied].numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
        )
    sigma = d.blur_sigma[d.blur_sigma > 0].numpy()
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_operations_have_their_probabilities():
    d = draw(
        5_000, hflip_prob=0.5, jitter_prob=0.8, gray_prob=0.2, blur_prob=0.35, solarize_prob=0.1
    )
    c = d.colours
    happened = {
        0.5: d.flips,
        0.8: c.brightness != 1,
        0.2: c.gray,
        0.35: c.blur_sigma > 0,
        0.1: c.solarize,
    }
    for probability, events in happened.items():
        assert stats.binomtest(int(events.sum()), events.numel(), probability).pvalue > 1e-3


def max_correlation(columns):
    """Largest absolute correlation between two different rows."""
    correlation = np.corrcoef(columns)
    return np.abs(correlation - np.eye(len(columns))).max()


def test_parameters_are_uncorrelated():
    drawn = draw(10_000, views=1, jitter_prob=1.0, blur_prob=1.0)
    d = drawn.crops
    place = [(d.top + 0.5) / (33 - d.height), (d.left + 0.5) / (33 - d.width)]
    size = [d.height * d.width, (d.height / d.width).log()]
    columns = torch.cat([p.float() for p in [*place, *size, drawn.flips, *drawn.colours]])
    assert max_correlation(columns.numpy()) < 5 / 100


@pytest.mark.parametrize("other", [{"epoch": 2}, {"seed": 4}])
def test_parameters_differ_by_seed_and_epoch(other):
    for a, b in zip(draw(200).all, draw(200, **other).all, strict=True):
        assert (a != b).float().mean() > 0.05

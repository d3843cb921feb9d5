import numpy as np
import pytest
import torch
import torchvision.transforms as tv
import torchvision.transforms.v2.functional as F
from scipy import stats

from effssl import augment

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CROP = {"crop_scale": (0.2, 1.0), "crop_ratio": (3 / 4, 4 / 3), "hflip_prob": 0.5}
JITTER = {"jitter_prob": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
OTHERS = {"gray_prob": 0.2, "blur_prob": 0.5, "blur_sigma": (0.1, 2.0), "solarize_prob": 0.2}
RECIPE = {"stored": (32, 32), "views": 2, "seed": 3, "epoch": 1} | CROP | JITTER | OTHERS
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "hflip_prob": 0.0}
NEUTRAL = WHOLE | {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0, "solarize_prob": 0.0}
NO_STRENGTH = {"jitter_prob": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def draw(n=6, **changes):
    indices = n if isinstance(n, torch.Tensor) else torch.arange(n)
    return augment.draw(indices, **(RECIPE | changes))


def random_images(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)


def random_floats(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def to_float(images):
    return images.permute(0, 3, 1, 2).float() / 255


def assert_near(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("stored", "size"), [((32, 32), 32), ((48, 64), 32), ((200, 160), 24), ((16, 20), 48), ((9, 9), 1)]
)
def test_resized_crop_is_torchvisions(stored, size):
    images = random_images(5, *stored)
    draws = draw(5, stored=stored, views=4, crop_scale=(0.01, 1.0))
    crop = draws[:4]
    actual = augment.resized_crop(images, *crop, draws.flip, size)
    assert actual.shape == (4, 5, 3, size, size)
    assert 0 < draws.flip.sum() < draws.flip.numel()
    for a, b in np.ndindex(4, 5):
        expected = F.resized_crop(to_float(images)[b], *(int(p[a, b]) for p in crop), [size, size], antialias=True)
        assert_near(actual[a, b], F.horizontal_flip(expected) if draws.flip[a, b] else expected)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_is_torchvisions(name):
    x = random_floats(9, 3, 20, 28)
    x[:, :, :8, :8] = (x[:, :, :8, :8] * 3).round() / 3  # gray, black, white, and channels that are equal
    factor = torch.linspace(-0.5, 0.5, 9) if name == "hue" else torch.linspace(0, 2.5, 9)
    reference = getattr(F, f"adjust_{name}")
    expected = torch.stack([reference(image, float(f)) for image, f in zip(x, factor, strict=True)])
    assert_near(getattr(augment, f"adjust_{name}")(x, factor), expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 23])
def test_gaussian_blur_is_torchvisions(kernel_size):
    x, sigma = random_floats(4, 3, 24, 40), torch.tensor([0.1, 0.7, 2.0, 10.0])
    expected = [F.gaussian_blur(image, kernel_size, float(s)) for image, s in zip(x, sigma, strict=True)]
    assert_near(augment.gaussian_blur(x, sigma, kernel_size), torch.stack(expected))


def test_gray_solarize_normalize_are_torchvisions():
    x = random_floats(4, 3, 20, 28)
    x[0, 0, 0, 0] = 0.5
    assert_near(augment.to_gray(x), F.rgb_to_grayscale(x))
    assert_near(augment.solarize(x), F.solarize(x, 0.5))
    assert_near(augment.normalize(x, MEAN, STD), F.normalize(x, MEAN, STD))


@pytest.mark.parametrize(("size", "kernel_size"), [(32, 3), (40, 5), (64, 7)])
def test_make_views_is_the_operations_in_order(size, kernel_size):
    images = random_images(8, 40, 56)
    draws = draw(8, stored=(40, 56), views=3)
    actual = augment.make_views(images, draws, size=size, mean=MEAN, std=STD)
    assert actual.shape == (3, 8, 3, size, size)
    assert actual.dtype == torch.float32
    for a, b in np.ndindex(3, 8):
        d = augment.Draws(*(p[a, b].item() for p in draws))
        crop = (int(p) for p in d[:4])
        x = F.resized_crop(to_float(images)[b], *crop, [size, size], antialias=True)
        x = F.horizontal_flip(x) if d.flip else x
        x = F.adjust_contrast(F.adjust_brightness(x, d.brightness), d.contrast)
        x = F.adjust_hue(F.adjust_saturation(x, d.saturation), d.hue)
        x = F.rgb_to_grayscale(x, 3) if d.gray else x
        x = F.gaussian_blur(x, kernel_size, d.blur_sigma) if d.blur_sigma else x
        x = F.solarize(x, 0.5) if d.solarize else x
        assert_near(actual[a, b], F.normalize(x, MEAN, STD), atol=1e-4)


def test_crops_already_made_get_the_same_as_whole_images():
    images = random_images(8, 40, 56)
    draws = draw(8, stored=(40, 56), views=3)
    crops = augment.resized_crop(images, *draws[:4], torch.zeros_like(draws.flip), 32)
    crops = (crops * 255).round().byte().permute(1, 0, 3, 4, 2)  # [batch, views, size, size, 3]
    actual = augment.make_views(crops, draws, size=32, mean=MEAN, std=STD)
    geometry = {"top": 0, "left": 0, "height": 32, "width": 32}
    for a, b in np.ndindex(3, 8):
        alone = augment.Draws(*(None if p is None else p[a, b][None, None] for p in draws))
        alone = alone._replace(**{k: torch.full((1, 1), float(v)) for k, v in geometry.items()})
        expected = augment.make_views(crops[b, a][None], alone, size=32, mean=MEAN, std=STD)
        assert_near(actual[a, b], expected[0, 0], atol=1e-4)


@pytest.mark.parametrize("stored", [(32, 32), (48, 64), (32, 16)])
def test_clean_view_is_resize_and_normalize(stored):
    images = random_images(3, *stored)
    expected = F.normalize(F.resize(to_float(images), [32, 32], antialias=True), MEAN, STD)
    assert_near(augment.clean_view(images, size=32, mean=MEAN, std=STD), expected)


@pytest.mark.parametrize("changes", [{}, NO_STRENGTH])
def test_neutral_parameters_leave_the_image_unchanged(changes):
    images = random_images(4, 32, 32)
    views = augment.make_views(images, draw(4, **(NEUTRAL | changes)), size=32, mean=MEAN, std=STD)
    assert_near(views, F.normalize(to_float(images), MEAN, STD).expand_as(views), atol=1e-6)


@pytest.mark.parametrize("extreme", [None, 0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("stored", [(32, 32), (31, 77), (224, 100), (3, 1)])
def test_crop_is_within_the_image(monkeypatch, stored, extreme):
    if extreme is not None:
        shape = (RECIPE["views"], 500)
        monkeypatch.setattr(augment, "uniform", lambda *_, slots, **__: torch.full((*shape, slots), extreme))
    d = draw(500, stored=stored, crop_scale=(0.001, 1.0))
    for start, length, side in ((d.top, d.height, stored[0]), (d.left, d.width, stored[1])):
        assert ((start >= 0) & (length >= 1) & (start + length <= side)).all()
        assert torch.equal(start, start.round())
        assert torch.equal(length, length.round())


@pytest.mark.parametrize(
    ("stored", "scale", "ratio"), [((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((64, 48), (0.3, 0.6), (0.7, 2.0))]
)
def test_crop_is_distributed_as_torchvisions(stored, scale, ratio):
    d = draw(10_000, stored=stored, views=1, crop_scale=scale, crop_ratio=ratio)
    ours = torch.stack([d.top, d.left, d.height, d.width])[:, 0].numpy()
    torch.manual_seed(0)
    blank = torch.zeros(3, *stored)
    theirs = np.array([tv.RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(10_000)]).T

    def measures(top, left, height, width):
        return height * width, height / width, top, left, top + height, left + width

    for one, other in zip(measures(*ours), measures(*theirs), strict=True):
        assert stats.ks_2samp(one, other).pvalue > 1e-3


@pytest.mark.parametrize("stored", [(31, 100), (100, 31), (30, 31)])
def test_crop_that_never_fits_is_the_central_one(stored):
    d = draw(50, stored=stored, crop_scale=(4.0, 5.0))
    expected = tv.RandomResizedCrop.get_params(torch.zeros(3, *stored), [4.0, 5.0], [3 / 4, 4 / 3])
    for actual, value in zip((d.top, d.left, d.height, d.width), expected, strict=True):
        assert (actual == value).all()


def test_jitter_is_uniform_over_torchvisions_ranges():
    strengths = {"brightness": 0.4, "contrast": 1.5, "saturation": 0.2, "hue": 0.1}
    d, reference = draw(5_000, jitter_prob=0.8, **strengths), tv.ColorJitter(**strengths)
    applied = d.brightness != 1
    for name in strengths:
        low, high = getattr(reference, name)
        drawn = getattr(d, name)
        assert (drawn[~applied] == (0 if name == "hue" else 1)).all()
        assert stats.kstest(drawn[applied].numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    sigma = d.blur_sigma[d.blur_sigma > 0].numpy()
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_operations_have_their_probabilities():
    d = draw(5_000, hflip_prob=0.5, jitter_prob=0.8, gray_prob=0.2, blur_prob=0.35, solarize_prob=0.1)
    happened = {0.5: d.flip, 0.8: d.brightness != 1, 0.2: d.gray, 0.35: d.blur_sigma > 0, 0.1: d.solarize}
    for probability, events in happened.items():
        assert stats.binomtest(int(events.sum()), events.numel(), probability).pvalue > 1e-3


def test_parameters_are_uncorrelated():
    d = draw(10_000, views=1, jitter_prob=1.0, blur_prob=1.0)
    place = [(d.top + 0.5) / (33 - d.height), (d.left + 0.5) / (33 - d.width)]
    size = [d.height * d.width, (d.height / d.width).log()]
    columns = torch.cat([p.float() for p in [*place, *size, *d[4:]]])
    assert max_correlation(columns.numpy()) < 5 / 100


@pytest.mark.parametrize("other", [{"epoch": 2}, {"seed": 4}])
def test_parameters_differ_by_seed_and_epoch(other):
    for a, b in zip(draw(200), draw(200, **other), strict=True):
        assert (a != b).float().mean() > 0.05


def test_views_do_not_depend_on_the_batch_or_the_number_of_views():
    indices = torch.tensor([7, 0, 50_000, 3, 2**40])
    images = random_images(5, 32, 32)
    pick = torch.tensor([4, 1])
    whole, part = draw(indices, views=4), draw(indices[pick], views=2)
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[:2, pick], b)
    a = augment.make_views(images, whole, size=24, mean=MEAN, std=STD)
    b = augment.make_views(images[pick], part, size=24, mean=MEAN, std=STD)
    assert_near(a[:2, pick], b)


def max_correlation(columns):
    """Largest absolute correlation between two different rows."""
    correlation = np.corrcoef(columns)
    return np.abs(correlation - np.eye(len(columns))).max()


def test_uniform_is_uniform():
    u = augment.uniform(torch.arange(20_000), views=2, slots=5, seed=0, epoch=0)
    assert u.shape == (2, 20_000, 5)
    assert 0 <= u.min() < u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_uniform_is_independent_across_all_that_it_depends_on():
    parts = [
        augment.uniform(torch.arange(first, first + 4_000), views=3, slots=4, seed=seed, epoch=epoch)
        for first in (0, 1)
        for seed in range(3)
        for epoch in range(3)
    ]
    columns = torch.stack(parts).transpose(-1, -2).flatten(0, 2)  # [first seed epoch view slot, index]
    assert max_correlation(columns.numpy()) < 6 / 4_000**0.5


@pytest.mark.parametrize(("seed", "epoch", "index"), [(0, 0, 0), (1, 2, 3), (2**31, 999, 2**40), (-5, 0, 1)])
def test_uniform_is_chained_splitmix64(seed, epoch, index):
    def mix(x):
        x %= 1 << 64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
        x = (x ^ x >> 27) * 0x94D049BB133111EB % (1 << 64)
        return x ^ x >> 31

    golden = 0x9E3779B97F4A7C15
    sample = mix(mix(mix(seed) + epoch * golden) + index * golden)
    expected = [[(mix(mix(sample + v * golden) + s * golden) >> 40) / 2**24 for s in (1, 2, 3)] for v in (1, 2)]
    u = augment.uniform(torch.tensor([index]), views=2, slots=3, seed=seed, epoch=epoch)
    assert u[:, 0].tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_makes_the_same_views():
    images, indices = random_images(16, 40, 40), torch.arange(16)
    on_cpu, on_gpu = draw(indices, stored=(40, 40)), draw(indices.cuda(), stored=(40, 40))
    assert_near(torch.stack([p.float() for p in on_gpu]).cpu(), torch.stack([p.float() for p in on_cpu]))
    views = augment.make_views(images.cuda(), on_gpu, size=32, mean=MEAN, std=STD)
    assert_near(views.cpu(), augment.make_views(images, on_cpu, size=32, mean=MEAN, std=STD), atol=1e-3)

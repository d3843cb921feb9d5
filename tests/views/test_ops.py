import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import assemble, ops
from effssl.views.draws import ColourDraws, CropDraws
from tests.views.test_draws import RECIPE, draw

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "hflip_prob": 0.0}
NEUTRAL = WHOLE | {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0, "solarize_prob": 0.0}
NO_STRENGTH = {
    "jitter_prob": 1.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
}


def settings(size, **changes):
    return Augment(**(RECIPE | {"image_size": size, "mean": MEAN, "std": STD} | changes))


def views_of(images, drawn, size):
    return assemble.views_of_images(images, *drawn, settings(size))


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
    ("stored", "size"),
    [
        ((32, 32), 32),
        ((48, 64), 32),
        ((200, 160), 24),
        ((16, 20), 48),
        ((9, 9), 1),
        ((48, 64), (24, 40)),
    ],
)
def test_resized_crop_is_torchvisions(stored, size):
    images = random_images(5, *stored)
    crop, flips, _ = draw(5, stored=stored, views=4, crop_scale=(0.01, 1.0))
    actual = ops.resized_crop(images, crop, flips, size)
    side = height_width(size)
    assert actual.shape == (4, 5, 3, *side)
    assert 0 < flips.sum() < flips.numel()
    for a, b in np.ndindex(4, 5):
        expected = F.resized_crop(
            to_float(images)[b], *(int(p[a, b]) for p in crop), [*side], antialias=True
        )
        assert_near(actual[a, b], F.horizontal_flip(expected) if flips[a, b] else expected)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_is_torchvisions(name):
    x = random_floats(9, 3, 20, 28)
    x[:, :, :8, :8] = (
        x[:, :, :8, :8] * 3
    ).round() / 3  # gray, black, white, and channels that are equal
    factor = torch.linspace(-0.5, 0.5, 9) if name == "hue" else torch.linspace(0, 2.5, 9)
    reference = getattr(F, f"adjust_{name}")
    expected = torch.stack([reference(image, float(f)) for image, f in zip(x, factor, strict=True)])
    assert_near(getattr(ops, f"adjust_{name}")(x, factor), expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 23])
def test_gaussian_blur_is_torchvisions(kernel_size):
    x, sigma = random_floats(4, 3, 24, 40), torch.tensor([0.1, 0.7, 2.0, 10.0])
    expected = [
        F.gaussian_blur(image, kernel_size, float(s)) for image, s in zip(x, sigma, strict=True)
    ]
    assert_near(ops.gaussian_blur(x, sigma, kernel_size), torch.stack(expected))


def test_gray_solarize_normalize_are_torchvisions():
    x = random_floats(4, 3, 20, 28)
    x[0, 0, 0, 0] = 0.5
    assert_near(ops.to_gray(x), F.rgb_to_grayscale(x))
    assert_near(ops.solarize(x), F.solarize(x, 0.5))
    assert_near(ops.normalize(x, MEAN, STD), F.normalize(x, MEAN, STD))


@pytest.mark.parametrize(("size", "kernel_size"), [(32, 3), (40, 5), (64, 7), ((40, 72), 5)])
def test_views_of_images_are_the_operations_in_order(size, kernel_size):
    images = random_images(8, 40, 56)
    drawn = draw(8, stored=(40, 56), views=3, image_size=size)
    actual = views_of(images, drawn, size)
    side = height_width(size)
    assert actual.shape == (3, 8, 3, *side)
    assert actual.dtype == torch.float32
    for a, b in np.ndindex(3, 8):
        d = ColourDraws(*(p[a, b].item() for p in drawn.colours))
        crop = (int(p[a, b]) for p in drawn.crops)
        x = F.resized_crop(to_float(images)[b], *crop, [*side], antialias=True)
        x = F.horizontal_flip(x) if drawn.flips[a, b] else x
        x = F.adjust_contrast(F.adjust_brightness(x, d.brightness), d.contrast)
        x = F.adjust_hue(F.adjust_saturation(x, d.saturation), d.hue)
        x = F.rgb_to_grayscale(x, 3) if d.gray else x
        x = F.gaussian_blur(x, kernel_size, d.blur_sigma) if d.blur_sigma else x
        x = F.solarize(x, 0.5) if d.solarize else x
        assert_near(actual[a, b], F.normalize(x, MEAN, STD), atol=1e-4)


def test_crops_already_cut_get_the_same_as_whole_images():
    images = random_images(8, 40, 56)
    drawn = draw(8, stored=(40, 56), views=3)
    crops = ops.resized_crop(images, drawn.crops, torch.zeros_like(drawn.flips), 32)
    crops = (crops * 255).round().byte().permute(1, 0, 3, 4, 2)  # [batch, views, size, size, 3]
    actual = assemble.views_of_crops(crops, drawn.flips, drawn.colours, settings(32))
    whole = CropDraws(*(torch.full((1, 1), float(v)) for v in (0, 0, 32, 32)))
    for a, b in np.ndindex(3, 8):
        alone = (
            whole,
            drawn.flips[a, b][None, None],
            ColourDraws(*(d[a, b][None, None] for d in drawn.colours)),
        )
        expected = views_of(crops[b, a][None], alone, 32)
        assert_near(actual[a, b], expected[0, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("stored", "size", "central"),
    [
        ((32, 32), 32, (32, 32)),
        ((48, 48), 32, (48, 48)),
        ((48, 64), 32, (48, 48)),
        ((24, 40), (24, 40), (24, 40)),
        ((48, 80), (24, 40), (48, 80)),
        ((50, 50), (24, 40), (30, 50)),
        ((50, 50), (40, 24), (50, 30)),
    ],
)
def test_clean_view_is_the_central_part_of_its_shape_resized_and_normalized(stored, size, central):
    images = random_images(3, *stored)
    part = F.center_crop(to_float(images), [*central])
    resized = F.resize(part, [*height_width(size)], antialias=True)
    assert_near(assemble.clean_view(images, settings(size)), F.normalize(resized, MEAN, STD))


@pytest.mark.parametrize("changes", [{}, NO_STRENGTH])
def test_neutral_parameters_leave_the_image_unchanged(changes):
    images = random_images(4, 32, 32)
    views = views_of(images, draw(4, **(NEUTRAL | changes)), 32)
    assert_near(views, F.normalize(to_float(images), MEAN, STD).expand_as(views), atol=1e-6)


def test_views_do_not_depend_on_the_batch_or_the_number_of_views():
    indices = torch.tensor([7, 0, 50_000, 3, 2**40])
    images = random_images(5, 32, 32)
    pick = torch.tensor([4, 1])
    whole, part = draw(indices, views=4), draw(indices[pick], views=2)
    for a, b in zip(whole.all, part.all, strict=True):
        assert torch.equal(a[:2, pick], b)
    a, b = views_of(images, whole, 24), views_of(images[pick], part, 24)
    assert_near(a[:2, pick], b)

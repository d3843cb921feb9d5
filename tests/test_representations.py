from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import resized_crop

from effssl.data.beton import Beton, ensure_beton
from effssl.data.sources import open_source
from effssl.evaluation.encode import (
    Clean,
    RandomViews,
    averaged_features,
    backbone_features,
    clean_views_of,
    encode,
    view_features,
)
from effssl.evaluation.labelled_views import NO_COLOURS
from effssl.evaluation.probes import accuracy, fit_linear_probes
from effssl.views import draws as sampling
from effssl.views import ops as augment
from tests.conftest import STORE, write_class_folders

COLOURS = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.4) | {"blur_sigma": (0.1, 2.0)}
RANDOM = RandomViews(
    3, COLOURS | NO_COLOURS | {"crop_scale": (0.2, 1), "crop_ratio": (3 / 4, 4 / 3), "hflip_prob": 0.5}, 7
)
UNCUT = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}


def whole_views(hflip_prob: float) -> RandomViews:
    return RANDOM._replace(strengths={**RANDOM.strengths, **UNCUT, "hflip_prob": hflip_prob})


NORMALISED = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("training", [True, False])
def test_encode_uses_eval_mode_and_leaves_the_mode_as_it_was(training):
    net, x = backbone().train(training), torch.randn(7, 3, 8, 8)
    h = encode(net, iter(x.split(3)))
    assert all(module.training == training for module in net.modules())
    assert (net[1].running_mean == 0).all()
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, net.eval()(x).detach())


def test_encode_restores_the_mode_after_an_error():
    net = backbone()
    with pytest.raises(RuntimeError):
        encode(net, [torch.randn(2, 4, 8, 8)])
    assert net.training


def test_encode_in_bfloat16_is_near_and_gives_float32():
    net, x = backbone(), torch.randn(4, 3, 8, 8)
    exact, rounded = encode(net, [x]), encode(net, [x], dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_encoded_representations_can_be_probed():
    net, x, y = backbone(), torch.randn(40, 3, 8, 8), torch.arange(40) % 2
    h = encode(net, [x + 2 * y[:, None, None, None]])
    (probe,) = fit_linear_probes(h, y, 2, (1e-3,))
    assert accuracy(probe, h, y) == 1


def test_encode_leaves_frozen_parts_frozen():
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    backbone[1].eval()
    encode(backbone, [torch.zeros(2, 3, 2, 2)])
    assert [m.training for m in backbone] == [True, False, True]


def clean(size: int) -> Clean:
    return Clean(size, **NORMALISED, canvas=16, workers=1, device=torch.device("cpu"), dtype=torch.float32)


def store(root: Path, side: int) -> Beton:
    source = open_source("folder", write_class_folders(root, side=side), "train")
    return ensure_beton(source, root / "beton", "images", **STORE)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Beton:
    """Twelve images of 12 px, stored raw."""
    return store(tmp_path_factory.mktemp("squares"), 12)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Beton:
    """Twelve images of 120 px, stored as JPEG."""
    return store(tmp_path_factory.mktemp("photographs"), 120)


def test_averaged_over_whole_images_is_the_clean_representation(squares):
    positions = np.array([3, 0, 11, 3])
    expected = backbone_features(backbone(), clean(12))(squares, positions)
    torch.testing.assert_close(averaged_features(backbone(), clean(12), whole_views(0.0))(squares, positions), expected)
    flipped = averaged_features(nn.Flatten(), clean(12), whole_views(1.0))(squares, positions)
    whole = backbone_features(nn.Flatten(), clean(12))(squares, positions)
    torch.testing.assert_close(flipped.view(4, 3, 12, 12), whole.view(4, 3, 12, 12).flip(-1))


def test_averaged_is_the_mean_over_the_crops_that_were_drawn(squares):
    """By torchvision, a crop at a time; colours stay as they are."""
    positions = np.arange(12)
    actual = averaged_features(backbone(), clean(8), RANDOM)(squares, positions)
    kept = dict.fromkeys(("jitter_prob", "brightness", "contrast", "saturation", "hue", "gray_prob", "blur_prob"), 0.0)
    draws = sampling.draw(
        torch.from_numpy(positions), stored=(12, 12), views=3, seed=7, epoch=0, crop_scale=(0.2, 1.0),
        crop_ratio=(0.75, 4 / 3), hflip_prob=0.5, **kept, blur_sigma=(0.1, 2.0), solarize_prob=0.0,
    )  # fmt: skip
    images = read_pixels(squares)
    for i in positions:
        h = []
        for k in range(3):
            corner = [int(getattr(draws, name)[k, i]) for name in ("top", "left", "height", "width")]
            x = resized_crop(torch.from_numpy(images[i]).permute(2, 0, 1) / 255, *corner, [8, 8], antialias=True)
            x = x.flip(-1) if draws.flip[k, i] else x
            h.append(encode(backbone(), [augment.normalize(x[None], **NORMALISED)])[0])
        torch.testing.assert_close(actual[i], torch.stack(h).mean(0), rtol=1e-3, atol=1e-4)


def read_pixels(stored) -> np.ndarray:
    """uint8 [images, side, side, 3], from the source files."""
    source = open_source("folder", Path(stored.path).parents[1], "train")
    return np.stack([source.images[i] for i in range(len(source.images))])


def test_features_of_views_average_to_the_averaged_ones(squares):
    views = view_features(backbone(), clean(8), RANDOM)(squares, np.array([5, 2]))
    assert views.shape[:2] == (2, 3) and not torch.allclose(views[:, 0], views[:, 1])
    torch.testing.assert_close(
        views.mean(1), averaged_features(backbone(), clean(8), RANDOM)(squares, np.array([5, 2]))
    )


@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_averaged_does_not_depend_on_batch_or_order(request, kind):
    stored = request.getfixturevalue(kind)
    features = averaged_features(backbone(), clean(8), RANDOM)
    together = features(stored, np.arange(12))
    torch.testing.assert_close(features(stored, np.array([5, 2])), together[[5, 2]])
    assert not torch.allclose(
        averaged_features(backbone(), clean(8), RANDOM._replace(seed=8))(stored, np.arange(12)), together
    )


def test_images_that_are_not_stored_are_seen_as_stored_ones(squares):
    whole = backbone_features(nn.Flatten(), clean(8))(squares, np.arange(12))
    seen = torch.cat([x.flatten(1) for x in clean_views_of(read_pixels(squares), clean(8))])
    torch.testing.assert_close(seen, whole)

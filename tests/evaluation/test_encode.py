from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2.functional import resize, resized_crop

from effssl.data.beton import Beton, ensure_beton
from effssl.data.sources import open_source
from effssl.evaluation.encode import (
    Streams,
    authors_features,
    averaged_features,
    backbone_features,
    clean_views_of,
    crops_and_flips,
    encode,
    pixel_features,
    random_streams,
    view_features,
)
from effssl.evaluation.probes import accuracy, fit_linear_probes
from effssl.image_config import Augment, Storage
from effssl.run.device import Runtime
from effssl.views import ops
from effssl.views.counters import uniform
from effssl.views.draws import draw_crops
from effssl.views.shape_draws import draw_flips
from effssl.views.stream import ViewStream
from tests.conftest import write_class_folders

pytestmark = pytest.mark.slow

CPU = Runtime(torch.device("cpu"))
AUGMENT = Augment(image_size=8, crop_scale=(0.2, 1.0), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
RANDOM = crops_and_flips(AUGMENT, views=3)


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@pytest.mark.parametrize("training", [True, False])
def test_encode_uses_eval_mode_and_leaves_the_mode_as_it_was(training):
    net, x = backbone().train(training), torch.randn(7, 3, 8, 8)
    h = encode(net, iter(x.split(3)), CPU)
    assert all(module.training == training for module in net.modules())
    assert (net[1].running_mean == 0).all()
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, net.eval()(x).detach())


def test_encode_restores_the_mode_after_an_error():
    net = backbone()
    with pytest.raises(RuntimeError):
        encode(net, [torch.randn(2, 4, 8, 8)], CPU)
    assert net.training


def test_encode_in_bfloat16_is_near_and_gives_float32():
    net, x = backbone(), torch.randn(4, 3, 8, 8)
    exact, rounded = (
        encode(net, [x], CPU),
        encode(net, [x], replace(CPU, autocast_dtype=torch.bfloat16)),
    )
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_encoded_representations_can_be_probed():
    net, x, y = backbone(), torch.randn(40, 3, 8, 8), torch.arange(40) % 2
    h = encode(net, [x + 2 * y[:, None, None, None]], CPU)
    (probe,) = fit_linear_probes(h, y, 2, (1e-3,))
    assert accuracy(probe, h, y) == 1


def test_encode_leaves_frozen_parts_frozen():
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Flatten()
    )
    backbone[1].eval()
    encode(backbone, [torch.zeros(2, 3, 2, 2)], CPU)
    assert [m.training for m in backbone] == [True, False, True]


def store(root: Path, side: int) -> Streams:
    """Twelve images of two classes; views of 8 px."""
    source = open_source("folder", write_class_folders(root, side=side), "train")
    beton = ensure_beton(source, root / "beton", "images", Storage())
    return {"train": ViewStream(beton, AUGMENT, seed=7, batch_size=5, workers=1, runtime=CPU)}


def sized(streams: Streams, size: int) -> Streams:
    augment = replace(AUGMENT, image_size=size)
    return {split: stream.with_views(augment) for split, stream in streams.items()}


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Streams:
    """Of 12 px, stored raw."""
    return store(tmp_path_factory.mktemp("squares"), 12)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Streams:
    """Of 120 px, stored as JPEG."""
    return store(tmp_path_factory.mktemp("photographs"), 120)


@pytest.mark.slow
def test_averaged_over_whole_images_is_the_clean_representation(squares):
    positions, clean = np.array([3, 0, 11, 3]), sized(squares, 12)

    def averaged(net, hflip_prob):
        whole = {"image_size": 12, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
        augment = replace(RANDOM, **whole, hflip_prob=hflip_prob)
        return averaged_features(net, random_streams(squares, augment, seed=7))("train", positions)

    expected = backbone_features(backbone(), clean)("train", positions)
    torch.testing.assert_close(averaged(backbone(), 0.0), expected)
    flipped = averaged(nn.Flatten(), 1.0)
    whole = backbone_features(nn.Flatten(), clean)("train", positions)
    torch.testing.assert_close(flipped.view(4, 3, 12, 12), whole.view(4, 3, 12, 12).flip(-1))


def test_averaged_is_the_mean_over_the_crops_that_were_drawn(squares):
    """By torchvision, a crop at a time; colours stay as they are."""
    positions = np.arange(12)
    streams = random_streams(squares, RANDOM, seed=7)
    actual = averaged_features(backbone(), streams)("train", positions)
    numbers = uniform(torch.from_numpy(positions), num_views=3, seed=7, epoch=0)
    crops, flips = draw_crops(numbers, RANDOM, stored=(12, 12)), draw_flips(numbers, RANDOM)
    images = read_pixels(squares["train"].stored)
    for i in positions:
        h = []
        for k in range(3):
            corner = [int(draw[k, i]) for draw in crops]  # top, left, height, width
            pixels = torch.from_numpy(images[i]).permute(2, 0, 1) / 255
            x = resized_crop(
                pixels, corner[0], corner[1], corner[2], corner[3], [8, 8], antialias=True
            )
            x = x.flip(-1) if flips[k, i] else x
            normalised = ops.normalize(x[None], AUGMENT.mean, AUGMENT.std)
            h.append(encode(backbone(), [normalised], CPU)[0])
        torch.testing.assert_close(actual[i], torch.stack(h).mean(0), rtol=1e-3, atol=1e-4)


def test_the_authors_average_has_one_clean_view_beside_those_of_pretraining(squares):
    """One clean view and 15 as in pretraining, colours included, all with one weight."""
    positions = np.array([3, 0, 11])
    pretraining = replace(AUGMENT, views=15, gray_prob=0.5, blur_prob=0.0)
    streams = random_streams(squares, pretraining, seed=7)
    actual = authors_features(nn.Flatten(), squares, streams)("train", positions)
    clean = backbone_features(nn.Flatten(), squares)("train", positions)
    views = view_features(nn.Flatten(), streams)("train", positions)
    assert views.shape[1] == 15
    expected = torch.cat([clean[:, None], views], 1).mean(1)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    crops = random_streams(squares, crops_and_flips(pretraining, views=15), seed=7)
    of_crops = view_features(nn.Flatten(), crops)("train", positions)
    assert not torch.allclose(views, of_crops, atol=0.1)  # colours are changed, the crops the same


def test_crops_and_flips_are_all_that_is_done_whatever_a_run_does_beside(squares):
    wild = replace(
        AUGMENT,
        quarter_turns=True,
        rotate=90.0,
        shear=30.0,
        affine_scale=(0.5, 2.0),
        solarize_prob=1.0,
        erase_prob=1.0,
        rand_augment=(2, 9),
    )

    def views_of(augment):
        streams = random_streams(squares, augment, seed=7)
        return view_features(nn.Flatten(), streams)("train", np.arange(12))

    of_wild, of_plain = (views_of(crops_and_flips(each, views=3)) for each in (wild, AUGMENT))
    assert torch.equal(of_wild, of_plain)
    assert not torch.allclose(views_of(replace(wild, views=3)), of_wild, atol=0.1)


def read_pixels(stored: Beton) -> np.ndarray:
    """uint8 [images, side, side, 3], from the source files."""
    source = open_source("folder", stored.path.parents[1], "train")
    return np.stack([source.images[i] for i in range(len(source.images))])


def test_features_of_views_average_to_the_averaged_ones(squares):
    streams, positions = random_streams(squares, RANDOM, seed=7), np.array([5, 2])
    views = view_features(backbone(), streams)("train", positions)
    assert views.shape[:2] == (2, 3) and not torch.allclose(views[:, 0], views[:, 1])
    averaged = averaged_features(backbone(), streams)("train", positions)
    torch.testing.assert_close(views.mean(1), averaged)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_averaged_does_not_depend_on_batch_or_order(request, kind):
    streams = request.getfixturevalue(kind)

    def averaged(positions, seed):
        return averaged_features(backbone(), random_streams(streams, RANDOM, seed=seed))(
            "train", positions
        )

    together = averaged(np.arange(12), 7)
    torch.testing.assert_close(averaged(np.array([5, 2]), 7), together[[5, 2]])
    assert not torch.allclose(averaged(np.arange(12), 8), together)


def test_images_that_are_not_stored_are_seen_as_stored_ones(squares):
    whole = backbone_features(nn.Flatten(), squares)("train", np.arange(12))
    stream = squares["train"]
    views = [x.flatten(1) for x in clean_views_of(read_pixels(stream.stored), stream, size=8)]
    torch.testing.assert_close(torch.cat(views), whole)


@pytest.mark.parametrize("kind", ["squares", "photographs"])
def test_pixels_are_those_of_the_views_made_small(request, kind):
    """By torchvision; also of JPEGs, whose squares are decoded for the larger views."""
    streams = sized(request.getfixturevalue(kind), 48)
    h = pixel_features(streams)("train", np.arange(12))
    squares = torch.cat([x for x, _ in streams["train"].load_clean(np.arange(12))])
    assert squares.shape[1] == (12 if kind == "squares" else 72)
    small = resize(squares.permute(0, 3, 1, 2) / 255, [32, 32], antialias=True)
    expected = ops.normalize(small, AUGMENT.mean, AUGMENT.std)
    torch.testing.assert_close(h, expected.flatten(1), rtol=1e-3, atol=1e-4)

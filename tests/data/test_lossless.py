"""`--store lossless`: what was in the file is what is cropped, and of the sizes that JPEGs are."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from effssl import InputError
from effssl.data.beton import ensure_beton
from effssl.data.beton_file import num_bytes_in
from effssl.data.read_back import check_beton
from effssl.data.sources import open_source
from effssl.image_config import Augment, Storage
from effssl.run.device import Runtime
from effssl.views.decode_crops import random_crop, resized_crop, view_key
from effssl.views.stream import ViewStream

pytestmark = pytest.mark.slow

LOSSLESS = Storage(store="lossless")
SIZES = [(40, 60), (31, 97), (80, 80), (120, 45), (64, 33), (50, 51)]
AS_IT_IS = Augment(
    views=2, image_size=24, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    hflip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0, solarize_prob=0,
)  # fmt: skip


@pytest.fixture
def noise(tmp_path):
    """PNGs of noise, which JPEG changes more than anything."""
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for i, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{i}.png")
    return tmp_path / "set"


def stored(folder, storage=LOSSLESS):
    source = open_source("folder", folder, "train")
    return source, ensure_beton(source, folder.parent / "beton", "x", storage)


@numba.njit
def crop_of(image, key, size, scale, ratio):
    out = np.empty((size, size, 3), np.uint8)
    crop = random_crop(key, image.shape[0], image.shape[1], scale, ratio)
    resized_crop(image, crop, out, (0, 0, 0))
    return out


def crops_of(source, augment, epoch, seed):
    """The crops of the images themselves, which were never stored."""
    scale, ratio = np.array(augment.crop_scale), np.array(augment.crop_ratio)
    crops = [
        [
            crop_of(np.array(image), view_key(seed, epoch, i, k), augment.image_size, scale, ratio)
            for i, image in enumerate(source.images)
        ]
        for k in range(augment.views)
    ]
    return torch.from_numpy(np.array(crops)).permute(0, 1, 4, 2, 3) / 255


def views_of(beton, augment=AS_IT_IS):
    runtime = Runtime(torch.device("cpu"))
    stream = ViewStream(beton, augment, seed=3, batch_size=6, workers=2, runtime=runtime)
    ((views,), _) = next(stream.epoch(np.arange(6), 1))
    (clean,) = stream.clean(np.arange(6))
    return views, clean


def test_views_are_cut_from_the_very_pixels_of_the_files(noise):
    source, beton = stored(noise)
    assert check_beton(beton, source) == 6
    assert num_bytes_in(beton.path) == sum(3 * h * w for h, w in SIZES)
    views, clean = views_of(beton)
    torch.testing.assert_close(views, crops_of(source, AS_IT_IS, 1, 3), rtol=0, atol=1e-6)
    as_jpeg, clean_jpeg = views_of(stored(noise, Storage())[1])
    assert (views - as_jpeg).abs().mean() > 0.01
    assert 0.005 < (clean - clean_jpeg).abs().mean() < 0.2


def test_it_is_said_before_how_many_bytes_each_way_takes(noise, capsys):
    _, beton = stored(noise, Storage())
    as_jpeg = num_bytes_in(beton.path)
    lossless = sum(3 * h * w for h, w in SIZES)
    said = capsys.readouterr().out
    assert f"(6 images; as JPEG about {as_jpeg / 1e6:.2f} MB, lossless about" in said
    assert f"lossless about {lossless / 1e6:.2f} MB)" in said


def test_what_is_stored_in_another_way_is_another_file(noise):
    names = {stored(noise, each)[1].path for each in (Storage(), LOSSLESS)}
    assert len(names) == 2
    quality = replace(LOSSLESS, jpeg_quality=50)  # which moves nothing here
    assert stored(noise, quality)[1].path in names and not stored(noise, quality)[1].is_new


def test_longer_sides_are_shortened_and_read_back(noise):
    source, beton = stored(noise, replace(LOSSLESS, max_side=48))
    assert check_beton(beton, source) == 6
    shortened = [(h * min(1, 48 / max(h, w)), w * min(1, 48 / max(h, w))) for h, w in SIZES]
    assert num_bytes_in(beton.path) == sum(3 * int(h + 1e-6) * int(w + 1e-6) for h, w in shortened)
    assert views_of(beton)[0].shape == (2, 6, 3, 24, 24)


def test_an_image_larger_than_ffcvs_pages_is_stored(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (1900, 1800, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{i}.png", compress_level=0)
    source, beton = stored(tmp_path / "set", replace(LOSSLESS, max_side=2000))
    assert check_beton(beton, source) == 2
    assert num_bytes_in(beton.path) == 2 * 3 * 1900 * 1800


def test_a_damaged_store_is_told(noise):
    _, beton = stored(noise)
    content = beton.path.read_bytes()
    beton.path.write_bytes(content[:-100])
    with pytest.raises(InputError, match="is damaged"):
        stored(noise)

"""`--channels`: what the files have is what is stored, cropped and seen, without loss."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from effssl import InputError
from effssl.data.beton import ensure_beton
from effssl.data.beton_file import bytes_of, open_file
from effssl.data.decode import Decoding
from effssl.data.normalisation import measured
from effssl.data.read_back import check_beton
from effssl.data.sources import open_source
from effssl.data.stored import open_data, open_split
from effssl.data.values import KINDS, Values, in_unit_range, window_of
from effssl.image_config import Augment, Images, Storage
from effssl.run.device import Runtime
from effssl.views.counters import NUM_SLOTS, uniform
from effssl.views.draws import draw_crops
from effssl.views.stream import ViewStream

VARIED = [(40, 60), (31, 97), (80, 80), (120, 45), (64, 33), (50, 51)]
SQUARES = 6 * [(24, 24)]
RANGES = {"uint8": None, "uint16": (100, 4000), "float32": (-2.0, 3.0)}


def arrays(sizes, channels, kind):
    """Images whose values are beyond the window too, and NaN if they may be."""
    rng = np.random.default_rng(channels)
    made = []
    for height, width in sizes:
        values = rng.integers(0, 256 if kind == "uint8" else 5000, (height, width, channels))
        values = (values / 1000 - 2 if kind == "float32" else values).astype(kind)
        if kind == "float32":
            values[0, 0] = np.nan
        made.append(values)
    return made


def write(folder, images):
    folder.mkdir(parents=True)
    for i, values in enumerate(images):
        np.save(folder / f"{i}.npy", values)
    return folder


def stored(folder, channels, gray_range=None, **how):
    decoding = Decoding(gray_range, channels=channels)
    source = open_source("folder", folder, "train", decoding=decoding)
    storage = Storage(channels=channels, gray_range=gray_range, **how)
    return source, ensure_beton(source, folder.parent / "beton", "x", storage)


def as_they_are(channels, **settings):
    off = ("hflip_prob", "jitter_prob", "hue", "saturation", "gray_prob", "blur_prob")
    plain = dict.fromkeys((*off, "solarize_prob"), 0.0)
    looks = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    return Augment(**({"views": 2, "image_size": 16} | plain | looks | settings))


def views_of(beton, augment):
    runtime = Runtime(torch.device("cpu"))
    stream = ViewStream(beton, augment, seed=3, batch_size=6, workers=2, runtime=runtime)
    ((views,), _) = next(stream.epoch(np.arange(6), 1))
    (clean,) = stream.clean(np.arange(6))
    return views, clean


# Each number of channels and kind of values is compiled by itself, which takes seconds. The loops
# are the same for every number but three, so each kind is here with one other.
COMPILED = [*zip((1, 5, 1), KINDS, strict=True), (3, "uint16")]
CASES = [(*each, sizes) for each, sizes in itertools.product(COMPILED, (VARIED, SQUARES))]


@pytest.mark.parametrize("reader", ["ffcv", "threads"])
@pytest.mark.parametrize(("channels", "kind", "sizes"), CASES)
def test_views_are_cut_from_the_very_values_of_the_files(tmp_path, channels, kind, sizes, reader):
    images, given = arrays(sizes, channels, kind), RANGES[kind]
    source, beton = stored(write(tmp_path / "set", images), channels, given, loader=reader)
    assert check_beton(beton, source) == 6 and beton.side == (24 if sizes is SQUARES else None)
    assert beton.values == Values(channels, kind, window_of(kind, given))
    rows, _, storage, _ = open_file(beton.path)
    for row, values in zip(rows, images, strict=True):
        assert bytes_of(row, storage).tobytes() == values.tobytes()
    augment = as_they_are(channels)
    views, clean = views_of(beton, augment)
    u = uniform(torch.arange(6), num_views=2, seed=3, epoch=1)
    assert views.shape == (2, 6, channels, 16, 16) and u.shape[-1] >= NUM_SLOTS
    for i, values in enumerate(images):
        x = torch.from_numpy(in_unit_range(values, given)).permute(2, 0, 1)
        drawn = draw_crops(u[:, i : i + 1], augment, stored=values.shape[:2])
        for k in range(2):
            crop = [int(each[k, 0]) for each in drawn]
            expected = F.resized_crop(x, *crop, [16, 16], antialias=True).float()
            # Crops of bytes are rounded where images are of varied size.
            off = 0.51 / 255 if kind == "uint8" and sizes is VARIED else 2e-6
            torch.testing.assert_close(views[k, i], expected, rtol=0, atol=off)
    assert clean.shape == (6, channels, 16, 16) and clean.isfinite().all()
    assert float(clean.min()) >= 0 and float(clean.max()) <= 1


def test_a_window_is_that_of_who_reads(tmp_path):
    folder = write(tmp_path / "set", arrays(SQUARES, 2, "uint16"))
    _, narrow = stored(folder, 2, (0, 100))
    _, wide = stored(folder, 2, (0, 65_535))
    assert narrow.path == wide.path and narrow.is_new and not wide.is_new
    by_window = [views_of(each, as_they_are(2))[1] for each in (narrow, wide)]
    assert float(by_window[0].mean()) > 0.9 and float(by_window[1].mean()) < 0.1


def test_16_bits_that_are_not_used_are_an_error(tmp_path):
    images = [values // 2 for values in arrays(SQUARES, 2, "uint16")]
    with pytest.raises(InputError, match=r"6 of 6 images of 16 bits .*--gray-range LOW HIGH"):
        stored(write(tmp_path / "set", images), 2)
    assert not list((tmp_path / "beton").glob("*.beton"))


def test_longer_sides_are_shortened(tmp_path):
    images = [np.full((h, w, 5), 3000, np.uint16) for h, w in VARIED]
    source, beton = stored(write(tmp_path / "set", images), 5, (0, 6000), max_side=48)
    assert check_beton(beton, source) == 6
    heights = open_file(beton.path).images["height"].tolist()
    assert heights == [int(h * min(1, 48 / max(h, w)) + 1e-6) for h, w in VARIED]
    views, _ = views_of(beton, as_they_are(5))
    torch.testing.assert_close(views, torch.full_like(views, 0.5), rtol=0, atol=1e-6)


def test_images_may_be_larger_than_ffcvs_pages(tmp_path):
    """--max-side and the channels allow images of more bytes than 32 bits count."""
    images = arrays(VARIED, 2, "uint16")
    source, beton = stored(write(tmp_path / "set", images), 2, (0, 4000), max_side=40_000)
    assert check_beton(beton, source) == 6 and beton.path.stat().st_size < 2**25


def test_mean_and_deviation_are_measured_for_each_channel(tmp_path):
    rng = np.random.default_rng(0)
    scale = np.array([200, 2000, 4000])
    images = [(rng.random((24, 24, 3)) * scale).astype(np.uint16) for _ in range(20)]
    folder = write(tmp_path / "set", images)
    images = Images("folder", folder, tmp_path, channels=3, gray_range=(0, 4000))
    mean, std = measured(open_data(images))
    np.testing.assert_allclose(mean, scale / 8000, atol=5e-3)
    np.testing.assert_allclose(std, scale / 4000 / 12**0.5, atol=5e-3)


def mixed(folder):
    np.save(folder / "0.npy", np.zeros((8, 8, 2), np.uint8))
    return "images are of several kinds of values: 5 of uint16, 1 of uint8"


def of_other_channels(folder):
    np.save(folder / "0.npy", np.zeros((8, 9, 4), np.uint16))
    return r"0.npy does not decode: it has 4 channels, not 2"


def without_a_range(folder):
    np.save(folder / "0.npy", np.full((8, 8, 2), 7.5))
    return r"its values, from 7.5 to 7.5, do not say what is black .*--gray-range LOW HIGH"


def cut_short(folder):
    content = (folder / "0.npy").read_bytes()
    (folder / "0.npy").write_bytes(content[:200])
    return "0.npy does not decode"


def tiff_cut_short(folder):
    tifffile.imwrite(folder / "6.tif", np.ones((5, 30, 30), np.uint16))
    content = (folder / "6.tif").read_bytes()
    (folder / "6.tif").write_bytes(content[:400])
    return "6.tif does not decode"


def too_large(folder):
    tifffile.imwrite(folder / "6.tif", shape=(2, 30_000, 30_000), dtype=np.uint16)
    return r"6.tif does not decode: its 30000x30000 pixels take .* --max-image-gib"


FAULTS = [mixed, of_other_channels, without_a_range, cut_short, tiff_cut_short, too_large]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_files_is_one_line(tmp_path, fault):
    folder = write(tmp_path / "set", arrays(SQUARES, 2, "uint16"))
    said = fault(folder)
    storage = Storage("folder", folder, channels=2, workers=1, max_image_gib=1)
    with pytest.raises(InputError, match=said):
        open_split(replace(storage, gray_range=None), "train")
    assert not list((folder / "beton").glob("*.beton"))


def test_numpy_files_are_images_with_channels_alone(tmp_path):
    folder = write(tmp_path / "set" / "train" / "a", arrays(SQUARES, 2, "uint8"))
    write(folder.parent / "b", arrays(SQUARES, 2, "uint8"))
    with pytest.raises(InputError, match=r"12 \.npy; --channels reads \.npy as images"):
        open_source("folder", tmp_path / "set", "train")
    source = open_source("folder", tmp_path / "set", "train", decoding=Decoding(channels=2))
    assert len(source.images) == 12 and source.classes == ["a", "b"] and source.side == 24


def test_sets_that_are_no_files_have_no_channels_to_choose(tmp_path):
    with pytest.raises(InputError, match="--channels is for image files; those of digits are RGB"):
        open_source("digits", tmp_path, "train", decoding=Decoding(channels=2))


def test_photographs_may_be_kept_as_they_are_too(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(6):
        Image.fromarray(arrays(VARIED, 3, "uint8")[i]).save(tmp_path / "set" / f"{i}.png")
    source, beton = stored(tmp_path / "set", 3)
    assert check_beton(beton, source) == 6
    note = json.loads(beton.path.with_suffix(".json").read_text())
    assert (note["kind"], note["channels"], note["store"]) == ("uint8", 3, "raw")

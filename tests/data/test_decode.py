"""Gray of more than 8 bits, and images that are large."""

from __future__ import annotations

import json
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effssl import InputError, cli
from effssl.data.decode import Decoding, decode, judge_gray
from effssl.data.stored import open_split
from effssl.data.windows import with_range
from effssl.image_config import Storage

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))


def saved(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "values", "gray_range"),
    [
        ("unit.tif", RAMP.astype(np.float32), (0, 1)),
        ("signed.tif", (RAMP * 2000 - 1000).astype(np.int32), (-1000, 1000)),
        ("twelve.png", (RAMP * 4095).astype(np.uint16), (0, 4095)),
        ("twelve.pgm", (RAMP * 4095).astype(np.uint16), (0, 4095)),
        ("part.tif", (RAMP * 300 - 20).astype(np.float32), (0, 255)),
    ],
)
def test_a_gray_range_is_mapped_to_black_and_white(tmp_path, name, values, gray_range):
    pixels = decode(saved(tmp_path / name, values), Decoding(gray_range)).pixels
    low, high = gray_range
    expected = (255 * (values.astype(float) - low) / (high - low)).clip(0, 255)
    assert np.abs(pixels[..., 0] - expected).max() <= 0.5001
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_16_bits_whose_white_is_0_are_no_negatives(tmp_path, compression):
    values = (RAMP * 65_535).astype(np.uint16)
    file = tmp_path / "x.tif"
    Image.fromarray(~values).save(file, tiffinfo={262: 0}, compression=compression)
    decoded = decode(file, Decoding())
    np.testing.assert_array_equal(decoded.pixels[..., 0], values // 256)
    assert decoded.gray_high == 65_535
    ranged = decode(file, Decoding((0, 4095))).pixels[..., 0]
    assert np.abs(ranged - (255 * (values / 4095)).clip(0, 255)).max() <= 0.5001


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_gray_of_an_unknown_range_is_an_error_that_names_the_flag(tmp_path, kind):
    file = saved(tmp_path / "x.tif", (RAMP * 40).astype(kind))
    with pytest.raises(InputError, match=r"x\.tif .* from 0 to 40, .*--gray-range LOW HIGH"):
        decode(file, Decoding())


def test_numbers_that_are_none_come_out_black(tmp_path):
    values = RAMP.astype(np.float32)
    values[0] = np.nan
    assert (decode(saved(tmp_path / "x.tif", values), Decoding((-1, 1))).pixels[0] == 0).all()


def test_sets_that_use_a_part_of_16_bits_are_judged_as_a_whole():
    assert judge_gray([], has_range=False) is judge_gray([], has_range=True) is None
    assert judge_gray([4096, 65_535], has_range=False) is None
    assert "1 of 2 images of 16 bits use less" in judge_gray([4095, 65_535], has_range=False)
    with pytest.raises(InputError, match=r"2 of 2 .*largest value is 4095.*--gray-range LOW HIGH"):
        judge_gray([4095, 12], has_range=False)


@pytest.mark.parametrize("side", [16, 40], ids=["raw", "jpeg"])
def test_a_set_that_would_be_black_is_not_stored(tmp_path, capsys, side):
    shape = (side, side if side == 16 else side + 3)
    dim = np.full(shape, 4000, np.uint16)
    for folder in "ab":
        saved(tmp_path / folder / "x.png", dim)
    storage = Storage("folder", tmp_path, workers=1)
    with pytest.raises(InputError, match="2 of 2 images of 16 bits"):
        open_split(storage, "train")
    assert not [f for f in (tmp_path / "beton").iterdir() if f.suffix != ".lock"]
    _, ranged = open_split(Storage("folder", tmp_path, workers=1, gray_range=(0, 4095)), "train")
    assert json.loads(ranged.path.with_suffix(".json").read_text())["gray_range"] == [0, 4095]
    saved(tmp_path / "a" / "y.png", np.full(shape, 60_000, np.uint16))
    capsys.readouterr()
    for _ in range(2):  # also if it is stored already
        open_split(storage, "train")
        assert "2 of 3 images of 16 bits use less than a sixteenth" in capsys.readouterr().out


def write_deep(file: Path, top: int, **how) -> Path:
    """Colours of 16 bits, from 0 to `top`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.linspace(0, top, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint16)
    if file.suffix == ".png":
        file.write_bytes(pytest.importorskip("imagecodecs").png_encode(values))
    else:
        planes = values if how.get("planarconfig") != "separate" else np.moveaxis(values, 2, 0)
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(file, np.ascontiguousarray(planes), photometric="rgb", **how)
    return file


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".png", {}),
        (".tif", {}),
        (".tif", {"byteorder": ">"}),
        (".tif", {"compression": "deflate"}),
    ],
)
def test_colours_of_16_bits_are_judged_as_gray_is(tmp_path, suffix, how):
    bright = decode(write_deep(tmp_path / f"x{suffix}", 65_535, **how), Decoding())
    assert (bright.gray_high, bright.pixels.max()) == (65_535, 255)
    for folder in "ab":
        write_deep(tmp_path / "set" / folder / f"x{suffix}", 4095, **how)
    with pytest.raises(
        InputError, match=r"2 of 2 images of 16 bits .*of colours, with --channels 3"
    ):
        open_split(Storage("folder", tmp_path / "set", workers=1), "train")
    as_they_are = Storage("folder", tmp_path / "set", workers=1, channels=3, gray_range=(0, 4095))
    assert open_split(as_they_are, "train")[1].values.kind == "uint16"


@pytest.mark.parametrize("window", [(0, 4095), (0, 20_000)])
def test_a_gray_range_does_not_pretend_to_be_for_colours(tmp_path, capsys, window):
    for folder, top in (("a", 4095), ("b", 20_000)):
        write_deep(tmp_path / folder / "x.png", top)
    saved(tmp_path / "b" / "gray.png", (4000 * RAMP[:16, ::4]).astype(np.uint16))
    _, without = open_split(Storage("folder", tmp_path, workers=1), "train")
    assert "2 of 3 images of 16 bits use less" in (out := capsys.readouterr().out)
    assert "--gray-range alters that, of colours with --channels 3" in out
    storage = Storage("folder", tmp_path, workers=1, gray_range=window)
    for _ in range(2):  # also if it is stored already
        _, stored = open_split(storage, "train")
        out = capsys.readouterr().out
        assert "2 images are colours of 16 bits, of which the upper 8 are taken" in out
        assert "with --channels 3 alone" in out and "alters that" not in out
    assert stored.path != without.path


def test_a_range_is_not_measured_of_colours_that_it_is_not_for(tmp_path):
    write_deep(tmp_path / "colours.png", 60_000)
    with pytest.raises(InputError, match=r"no gray image of more than 8 bits .*--channels 3"):
        with_range(Storage("folder", tmp_path, gray_range="auto"))
    assert with_range(Storage("folder", tmp_path, channels=3, gray_range="auto")).gray_range[1] > 0
    saved(tmp_path / "gray.png", (4000 * RAMP).astype(np.uint16))
    _, high = with_range(Storage("folder", tmp_path, gray_range="auto")).gray_range
    assert high <= 4000


def test_planes_of_16_bits_that_pillow_misreads_are_named(tmp_path):
    file = write_deep(tmp_path / "x.tif", 65_535, planarconfig="separate")
    with pytest.raises(InputError, match=r"16 bits, each in a plane of its own; --channels N"):
        decode(file, Decoding())
    assert decode(file, Decoding(channels=3)).pixels.max() == 65_535


def test_a_gray_range_is_two_numbers(tmp_path):
    assert cli.parse_storage(["--gray-range", "0", "4095"]).gray_range == (0, 4095)
    assert cli.parse_storage(["--gray-range", "-1000", "0.5"]).gray_range == (-1000, 0.5)
    assert cli.parse_storage([]).gray_range is None
    for given in ([], ["--gray-range", "0", "4095"]):  # as a run notes it
        cfg = cli.parse(given)
        file = tmp_path / "config.yaml"
        file.write_text(cli.dump(cfg))
        assert cli.load(file).images.gray_range == cfg.images.gray_range
    for flags in (["9", "3"], ["0"], ["0", "nan"], ["0", "x"]):
        with pytest.raises(InputError, match="--gray-range"):
            cli.parse_storage(["--gray-range", *flags])


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that says its size, and has no pixels."""
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">2I", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return path


def test_pillows_limit_is_not_met(tmp_path):
    with warnings.catch_warnings(), pytest.raises(InputError) as raised:
        warnings.simplefilter("error")
        decode(png_header(tmp_path / "x.png", 14_000, 14_000), Decoding())
    assert "bomb" not in str(raised.value)


def test_too_large_an_image_is_named_with_its_size_the_limit_and_the_flag(tmp_path):
    file = png_header(tmp_path / "x.png", 20_000, 30_000)
    said = r"x\.png .* 20000x30000 pixels take about 13\.4 GiB .* 8 GiB are .*--max-image-gib"
    with pytest.raises(InputError, match=said):
        decode(file, Decoding())


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_only_large_jpegs_are_decoded_smaller(tmp_path, monkeypatch, options):
    file = tmp_path / "x.jpg"
    image = Image.fromarray((255 * RAMP).astype(np.uint8)).resize((1600, 1200)).convert("RGB")
    image.save(file, **options)
    whole = decode(file, Decoding(enough_px=200)).pixels
    assert whole.shape == (1200, 1600, 3)
    monkeypatch.setattr("effssl.data.decode.LARGE", 1_000_000)
    small = decode(file, Decoding(enough_px=200, max_gib=0.014)).pixels
    assert small.shape == (300, 400, 3)  # 150 were less than 200
    assert np.abs(small.astype(int) - whole[2::4, 2::4]).max() <= 4
    coefficients_gib = 0.0107 if options else 0
    with pytest.raises(InputError, match="1600x1200"):
        decode(file, Decoding(enough_px=200, max_gib=coefficients_gib + 0.002))

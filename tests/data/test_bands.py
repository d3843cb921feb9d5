"""Files of any channels and depths, read as they are."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from effssl import InputError
from effssl.data.bands import as_stored, read_header, read_raster, with_channels
from effssl.data.decode import Decoding, decode

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 4096, (5, 20, 30), dtype=np.uint16)  # [bands, height, width]
BYTES = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)


def tiff(values, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **({"photometric": "minisblack"} | how))
    return file


def numpys(values):
    file = io.BytesIO()
    np.save(file, values)
    return file


def pillows(values, kind="PNG", mode=None, **how):
    return pillow_file(Image.fromarray(values, mode), kind, **how)


def pillow_file(image, kind, **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file


def deep_png(values):
    """A PNG of 16 bits a channel [height, width, 1 to 4], which Pillow does not write."""
    height, width, channels = values.shape
    colours = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + content))
        parts += [struct.pack(">I", len(content)), name, content, crc]
    return io.BytesIO(b"".join(parts))


HWC = np.moveaxis(DEEP, 0, 2)
READ = {
    "pages of a TIFF": (tiff(DEEP), HWC),
    "compressed pages": (tiff(DEEP, compression="deflate"), HWC),
    "samples of a TIFF": (tiff(HWC.copy(), planarconfig="contig"), HWC),
    "planes of a TIFF": (tiff(DEEP, planarconfig="separate"), HWC),
    "one plane": (tiff(DEEP[0]), HWC[..., :1]),
    "floats": (tiff(DEEP[0].astype(np.float32) / 7), HWC[..., :1].astype(np.float32) / 7),
    "signed": (tiff(DEEP[0].astype(np.int16) - 999), HWC[..., :1].astype(np.int16) - 999),
    "big-endian": (tiff(DEEP, byteorder=">"), HWC),
    "white is 0": (tiff(255 - BYTES[..., 0], photometric="miniswhite"), BYTES[..., :1]),
    "NumPy, bands first": (numpys(DEEP), HWC),
    "NumPy, bands last": (numpys(HWC), HWC),
    "NumPy, one band": (numpys(DEEP[0]), HWC[..., :1]),
    "PNG of 16 bits": (pillows(DEEP[0]), HWC[..., :1]),
    "PNG of 16 bits in colours": (deep_png(HWC[..., :3]), HWC[..., :3]),
    "PNG of 16 bits with alpha": (deep_png(HWC[..., :4]), HWC[..., :4]),
    "PNG of 8 bits": (pillows(BYTES[..., :3]), BYTES[..., :3]),
    "PNG with alpha": (pillows(BYTES), BYTES),
    "gray PNG": (pillows(BYTES[..., 0].copy()), BYTES[..., :1]),
    "gray PNG with alpha": (pillows(BYTES[..., :2].copy(), mode="LA"), BYTES[..., :2]),
    "PGM of 16 bits": (pillows(DEEP[0].astype(np.int32), "PPM"), HWC[..., :1]),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", READ)
def test_values_are_those_of_the_file(kind):
    file, expected = READ[kind]
    header = read_header(file)
    assert (header.size, header.channels) == ((20, 30), expected.shape[2])
    values = as_stored(read_raster(file).values)
    assert values.dtype in (np.uint8, np.uint16, np.float32)
    np.testing.assert_array_equal(values, expected)


def with_chunk(png, name, text):
    content = png.getvalue()
    chunk = struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text))
    return io.BytesIO(content[:33] + chunk + content[33:])  # behind the header


def with_transparent(png):
    """Say that black is transparent, in a PNG that has no alpha."""
    return with_chunk(png, b"tRNS", bytes(6))


PALETTE = Image.fromarray(BYTES[..., :3]).quantize(16)
CONVERTED = {
    "P": pillow_file(PALETTE, "PNG"),
    "P with transparency": pillow_file(PALETTE, "PNG", transparency=3),
    "P of a GIF": pillow_file(PALETTE, "GIF"),
    "P of a GIF with transparency": pillow_file(PALETTE, "GIF", transparency=3),
    "gray with transparency": pillow_file(Image.fromarray(BYTES[..., 0]), "PNG", transparency=3),
    "RGB with transparency": with_transparent(pillows(BYTES[..., :3])),
    "RGB of 16 bits with transparency": with_transparent(deep_png(HWC[..., :3])),
    "gray of 16 bits with alpha": deep_png(HWC[..., :2]),
    "CMYK": pillow_file(Image.fromarray(BYTES[..., :3]).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_headers_say_the_channels_that_are_read(kind):
    file = CONVERTED[kind]
    header, raster = read_header(file), read_raster(file)
    assert (*header.size, header.channels) == raster.values.shape
    assert raster.has_alpha == ("with" in kind)
    assert header.bits == 8 * raster.values.itemsize


@pytest.mark.parametrize("mode", ["PA", "RGBX"])
def test_modes_that_few_files_have_are_read_as_their_header_says(monkeypatch, mode):
    """Pillow opens them in formats that hardly anybody has, or no more."""
    image = Image.fromarray(BYTES[..., :3]).convert("P" if mode == "PA" else "RGB").convert(mode)
    monkeypatch.setattr(Image, "open", lambda file: image)
    channels = read_header(io.BytesIO()).channels
    assert read_raster(io.BytesIO()).values.shape == (20, 30, channels)
    assert channels == (4 if mode == "PA" else 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation):
    image = Image.fromarray(BYTES[..., :3])
    exif = image.getexif()
    exif[274] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    np.testing.assert_array_equal(read_raster(file).values, expected)
    as_tiff = tiff(HWC.copy(), planarconfig="contig", extratags=[(274, "H", 1, orientation, True)])
    turned = read_raster(as_tiff).values
    np.testing.assert_array_equal(turned.shape[:2], expected.shape[:2])
    by_pillow = ImageOps.exif_transpose(Image.open(file)).getpixel((0, 0))
    place = np.argwhere((BYTES[..., :3] == by_pillow).all(-1))[0]
    np.testing.assert_array_equal(turned[0, 0], HWC[tuple(place)])
    deep = with_chunk(deep_png(HWC[..., :3]), b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    np.testing.assert_array_equal(read_raster(deep).values, turned[..., :3])


def test_channels_are_those_that_are_asked_for():
    rgb, gray = read_raster(READ["PNG of 8 bits"][0]), read_raster(READ["gray PNG"][0])
    assert (with_channels(gray, 3) == BYTES[..., :1]).all()
    gray_in_colours = read_raster(pillows(BYTES[..., :1].repeat(3, 2)))
    np.testing.assert_array_equal(with_channels(gray_in_colours, 1), BYTES[..., :1])
    for raster, channels in ((rgb, 1), (rgb, 4), (gray, 2), (read_raster(tiff(DEEP)), 4)):
        with pytest.raises(ValueError, match=rf"it has \d channels, not {channels}"):
            with_channels(raster, channels)


@pytest.mark.parametrize("file", ["PNG with alpha", "PNG of 16 bits with alpha"])
def test_transparency_is_a_channel_or_laid_on_white(file):
    raster = read_raster(READ[file][0])
    np.testing.assert_array_equal(with_channels(raster, 4), READ[file][1])
    white = np.iinfo(raster.values.dtype).max
    opaque = raster.values[..., 3:].astype(float) / white
    expected = raster.values[..., :3] * opaque + white * (1 - opaque)
    assert np.abs(with_channels(raster, 3) - expected).max() <= 0.5


def test_a_tiff_says_which_channel_is_alpha():
    rgba = tiff(BYTES, photometric="rgb", extrasamples=["unassalpha"])
    four = tiff(BYTES, photometric="rgb", extrasamples=["unspecified"])
    assert read_raster(rgba).has_alpha and not read_raster(four).has_alpha
    with pytest.raises(ValueError, match="it has 4 channels, not 3"):
        with_channels(read_raster(four), 3)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full((4, 4, 1), 2**24 + 1, np.int32), "too large for 32-bit floats"),
        (np.ones((4, 4, 1), np.complex64), "complex64, of which no image is made"),
    ],
)
def test_values_that_would_change_are_refused(values, why):
    with pytest.raises(ValueError, match=why):
        as_stored(values)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4, 5), (0, 4, 4)])
def test_arrays_that_are_no_image_are_refused(shape):
    with pytest.raises(ValueError, match="is not"):
        read_raster(numpys(np.zeros(shape)))


def test_objects_in_an_array_run_no_code():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_raster(file)


def test_a_tiff_of_bands_says_what_reads_it(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", HWC, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"x.tif does not decode: .*; --channels N reads TIFFs"):
        decode(tmp_path / "x.tif", Decoding())
    assert decode(tmp_path / "x.tif", Decoding(channels=5)).pixels.shape == (20, 30, 5)


def test_an_array_is_read_again_where_threads_disturbed_its_header(tmp_path, monkeypatch):
    """Python 3.11's ast counts its depth for all threads together, and NumPy's headers are parsed
    by it."""
    values = np.arange(24, dtype=np.uint16).reshape(3, 4, 2)
    np.save(tmp_path / "x.npy", values)
    loads, load = [], np.load

    def disturbed(file, **how):
        loads.append(file.tell())
        if len(loads) == 1:
            file.read(20)
            raise SystemError("AST constructor recursion depth mismatch (before=54, after=51)")
        return load(file, **how)

    monkeypatch.setattr(np, "load", disturbed)
    with (tmp_path / "x.npy").open("rb") as file:
        np.testing.assert_array_equal(read_raster(file).values, values)
    assert loads == [0, 0]

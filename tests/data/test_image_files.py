from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from effssl import InputError
from effssl.data.decode import TURNS, Decoding
from effssl.data.image_files import ImageFiles, about_others, find_images, images_below, suffixes
from tests.conftest import write_class_folders

RED = (250, 20, 40)


def decoded(path: Path) -> np.ndarray:
    return ImageFiles([path], Decoding())[0]


def transparent_palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, *RED])
    image.paste(0, (0, 0, 4, 8))
    return image


@pytest.mark.parametrize(
    ("name", "image", "options", "left", "right"),
    [
        ("gray.png", Image.new("L", (8, 8), 77), {}, (77,) * 3, (77,) * 3),
        ("gray.jpg", Image.new("L", (8, 8), 77), {}, (77,) * 3, (77,) * 3),
        ("gray-alpha.png", Image.new("LA", (8, 8), (100, 255)), {}, (100,) * 3, (100,) * 3),
        (
            "gray-half.png",
            Image.new("LA", (8, 8), (100, 51)),
            {},
            (224,) * 3,
            (224,) * 3,
        ),  # 0.2 * 100 + 0.8 * 255
        ("alpha.png", Image.new("RGBA", (8, 8), (*RED, 255)), {}, RED, RED),
        (
            "clear.webp",
            Image.new("RGBA", (8, 8), (0, 0, 0, 0)),
            {"lossless": True},
            (255,) * 3,
            (255,) * 3,
        ),
        ("palette.gif", transparent_palette(), {}, (9, 9, 9), RED),
        ("palette-clear.gif", transparent_palette(), {"transparency": 0}, (255,) * 3, RED),
        (
            "palette-clear.png",
            transparent_palette(),
            {"transparency": bytes([0, 255])},
            (255,) * 3,
            RED,
        ),
        ("keyed.png", Image.new("RGB", (8, 8), RED), {"transparency": RED}, (255,) * 3, (255,) * 3),
        ("cmyk.tif", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), {}, (255, 0, 0), (255, 0, 0)),
        ("one-bit.png", Image.new("1", (8, 8), 1), {}, (255,) * 3, (255,) * 3),
        ("one-bit.tif", Image.new("1", (8, 8), 0), {}, (0,) * 3, (0,) * 3),
        (
            "deep.png",
            Image.fromarray(np.full((8, 8), 40_000, np.uint16)),
            {},
            (156,) * 3,
            (156,) * 3,
        ),
        (
            "deep.tif",
            Image.fromarray(np.full((8, 8), 65_535, np.uint16)),
            {},
            (255,) * 3,
            (255,) * 3,
        ),
        (
            "deep.pgm",
            Image.fromarray(np.full((8, 8), 40_000, np.uint16)),
            {},
            (156,) * 3,
            (156,) * 3,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_every_kind_come_out_as_rgb(tmp_path, name, image, options, left, right):
    image.save(tmp_path / name, **options)
    pixels = decoded(tmp_path / name)
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
    tolerance = 3 if name.endswith(".jpg") else 0
    assert np.abs(pixels[4, 0].astype(int) - left).max() <= tolerance
    assert np.abs(pixels[4, 7].astype(int) - right).max() <= tolerance


def test_jpegs_of_adobe_store_cmyk_inverted_which_is_undone(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert np.abs(decoded(tmp_path / "a.jpg")[4, 4].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    ("kind", "bits"), [(0, "gray"), (2, "rgb"), (4, "gray and alpha"), (6, "rgb and alpha")]
)
def test_png_of_16_bits(tmp_path, kind, bits):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    values = [40_000, 10_000, 65_535, 65_535] if channels > 2 else [40_000, 65_535]
    row = (
        b"\0" + struct.pack(f">{channels}H", *values[:channels]) * 8
    )  # Pillow itself writes only gray

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = chunk(b"IHDR", struct.pack(">2I5B", 8, 8, 16, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    expected = [40_000, 10_000, 65_535] if channels > 2 else [40_000] * 3
    assert (
        np.abs(decoded(tmp_path / "x.png")[3, 3].astype(int) - np.array(expected) / 257).max() <= 1
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_images_upright(tmp_path, suffix, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # EXIF says which side of the scene the stored row 0 and column 0 are: 6 is (right, top), 8 is
    # (left, bottom).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"x.{suffix}", exif=exif)
    turned = decoded(tmp_path / f"x.{suffix}")
    assert turned.shape == upright.shape
    for row, column in [(4, 4), (4, 44), (28, 4), (28, 44)]:
        assert np.abs(turned[row, column].astype(int) - upright[row, column]).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_tiffs_that_pillow_would_map_into_memory_are_turned_too(tmp_path, mode, orientation):
    values = np.arange(40 * 60).reshape(40, 60)
    image = Image.fromarray((16 * values).astype(np.uint16))
    if mode != "I;16":
        image = Image.fromarray((values % 251).astype(np.uint8)).convert("RGB").convert(mode)
    image.save(tmp_path / "x.tif")
    stored = decoded(tmp_path / "x.tif")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "y.tif", exif=exif)
    turn = TURNS.get(orientation)
    upright = stored if turn is None else np.asarray(Image.fromarray(stored).transpose(turn))
    np.testing.assert_array_equal(decoded(tmp_path / "y.tif"), upright)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        tmp_path / f"x.{suffix}"
    )
    whole = (tmp_path / f"x.{suffix}").read_bytes()
    for part in (0, 0.3, 0.7):
        (tmp_path / f"x.{suffix}").write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(InputError, match=rf"x\.{suffix} does not decode: "):
            decoded(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize(
    "name", ["x.avif", "x.JP2", "x.j2k", "x.jpe", "x.pnm", "x.pbm", "x.tga", "x.apng", "x.mpo"]
)
def test_what_pillow_reads_as_photographs_is_taken(tmp_path, name):
    save_as = {"format": "JPEG"} if name == "x.mpo" else {}
    image = Image.new("1" if name == "x.pbm" else "RGB", (12, 8))
    image.save(tmp_path / name, **save_as)
    assert list(find_images(tmp_path).images) == [tmp_path / name]
    assert decoded(tmp_path / name).shape == (8, 12, 3)


def test_what_is_not_taken_is_counted_by_suffix(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    for name in ["a.HEIC", "b.heic", "c.mp4", "e.pdf", "d", "f.psd", "g.ico", ".hidden.heic"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "beton").mkdir()
    for name in ["x.beton", "x.json", "x.lock"]:
        (tmp_path / "beton" / name).write_bytes(b"")
    images, others = find_images(tmp_path)
    assert list(images) == [tmp_path / "x.png"]
    assert others == {".heic": 2, ".mp4": 1, "": 1, ".pdf": 1, ".psd": 1, ".ico": 1}
    (note,) = about_others(tmp_path, others)
    assert ": 2 .heic, 1 ." in note
    assert note.endswith(" and 1 more")
    (tmp_path / "x.png").unlink()
    with pytest.raises(InputError, match=r"no images in .* of other kinds: 2 \.heic, 1 "):
        images_below(tmp_path, Decoding())


def test_no_suffix_that_was_taken_is_lost():
    before = ".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm"
    assert suffixes() >= set(before.split())
    assert not suffixes() & {".pdf", ".eps", ".psd", ".mpg", ".h5", ".ico"}


@pytest.mark.parametrize(
    "folder", ["@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", "__MACOSX", "@Recycle"]
)
def test_folders_of_storage_boxes_are_no_classes(tmp_path, folder):
    for parent in ("a", "b", folder, f"a/{folder}/0.png", f"b/deep/{folder}"):
        (tmp_path / parent).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / parent / "x.png")
    files, labels, classes, notes = images_below(tmp_path, Decoding())
    assert (len(files), labels.tolist(), classes) == (2, [0, 1], ["a", "b"])
    assert notes == [f"{tmp_path} has 2 images in 2 classes (a, b)"]


def test_folders_below_need_not_be_classes(tmp_path):
    write_class_folders(tmp_path, classes=2)
    files, labels, classes, notes = images_below(tmp_path, Decoding(), folders_are_classes=False)
    assert (len(files), set(labels), classes) == (12, {-1}, [])
    assert notes == [f"{tmp_path} has 12 images, no labels"]

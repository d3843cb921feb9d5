"""An image file -> upright pixels: RGB, or with --channels what the file has."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from effssl import InputError
from effssl.data.bands import as_stored, read_header, read_raster, with_channels

TURNS = {  # EXIF's orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF's tags
WHITE_OF_16_BITS = 65_535
# Pillow warns of half as many pixels and refuses more, to guard servers from files of strangers.
# These files are the user's own: `_check_size` holds them to a memory limit instead.
LARGE = 178_956_970
Image.MAX_IMAGE_PIXELS = None
# What Pillow cannot open is named here, once; it would log lines of its own to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
GIB_PER_PIXEL = 24 / 2**30  # measured at most: 14 for RGB, 18 if it is turned, 22 with transparency
GIB_PER_DEEP_PIXEL = 40 / 2**30  # 33 to 37 for gray that is scaled from more than 8 bits
BYTES_PER_BIT = 3 / 8  # of values that are kept: as they are read, upright, and stored
GIB_PER_COEFFICIENTS = 6 / 2**30  # that a progressive JPEG keeps of each pixel, at full size
DIM = (WHITE_OF_16_BITS + 1) // 16  # what 12 bits in 16 stay below


class Decoding(NamedTuple):
    """How files become pixels."""

    gray_range: tuple[float, float] | None = None  # black and white of more than 8 bits
    max_gib: float = 8.0  # memory that decoding an image may take
    enough_px: int = 1000  # LARGE JPEGs are decoded smaller, their shorter side at least this
    channels: int | None = None  # None: RGB of 8 bits; else what the files have to have

    @property
    def has_arrays(self) -> bool:
        """Values are kept as they are."""
        return self.channels is not None


DEFAULT = Decoding()


class Decoded(NamedTuple):
    """An image, and what its values say about the range that was assumed for them."""

    pixels: np.ndarray  # uint8 [height, width, 3], or one of values.KINDS [height, width, channels]
    gray_high: int | None  # largest of 16-bit values that were taken as 0 to 65,535; see judge_gray


class Readable(Protocol):
    """A file that is part of another, such as an archive; its text names it."""

    @property
    def size(self) -> int: ...

    def read_bytes(self) -> bytes: ...


def opened(file: Path | Readable) -> Image.Image:
    """Open an image, of which the header is read. Raises what Pillow does, which is nearly any
    exception for damaged files."""
    image = Image.open(file if isinstance(file, Path) else io.BytesIO(file.read_bytes()))
    # Pillow maps a named file into memory where it can, and TIFFs that EXIF turns on their side by
    # the sides of the upright image, which scrambles them.
    image.filename = ""
    return image


def stream_of(file: Path | Readable) -> BinaryIO:
    """Open a file to be read."""
    return file.open("rb") if isinstance(file, Path) else io.BytesIO(file.read_bytes())


def decode(path: Path | Readable, decoding: Decoding) -> Decoded:
    """Decode an image. Raises InputError naming the file and the reason if it cannot be used."""
    try:
        if decoding.has_arrays:
            with stream_of(path) as stream:
                return _as_it_is(stream, decoding)
        with opened(path) as image:
            return _decoded(image, decoding)
    except Exception as error:  # damaged files make Pillow raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        is_tiff = str(path).lower().endswith((".tif", ".tiff")) and not decoding.has_arrays
        hint = "; --channels N reads TIFFs of N bands" if is_tiff else ""
        raise InputError(f"{path} does not decode: {reason}{hint}") from None


def judge_gray(gray_highs: Sequence[int], *, has_range: bool) -> str | None:
    """Judge by the largest value of each 16-bit image of a set whether 16 bits are used.

    has_range: gray is seen by a range that is given, so that these images are colours.

    Returns a sentence if some images stay below a sixteenth of the range, or if another is given,
    which is not for colours. Raises InputError if all stay below it: they would be black.
    """
    num_images, num_dim = len(gray_highs), sum(high < DIM for high in gray_highs)
    counted = f"{num_dim} of {num_images} images of 16 bits"
    if num_dim < num_images and has_range:
        return (
            f"{num_images} images are colours of 16 bits, of which the upper 8 are taken as they "
            "are: --gray-range is for them with --channels 3 alone"
        )
    if num_dim == 0:
        return None
    if num_dim < num_images:
        return (
            f"{counted} use less than a sixteenth of the range 0 to 65535, and come out dark; "
            "--gray-range alters that, of colours with --channels 3"
        )
    raise InputError(
        f"{counted} use less than a sixteenth of the range 0 to 65535 (the largest value is "
        f"{max(gray_highs)}) and would be black; --gray-range LOW HIGH says which values are black "
        "and white: 0 4095 for 12 bits, 0 65535 if they are meant to be dark (of colours, with "
        "--channels 3)"
    )


def _as_it_is(file: BinaryIO, decoding: Decoding) -> Decoded:
    """Keep an image's values. Raises ValueError if they do not say what is black and white."""
    assert decoding.channels is not None
    header = read_header(file)
    needed_gib = math.prod(header.size) * header.channels * header.bits * BYTES_PER_BIT / 2**30
    height, width = header.size
    _check_memory(width, height, needed_gib, decoding)
    pixels = as_stored(with_channels(read_raster(file), decoding.channels))
    if decoding.gray_range is None and pixels.dtype == np.float32:
        low, high = np.nan_to_num(pixels).min(), np.nan_to_num(pixels).max()
        if low < 0 or high > 1:
            raise ValueError(_no_range("values", low, high))
    is_judged = decoding.gray_range is None and pixels.dtype == np.uint16
    return Decoded(pixels, int(pixels.max()) if is_judged else None)


def _no_range(what: str, low: float, high: float) -> str:
    return (
        f"its {what}, from {low:g} to {high:g}, do not say what is black and what is white; "
        "--gray-range LOW HIGH does"
    )


def _decoded(image: Image.Image, decoding: Decoding) -> Decoded:
    """Turn an image as EXIF says, scale gray to 8 bits, and lay transparency on white.

    What lies under transparency is arbitrary.
    """
    _check_size(image, decoding)
    has_deep_colours = _has_deep_colours(image)
    image.load()  # PNG and TIFF know their orientation only now
    has_16_bits = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
    gray_high = 256 * int(np.asarray(image)[..., :3].max()) + 255 if has_deep_colours else None
    # Not ImageOps.exif_transpose: it also writes the EXIF anew, which fails for tags that it cannot
    # express.
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode[0] in "IF":  # Pillow would clip to 255 instead of scaling
        values = np.asarray(upright)
        if has_16_bits and isinstance(image, TiffImageFile) and not image.tag_v2.get(_PHOTOMETRIC):
            values = ~values  # white is 0, which Pillow minds in 8 bits alone
        if decoding.gray_range is not None:
            gray = _scaled(values, *decoding.gray_range)
        elif has_16_bits:
            gray = (values // 256).clip(0, 255).astype(np.uint8)
            gray_high = int(values.max())
        else:
            raise ValueError(_no_range("gray values", values.min(), values.max()))
        upright = Image.fromarray(gray)
    if upright.has_transparency_data:
        colours = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return Decoded(np.asarray(upright.convert("RGB")), gray_high)


def _has_deep_colours(image: Image.Image) -> bool:
    """Say whether an image, not loaded yet, has colours of 16 bits, of which Pillow reads the upper
    8. Raises ValueError for TIFFs of which it would read nonsense."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    is_deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, ()) if isinstance(image, TiffImageFile) else ()
    if max(bits, default=8) > 8 and not is_deep:
        raise ValueError(f"its colours have {max(bits)} bits, each in a plane of its own")
    return is_deep


def _check_size(image: Image.Image, decoding: Decoding) -> None:
    """Let a LARGE JPEG be decoded smaller, and look at the memory that decoding will take.

    Raises ValueError if it is too much. A JPEG that is not LARGE is decoded in full, which takes
    longer, but stored pixels stay what they were.
    """
    width, height = image.size
    needed_gib = 0.0
    if width * height > LARGE:
        image.draft(None, (decoding.enough_px, decoding.enough_px))  # nothing but for JPEGs
        if "progressive" in image.info:
            needed_gib += width * height * GIB_PER_COEFFICIENTS
    decoded_width, decoded_height = image.size
    per_pixel = GIB_PER_DEEP_PIXEL if image.mode[0] in "IF" else GIB_PER_PIXEL
    needed_gib += decoded_width * decoded_height * per_pixel
    _check_memory(width, height, needed_gib, decoding)


def _check_memory(width: int, height: int, needed_gib: float, decoding: Decoding) -> None:
    if needed_gib > decoding.max_gib:
        raise ValueError(
            f"its {width}x{height} pixels take about {needed_gib:.3g} GiB of memory, and "
            f"{decoding.max_gib:g} GiB are allowed; --max-image-gib allows more"
        )


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low to 0 and high to 255, as uint8; what lies beyond is clipped, and NaN is black."""
    parts = (values.astype(np.float64) - low) / (high - low)
    return np.nan_to_num(255 * parts).clip(0, 255).round().astype(np.uint8)

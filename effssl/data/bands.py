"""Image files as they are: any number of channels, 8 or 16 bits or floats.

Pillow reads what has up to 8 bits a channel and gray of more; imagecodecs PNGs of 16 bits in
colours; NumPy its own files; pydicom DICOM; tifffile every TIFF, whose pages are bands too.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from effssl.data.dicom import header_of_dicom, read_dicom

ARRAYS = (".npy", ".dcm")  # what is an image with --channels alone
_EXACT_INTEGERS = 2**24  # up to which float32 holds them
_PNG_16_BITS, _PNG_COLOURS, _PNG_ALPHA = 16, 2, 4  # bit depth; bits of the type of colours
_TO_RGB = {"P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La"}
# EXIF's orientation -> what makes the image upright
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


class Header(NamedTuple):
    """What the header of an image says."""

    kind: str  # its format and what its values are: "TIFF uint16", "PNG RGB"
    size: tuple[int, int]  # height and width in pixels
    channels: int
    bits: int  # of a value, once it is decoded


class Raster(NamedTuple):
    """An image's values."""

    values: np.ndarray  # [height, width, channels], as they lie in the file
    has_alpha: bool  # the last channel says how opaque a pixel is


def read_header(file: BinaryIO) -> Header:
    """Read the header of an image. Raises nearly anything for a damaged file."""
    match _format(file):
        case "npy":
            values = _numpy(file)
            height, width, channels = values.shape
            return Header(f"NumPy {values.dtype}", (height, width), channels, 8 * values.itemsize)
        case "dicom":
            _check_installed("pydicom", "DICOM")
            size, channels, bits = header_of_dicom(file)
            return Header("DICOM", size, channels, bits)
        case "tiff":
            with _tiff(file) as tiff:
                of_file = tiff.series[0]
                _check_axes(of_file.axes)
                sides = dict(zip(of_file.axes, of_file.shape, strict=True))
                size = sides["Y"], sides["X"]
                channels = math.prod(of_file.shape) // math.prod(size)
                bits = 8 * of_file.dtype.itemsize
                return Header(f"TIFF {of_file.dtype}", size, channels, bits)
    with Image.open(file) as image:
        bits = {"I": 32, "F": 32}.get(image.mode[0], 8)
        is_deep_png = _is_deep_png(file)
        bits = 16 if image.mode.startswith("I;16") or is_deep_png else bits
        channels = Image.getmodebands(_mode_read(image))
        if is_deep_png and not _start(file, 26)[25] & _PNG_COLOURS:
            channels = 2  # gray with alpha, which Pillow makes RGBA
        return Header(f"{image.format} {image.mode}", image.size[::-1], channels, bits)


def read_raster(file: BinaryIO) -> Raster:
    """Read an image, upright. Raises ValueError, and nearly anything else for a damaged file."""
    match _format(file):
        case "npy":
            return Raster(np.array(_numpy(file)), False)
        case "dicom":
            _check_installed("pydicom", "DICOM")
            return Raster(read_dicom(file), False)
        case "tiff":
            with _tiff(file) as tiff:
                return _of_tiff(tiff)
    with Image.open(file) as image:
        image.load()  # PNG knows its orientation only now
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), lambda a: a)
        values, has_alpha = _of_deep_png(file) if _is_deep_png(file) else _of_pillow(image)
        return Raster(turn(values), has_alpha)


def with_channels(raster: Raster, channels: int) -> np.ndarray:
    """Return values [height, width, channels].

    Transparency is laid on white where it is not asked for, and gray is three equal colours, or
    the other way round. Raises ValueError for any other number of channels.
    """
    values, has_alpha = raster
    if has_alpha and values.shape[2] - 1 in (1, channels) and values.shape[2] != channels:
        values = _on_white(values)
    count = values.shape[2]
    if count == 1 and channels == 3:
        return values.repeat(3, 2)
    if count == 3 and channels == 1 and (values == values[..., :1]).all():
        return values[..., :1]
    if count != channels:
        raise ValueError(f"it has {count} channels, not {channels}")
    return values


def as_stored(values: np.ndarray) -> np.ndarray:
    """Return values as one of values.KINDS, without loss but for floats of 64 bits.

    Raises ValueError for complex numbers, and for integers that float32 does not hold.
    """
    match values.dtype.kind, values.dtype.itemsize:
        case "b", _:
            return values.astype(np.uint8) * 255
        case ("u", 1) | ("u", 2):
            return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        case (("i" | "u"), _):
            largest = max(abs(int(values.min())), abs(int(values.max())))
            if largest > _EXACT_INTEGERS:
                raise ValueError(f"its values, up to {largest}, are too large for 32-bit floats")
        case "f", _:
            pass
        case _:
            raise ValueError(f"its values are {values.dtype}, of which no image is made")
    return np.ascontiguousarray(values, np.float32)


def _format(file: BinaryIO) -> str:
    start = _start(file, 132)
    if start[:6] == b"\x93NUMPY":
        return "npy"
    if start[128:] == b"DICM":
        return "dicom"
    is_tiff = start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return "tiff" if is_tiff else "another"


def _start(file: BinaryIO, count: int) -> bytes:
    file.seek(0)
    start = file.read(count)
    file.seek(0)
    return start


def _numpy(file: BinaryIO) -> np.ndarray:
    """Read NumPy's file as [height, width, channels], without code that lies in it.

    Of three axes the shorter of the first and the last is that of the channels.
    """
    try:
        values = np.load(file, allow_pickle=False)
    except SystemError:  # of Python 3.11's ast, now and then, if threads parse at once (gh-106905)
        file.seek(0)
        values = np.load(file, allow_pickle=False)
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"its shape {list(values.shape)} is not [height, width, channels]")
    return np.moveaxis(values, 0, 2) if values.shape[0] < values.shape[2] else values


def _tiff(file: BinaryIO) -> Any:
    _check_installed("tifffile", "TIFFs")
    import tifffile

    return tifffile.TiffFile(file)


def _check_installed(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(f'--channels reads {what} by {package}: pip install -e ".[bands]"')


def _check_axes(axes: str) -> None:
    if "Y" not in axes or "X" not in axes:
        raise ValueError(f"its axes {axes} are not those of an image")


def _of_tiff(tiff: Any) -> Raster:
    """Take all that has the first image's size as bands: samples, planes and pages."""
    of_file, page = tiff.series[0], tiff.pages[0]
    _check_axes(of_file.axes)
    if page.photometric == 3:
        raise ValueError("a palette, of which --channels makes nothing")
    y, x = of_file.axes.index("Y"), of_file.axes.index("X")
    values = np.moveaxis(of_file.asarray(), (y, x), (0, 1))
    values = values.reshape(of_file.shape[y], of_file.shape[x], -1)
    if page.photometric == 0:  # white is 0
        if values.dtype.kind not in "bu":
            raise ValueError(f"its white is 0, of {values.dtype}")
        values = ~values
    orientation = page.tags.get("Orientation")
    upright = _TURNS.get(int(orientation.value) if orientation else 1, lambda a: a)(values)
    samples = getattr(page, "extrasamples", ())
    return Raster(upright, [int(each) for each in samples] in ([1], [2]))


def _is_deep_png(file: BinaryIO) -> bool:
    """Say whether this is a PNG of 16 bits in colours or with alpha, which Pillow makes 8 bits."""
    start = _start(file, 26)
    if start[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    return start[24] == _PNG_16_BITS and bool(start[25] & (_PNG_COLOURS | _PNG_ALPHA))


def _of_deep_png(file: BinaryIO) -> Raster:
    _check_installed("imagecodecs", "PNGs of 16 bits in colours")
    import imagecodecs

    values = imagecodecs.png_decode(file.read())
    return Raster(values, values.shape[2] in (2, 4))  # a transparent colour becomes alpha too


def _of_pillow(image: Image.Image) -> Raster:
    if (mode := _mode_read(image)) != image.mode:
        image = image.convert(mode)
    values = np.asarray(image)
    if (image.mode, image.format) == ("I", "PPM"):  # of 16 bits
        values = values.astype(np.uint16)
    values = values if values.ndim == 3 else values[..., None]
    return Raster(values, image.mode in ("RGBA", "LA"))


def _mode_read(image: Image.Image) -> str:
    """Return the mode in which an image is read, whether it is loaded or its header alone is."""
    if image.mode in _TO_RGB or (image.has_transparency_data and image.mode in ("L", "RGB")):
        return "RGBA" if image.has_transparency_data else "RGB"
    return image.mode


def _on_white(values: np.ndarray) -> np.ndarray:
    """Lay transparency, the last channel, on white."""
    if values.dtype.kind != "u":
        raise ValueError(f"it has an alpha channel of {values.dtype}")
    white = float(np.iinfo(values.dtype).max)
    opaque = values[..., -1:] / white
    return (values[..., :-1] * opaque + white * (1 - opaque)).round().astype(values.dtype)

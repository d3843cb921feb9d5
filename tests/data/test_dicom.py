"""DICOM files, those that pydicom brings, are read in their units."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from effssl import InputError
from effssl.data.bands import as_stored, read_header, read_raster
from effssl.data.decode import Decoding, decode

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def opened(name):
    return io.BytesIO((FILES / name).read_bytes())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CT_small.dcm", (128, 128, 1)),
        ("MR_small.dcm", (64, 64, 1)),
        ("MR_small_bigendian.dcm", (64, 64, 1)),
        ("MR_small_RLE.dcm", (64, 64, 1)),
        ("examples_palette.dcm", (350, 800, 3)),
        ("SC_rgb_rle_16bit.dcm", (100, 100, 3)),
        ("SC_rgb_rle_16bit_2frame.dcm", (100, 100, 6)),
    ],
)
def test_what_pydicom_reads_is_read(name, shape):
    header, values = read_header(opened(name)), as_stored(read_raster(opened(name)).values)
    assert values.shape == shape and header.size == shape[:2] and header.kind == "DICOM"
    assert header.channels == shape[2] or name == "examples_palette.dcm"
    assert values.std() > 0


def test_a_slice_is_in_hounsfield_units():
    of_file = pydicom.dcmread(opened("CT_small.dcm"))
    expected = of_file.pixel_array.astype(float) * of_file.RescaleSlope + of_file.RescaleIntercept
    image = decode(FILES / "CT_small.dcm", Decoding((-1000.0, 1000.0), channels=1))
    np.testing.assert_array_equal(image.pixels[..., 0], expected.astype(np.float32))
    with pytest.raises(InputError, match=r"from -\d+ to \d+, do not say what is black"):
        decode(FILES / "CT_small.dcm", Decoding(channels=1))


@pytest.mark.parametrize("name", ["MR_small.dcm", "examples_overlay.dcm"])  # signed, unsigned
def test_what_is_brighter_has_the_larger_value(name):
    dataset = pydicom.dcmread(opened(name))
    upright = read_raster(opened(name)).values
    dataset.PhotometricInterpretation = "MONOCHROME1"
    file = io.BytesIO()
    dataset.save_as(file)
    turned = read_raster(file).values
    white = -1 if dataset.PixelRepresentation else 2**dataset.BitsStored - 1
    np.testing.assert_array_equal(turned, white - upright)


def test_frames_are_bands():
    frames = pydicom.dcmread(opened("SC_rgb_rle_16bit_2frame.dcm")).pixel_array
    values = read_raster(opened("SC_rgb_rle_16bit_2frame.dcm")).values
    np.testing.assert_array_equal(values, np.concatenate(list(frames), 2))


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "UN_sequence.dcm"])
def test_what_cannot_be_read_is_named(name):
    with pytest.raises(InputError, match=rf"{name} does not decode: "):
        decode(FILES / name, Decoding((0.0, 1.0), channels=1))

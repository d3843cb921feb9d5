"""DICOM files by pydicom: their values in the units that they are of, such as Hounsfield's."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np


def header_of_dicom(file: BinaryIO) -> tuple[tuple[int, int], int, int]:
    """Return ((height, width), channels, bits) of an image; its frames are channels too."""
    import pydicom

    of_file = pydicom.dcmread(file, stop_before_pixels=True)
    frames, samples = int(of_file.get("NumberOfFrames") or 1), int(of_file.SamplesPerPixel)
    bits = 32 if "RescaleSlope" in of_file else int(of_file.BitsAllocated)
    return (int(of_file.Rows), int(of_file.Columns)), frames * samples, bits


def read_dicom(file: BinaryIO) -> np.ndarray:
    """Read an image, [height, width, channels]: what is brighter has the larger value.

    Values are rescaled as the file says. Raises nearly anything for a damaged file.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

    of_file = pydicom.dcmread(file)
    kind, values = of_file.PhotometricInterpretation, pixel_array(of_file)  # YCbCr as RGB
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, of_file)
    if kind == "MONOCHROME1":  # the least value is white
        white = -1 if of_file.PixelRepresentation else 2 ** int(of_file.BitsStored) - 1
        values = (white - values.astype(np.int64)).astype(values.dtype)
    values = _rescaled(values, of_file)
    if int(of_file.get("NumberOfFrames") or 1) > 1:
        values = np.moveaxis(values, 0, 2)
    return values.reshape(int(of_file.Rows), int(of_file.Columns), -1)


def _rescaled(values: np.ndarray, of_file: Any) -> np.ndarray:
    slope = float(of_file.get("RescaleSlope", 1))
    shift = float(of_file.get("RescaleIntercept", 0))
    return values if (slope, shift) == (1, 0) else values * slope + shift

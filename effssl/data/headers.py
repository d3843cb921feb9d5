"""What image files say of themselves before they are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from effssl.data.bands import Header, read_header
from effssl.data.decode import DEFAULT, Decoding, Readable, opened, stream_of
from effssl.data.fingerprints import of_no_labels

# fingerprint of a set -> sources.Source.side; None if nobody asks for it
Sides = Mapping[str, int | None] | None
NONE_KNOWN: Sides = {}


def header_of(file: Path | Readable, decoding: Decoding = DEFAULT) -> Header:
    """Read an image's header. Raises nearly any exception for a damaged file."""
    if decoding.has_arrays:
        with stream_of(file) as stream:
            return read_header(stream)
    with opened(file) as image:
        width, height = image.size
        kind = f"{image.format} {_depth(image.mode)}"
        return Header(kind, (height, width), len(image.getbands()), 8)


def side_of(
    paths: Sequence[Path] | Sequence[Readable], decoding: Decoding, fingerprint: str, sides: Sides
) -> int | None:
    """Return the side that is known of a set by its fingerprint, with its labels or without, or
    else what headers say: of a million small squares all are read, which takes half a minute. None
    if nobody asks."""
    if sides is None:
        return None
    for known_by in (fingerprint, of_no_labels(fingerprint)):
        if known_by in sides:
            return sides[known_by]
    return common_side(paths, decoding)


def common_side(
    paths: Sequence[Path] | Sequence[Readable], decoding: Decoding = DEFAULT, largest: int = 96
) -> int | None:
    """Return the side of the images if all are squares of one small size, else None.

    Only headers are read; damaged ones say nothing.
    """
    common = None
    for path in paths:
        try:
            height, width = header_of(path, decoding).size
        except Exception:  # it is named when it is decoded
            continue
        if width != height or width > largest or common not in (None, width):
            return None
        common = width
    return common


_DEPTHS = {"1": "1 bit", "P": "palette", "L": "gray", "LA": "gray with alpha", "RGBA": "RGBA"}
_DEPTHS |= {"I": "32-bit gray", "F": "float gray", "PA": "palette with alpha"}


def _depth(mode: str) -> str:
    return "16-bit gray" if mode.startswith("I;16") else _DEPTHS.get(mode, mode)

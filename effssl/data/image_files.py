"""Image files below a folder: found, decoded to upright RGB, labelled by their folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from effssl import InputError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
_TURNS = {  # EXIF's orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFiles:
    """Image files, decoded on access to upright RGB."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> np.ndarray:
        """uint8 [height, width, 3]. Raises InputError naming the file when it does not decode."""
        path = self.paths[position]
        try:
            with Image.open(path) as image:
                return np.asarray(_upright_rgb(image))
        except Exception as error:  # damaged files make Pillow raise nearly anything
            raise InputError(f"{path} does not decode: {' '.join(str(error).split())}") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Turned as EXIF says, 16 bits scaled to 8, and transparency laid on white, as what lies under it is arbitrary."""
    image.load()  # PNG and TIFF know their orientation only now
    # Not ImageOps.exif_transpose: it also writes the EXIF anew, which fails for tags that it cannot express.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I"):  # 16-bit gray: Pillow would clip to 255 instead of scaling
        upright = Image.fromarray((np.asarray(upright) // 256).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        colours = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return upright.convert("RGB")


def images_below(folder: Path) -> tuple[ImageFiles, np.ndarray, list[str]]:
    """All images below a folder, sorted by path: (images, labels, classes), as of a Source. The label is the first
    folder below it, where there are several. Raises InputError when there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = image_paths(folder, without=[], only=None)
    if not paths:
        raise InputError(f"no images in {folder} (looked for .jpg, .png, .webp, ... at any depth)")
    of_each = [class_of(p, folder) for p in paths]
    classes = sorted(set(of_each) - {""})
    number = {c: i for i, c in enumerate(classes)} if len(classes) > 1 else {}
    labels = np.array([number.get(c, -1) for c in of_each], dtype=np.int64)
    return ImageFiles(paths), labels, list(number)


def image_paths(root: Path, without: Sequence[Path], only: frozenset[str] | None) -> list[Path]:
    """Images below `root`, sorted; links are followed, hidden folders and `without` left out. With `only`, just those
    in root's folders of these names."""
    found = []
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder)
        below[:] = [b for b in below if not b.startswith(".") and here / b not in without]
        if only is not None and here == root:
            below[:] = [b for b in below if b in only]
            continue
        found += [here / f for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES and not f.startswith(".")]
    return sorted(found)


def class_of(path: Path, root: Path) -> str:
    """The first folder below `root` on the way to the image; "" for a loose one."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def common_side(paths: Sequence[Path], largest: int = 96) -> int | None:
    """The side of the images if all are squares of one small size; only headers are read, damaged ones say nothing."""
    common = None
    for path in paths:
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception:  # it is named when it is decoded
            continue
        if width != height or width > largest or common not in (None, width):
            return None
        common = width
    return common

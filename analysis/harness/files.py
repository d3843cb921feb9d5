"""Files that are written whole or not at all, and folders that are known to be writable before the runs."""

from __future__ import annotations

import io
import os
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from effssl import InputError
from effssl.run.folder import write_json, write_text

__all__ = ["writable", "write_json", "write_picture", "write_text"]


def writable(folder: Path) -> None:
    """Make the folder. Raises InputError if it cannot be written: better before the runs than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder} cannot be written")


def write_picture(path: Path, figure: Figure, *, dpi: int = 200, palette: bool = False) -> None:
    """Write a .png; with a palette of 256 colours it takes a quarter of the space. Raises InputError
    if it cannot be written."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if palette:
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=dpi)
            coloured = Image.open(drawn).convert("RGB")
            few = coloured.quantize(256, Image.Quantize.MAXCOVERAGE)
            few.save(temporary, "png", optimize=True)
        else:
            figure.savefig(temporary, format="png", dpi=dpi)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)

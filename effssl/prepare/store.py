"""Store every split of an image set as .beton files, which `python -m effssl.train` with these settings then reads."""

from __future__ import annotations

import time

from effssl.config import Storage
from effssl.data.stored import SPLITS, open_split
from effssl.data.beton import Beton, check_beton
from effssl.run import signals as process


def prepare(storage: Storage) -> None:
    """Store the splits that are not stored yet, read some of every one back and say what is there.

    Stopped at any moment it leaves no bad file, and can be called again. Raises InputError for anything that the user
    has to mend.
    """
    lines, any_new = [], False
    for split in SPLITS:
        began = time.monotonic()
        found = open_split(storage, split)
        if found is not None:
            source, beton = found
            checked = check_beton(beton, source)
            lines.append(_summary(split, beton, checked, time.monotonic() - began))
            any_new |= beton.is_new
    if not any_new:
        lines.append("all was there; nothing was written")
    print(*lines, sep="\n")


def _summary(split: str, beton: Beton, checked: int, seconds: float) -> str:
    classes = f"{len(beton.classes)} classes" if beton.classes else "no labels"
    return (
        f"{split}: {len(beton.labels)} images, {classes}, {beton.path.stat().st_size:,} bytes, {seconds:.1f} s, "
        f"{checked} read back: {beton.path}"
    )


def main(storage: Storage) -> int:
    """`prepare`, as process.exit_code does it."""
    return process.exit_code(lambda: prepare(storage))

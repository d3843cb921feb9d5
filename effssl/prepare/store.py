"""The job of `effssl prepare`: every split of a set is stored, and read back."""

from __future__ import annotations

import time

from effssl.data.beton import Beton
from effssl.data.image_files import describe_labels
from effssl.data.read_back import check_beton
from effssl.data.stored import SPLITS, open_split
from effssl.data.windows import with_channels, with_range
from effssl.image_config import Storage
from effssl.run import signals


def prepare(storage: Storage) -> None:
    """Store the splits that are not stored yet, read some of every one back and say what is there.

    Stopped at any moment it leaves no bad file, and can be called again. Raises InputError for
    anything that the user has to mend.
    """
    lines, any_is_new = [], False
    storage = with_range(with_channels(storage))
    for split in SPLITS:
        began = time.monotonic()
        opened = open_split(storage, split)
        if opened is not None:
            source, beton = opened
            num_checked = check_beton(beton, source)
            lines.append(f"{split}: {_summary(beton, num_checked, time.monotonic() - began)}")
            any_is_new |= beton.is_new
    if not any_is_new:
        lines.append("all was there; nothing was written")
    print(*lines, sep="\n")


def _summary(beton: Beton, num_checked: int, seconds: float) -> str:
    num_bytes = beton.path.stat().st_size
    return (
        f"{describe_labels(beton.labels, beton.classes)}, {num_bytes:,} bytes, {seconds:.1f} s, "
        f"{num_checked} read back: {beton.path}"
    )


def main(storage: Storage) -> int:
    """Do `prepare` as a command: see signals.exit_code."""
    return signals.exit_code(lambda: prepare(storage))

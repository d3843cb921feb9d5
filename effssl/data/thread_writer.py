"""Images -> .beton without FFCV: decoded and encoded in threads, written in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from effssl import InputError
from effssl.data.beton_file import (
    JPEG,
    RAW,
    SMALLEST_PAGE,
    StoredImage,
    page_size_for,
    write_file,
)
from effssl.data.sources import Source
from effssl.data.storing import (
    Complaint,
    Written,
    as_jpeg,
    has_jpegs,
    progress,
    smaller,
    storable,
)
from effssl.data.thread_loader import ahead
from effssl.image_config import Storage
from effssl.run.threads import own_cores

AHEAD = 4  # images a thread that wait to be written


def write(source: Source, file: Path, storage: Storage) -> Written:
    """Write the images of `source` into a .beton at `file`, as ffcv_writer.write does, and with any
    number of channels.

    Raises OSError if the disk is full.
    """
    is_jpeg, count = has_jpegs(source, storage), len(source.images)
    written = Written([], [], Counter())

    def made(position: int) -> tuple[StoredImage | Complaint, int | None, str]:
        label = int(source.labels[position])
        try:
            image, gray_high = storable(source, position, storage.max_side)
        except InputError as error:
            return Complaint(position, str(error)), None, ""
        if source.side is None:
            image = smaller(image, storage.max_side)
        mode = JPEG if is_jpeg else RAW
        content = as_jpeg(image, storage.jpeg_quality) if is_jpeg else image.tobytes()
        stored = StoredImage(mode, image.shape[:2], content, label)
        return stored, gray_high, str(image.dtype)

    def images() -> Iterator[StoredImage]:
        workers = storage.workers or own_cores()
        with ThreadPoolExecutor(workers, "store") as pool:
            for image, gray_high, kind in ahead(pool, made, range(count), AHEAD * workers):
                bar.update(1)
                if gray_high is not None:
                    written.gray_highs.append(gray_high)
                if isinstance(image, Complaint):
                    written.left_out.append(image)
                else:
                    written.kinds[kind] += 1
                    yield image

    bar = progress(count)
    try:
        # FFCV's own decoders, which may read by pages, know RGB alone.
        is_rgb, side = storage.channels is None, source.side or storage.max_side
        write_file(file, images(), count, page_size_for(side) if is_rgb else SMALLEST_PAGE)
    finally:
        bar.close()
    return written

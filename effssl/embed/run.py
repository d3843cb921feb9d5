"""Write the representations of images that a run's backbone gives."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ffcv.libffcv
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from effssl import InputError
from effssl.config import Storage
from effssl.data import open_split
from effssl.data.ffcv_loader import batches, open_loader
from effssl.data.ffcv_writer import listing
from effssl.data.image_files import ImageFiles, common_side, images_below
from effssl.evaluation.encode import encode
from effssl.job_config import Embed
from effssl.models import backbones as models
from effssl.run import device as process
from effssl.views import ops as augment

Backbone = str | Path | tuple[nn.Module, dict[str, Any]]


class Embedded(NamedTuple):
    """Representations of images, in the order of their names."""

    names: list[str]  # path below the folder; split/number where the set has no files
    representations: np.ndarray  # float32 [images, dim]
    labels: np.ndarray  # int64 [images], -1 where there is none
    classes: list[str]
    skipped: list[str]  # why each image that was left out was
    seconds: float  # from the first look at the images to the last representation
    loader_share: float  # of these seconds, spent waiting for images, in [0, 1]

    @property
    def images_per_s(self) -> float:
        return len(self.names) / self.seconds


class _Images(NamedTuple):
    """Images on their way to the backbone."""

    names: Sequence[str]
    labels: np.ndarray
    classes: list[str]
    batches: Generator[tuple[Tensor, np.ndarray], None, None]  # (uint8 [batch, h, w, 3], positions), on the device
    complaints: list[tuple[int, str]]  # (position, why) of images that do not decode; filled on the way


def embed_folder(
    backbone: Backbone,
    folder: str | Path,
    *,
    to: str | Path | None = None,
    batch_size: int = 256,
    workers: int = 2,
    device: str = "auto",
    skip_corrupt: bool = False,
) -> Embedded:
    """Representations of all images below a folder, of their clean views, as evaluation sees them.

    backbone: a run's folder, its backbone.safetensors, or what models.load_backbone returned, which is moved to the
    device. to: also write a .npz (names, representations, labels, classes) or .parquet file (name, label, class,
    representation), whole or not at all. Small squares of one size give what evaluation gives; other images are cut to
    the central square as there, but not stored as JPEG first.

    Raises InputError for anything that the user has to mend; for images that do not decode, unless skip_corrupt leaves
    them out, naming them.
    """
    encoder, about, where = _prepare(backbone, to, batch_size, workers, device)
    began = time.monotonic()
    root = Path(folder)
    files, labels, classes = images_below(root)
    names = [str(path.relative_to(root)) for path in files.paths]
    # Looking at every header first would keep the backbone waiting: if these mislead, begin again.
    for side in (common_side(files.paths[:: max(1, len(names) // 64)]), None):
        complaints: list[tuple[int, str]] = []
        decoded = _decoded(files, side, augment.canvas_of(about["image_size"]), batch_size, workers, where, complaints)
        images = _Images(names, labels, classes, decoded, complaints)
        try:
            return _embed(encoder, about, images, to, began, skip_corrupt)
        except _OtherSideError:
            continue
    raise AssertionError("images of varied size have no side to differ from")


def embed_set(
    backbone: Backbone,
    storage: Storage,
    split: Literal["train", "test"] = "train",
    *,
    to: str | Path | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> Embedded:
    """As embed_folder, of a split of an image set, through the .beton file that training reads; stored if it is not."""
    encoder, about, where = _prepare(backbone, to, batch_size, storage.workers, device)
    found = open_split(storage, split)
    if found is None:
        raise InputError(f"{storage.data} in {storage.data_dir} has no {split} split")
    source, beton = found
    began = time.monotonic()
    paths = getattr(source.images, "paths", None)
    names = [str(paths[p].relative_to(storage.data_dir)) if paths else f"{split}/{p}" for p in beton.positions]
    canvas = None if beton.side else augment.canvas_of(about["image_size"])
    loader = open_loader(beton.path, batch_size, storage.workers, canvas)
    stored = ((x, at.cpu().numpy()) for x, at in batches(loader, np.arange(len(names)), where))
    return _embed(encoder, about, _Images(names, beton.labels, beton.classes, stored, []), to, began, False)


def _prepare(
    backbone: Backbone, to: str | Path | None, batch_size: int, workers: int, device: str
) -> tuple[nn.Module, dict[str, Any], torch.device]:
    for name, value in {"--batch-size": batch_size, "--workers": workers}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if to is not None:
        _check_target(Path(to))
    where, _, _ = process.where_it_runs(device, "fp32", "false")
    encoder, about = backbone if isinstance(backbone, tuple) else models.load_backbone(backbone)
    return encoder.to(where, memory_format=torch.channels_last), about, where  # type: ignore[call-overload]


def _embed(
    backbone: nn.Module,
    about: dict[str, Any],
    images: _Images,
    to: str | Path | None,
    began: float,
    skip_corrupt: bool,
) -> Embedded:
    count = len(images.names)
    h = np.zeros((count, models.representation_dim(backbone)), np.float32)
    waited = time.monotonic() - began
    with closing(images.batches), tqdm(total=count, unit=" images", disable=None) as bar:
        while True:
            asked = time.monotonic()
            batch = next(images.batches, None)
            waited += time.monotonic() - asked
            if batch is None:
                break
            x, positions = batch
            bar.update(len(positions))
            if len(positions) == 0 or (images.complaints and not skip_corrupt):
                continue  # in the second case it ends with an error: only look for more images that do not decode
            views = augment.clean_view(x, size=about["image_size"], mean=about["mean"], std=about["std"])
            h[positions] = encode(backbone, [views]).cpu().numpy()
    seconds = time.monotonic() - began
    complaints = sorted(images.complaints)
    if complaints and (not skip_corrupt or len(complaints) == count):
        raise InputError(listing([why for _, why in complaints], count, "do not decode"))
    kept = np.setdiff1d(np.arange(count), [position for position, _ in complaints])
    names, skipped = [images.names[i] for i in kept], [why for _, why in complaints]
    embedded = Embedded(names, h[kept], images.labels[kept], images.classes, skipped, seconds, waited / seconds)
    if to is not None:
        _save(embedded, Path(to))
    return embedded


class _OtherSideError(Exception):
    """An image is not a square of the side that the others have."""


def _decoded(
    images: ImageFiles,
    side: int | None,
    canvas: int,
    batch_size: int,
    workers: int,
    device: torch.device,
    complaints: list[tuple[int, str]],
) -> Generator[tuple[Tensor, np.ndarray], None, None]:
    """Read ahead of the backbone: squares of `side` as they are, or the central squares, `canvas` large. Raises
    _OtherSideError.

    Threads, as images are read once: a PNG of 32 px takes 0.11 ms of a core, in a DataLoader's processes 0.14, stored
    and read by FFCV 0.35; a JPEG of 96 px 0.25, 0.48 and 2.9 (two cores).
    """

    def load(positions: range) -> tuple[Tensor, np.ndarray]:
        whole, good = [], []
        for position in positions:
            try:
                image = images[position]
            except InputError as error:
                complaints.append((position, str(error)))
                continue
            if side is not None and image.shape[:2] != (side, side):
                raise _OtherSideError
            whole.append(image if side is not None else _central_square(image, canvas))
            good.append(position)
        batch = torch.from_numpy(np.stack(whole)) if whole else torch.zeros(0, canvas, canvas, 3, dtype=torch.uint8)
        return batch.to(device), np.array(good, dtype=np.int64)

    pool = ThreadPoolExecutor(workers, "load")
    pending: deque[Future] = deque()
    try:
        for start in range(0, len(images), batch_size):
            pending.append(pool.submit(load, range(start, min(start + batch_size, len(images)))))
            if len(pending) > workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _central_square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [height, width, 3] -> [side, side, 3], as FFCV's decoder makes it for the probes."""
    height, width, _ = image.shape
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    resized = np.empty((side, side, 3), np.uint8)
    ffcv.libffcv.resize_crop(np.ascontiguousarray(image), top, top + square, left, left + square, resized)
    return resized


def _check_target(to: Path) -> None:
    """Before any work is done for it."""
    if to.suffix not in (".npz", ".parquet"):
        raise InputError(f"--to {to}: the file's name must end in .npz or .parquet")
    if to.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("--to FILE.parquet needs pyarrow; install effssl with the extra: pip install -e '.[parquet]'")
    folder = to.absolute().parent
    if to.is_dir():
        raise InputError(f"--to {to} cannot be written: it is a folder")
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise InputError(f"--to {to} cannot be written: {folder} is not a folder that you may write to")


def _save(embedded: Embedded, to: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{to.name}-", suffix=".tmp", dir=to.absolute().parent)
    os.close(handle)
    temporary = Path(name)
    try:
        match to.suffix:
            case ".npz":
                _write_npz(embedded, temporary)
            case ".parquet":
                _write_parquet(embedded, temporary)
        temporary.chmod(0o644)
        temporary.replace(to)
    except OSError as error:
        raise InputError(f"--to {to} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_npz(embedded: Embedded, file: Path) -> None:
    e = embedded
    with file.open("wb") as out:  # to a path NumPy would add a suffix
        classes = np.array(e.classes, dtype=np.str_)
        np.savez(out, names=np.array(e.names), representations=e.representations, labels=e.labels, classes=classes)


def _write_parquet(embedded: Embedded, file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    e = embedded
    dim = e.representations.shape[1]
    columns = {
        "name": pyarrow.array(e.names),
        "label": pyarrow.array(e.labels, mask=e.labels < 0),
        "class": pyarrow.array([e.classes[y] if y >= 0 else None for y in e.labels], pyarrow.string()),
        "representation": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(e.representations.ravel()), dim),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def _run(s: Embed) -> Embedded:
    if s.images is not None:
        how: dict[str, Any] = {"batch_size": s.batch_size, "workers": s.workers, "device": s.device}
        return embed_folder(s.run, s.images, to=s.to, skip_corrupt=s.skip_corrupt, **how)
    assert s.data is not None
    storage = Storage(s.data, s.data_dir, s.beton_dir, s.max_side, s.jpeg_quality, s.workers, s.skip_corrupt)
    return embed_set(s.run, storage, s.split, to=s.to, batch_size=s.batch_size, device=s.device)


def _say(settings: Embed, e: Embedded) -> None:
    for why in e.skipped:
        print(f"left out: {why}", file=sys.stderr)
    print(
        f"{settings.to}: {len(e.names)} images, {e.representations.shape[1]} numbers each; {e.seconds:.1f} s, "
        f"{e.images_per_s:.0f} images/s, {100 * e.loader_share:.1f}% of the time spent waiting for images"
    )


def main(settings: Embed) -> int:
    """`embed`, as process.exit_code does it."""
    return process.exit_code(lambda: _say(settings, _run(settings)))

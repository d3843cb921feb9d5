"""The command `embed`, and its two functions for Python."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from effssl import InputError, cli
from effssl.data.decode import Decoding
from effssl.data.headers import common_side
from effssl.data.image_files import images_below
from effssl.data.sources import names_of
from effssl.data.stored import open_split
from effssl.embed.files import check_target, save
from effssl.embed.images import Findings, ImageBatches, OtherSideError, read_files, read_stored
from effssl.embed.representations import Embedded, represent
from effssl.image_config import Augment, Storage
from effssl.job_config import Embed
from effssl.models import BackboneSpec, load_backbone
from effssl.run import signals
from effssl.run.device import Runtime, open_runtime
from effssl.set_defaults import OF_RGB
from effssl.views.stream import ViewStream, canvas_of

LOOKED_AT = 64  # files whose headers say whether all are squares of one size

Backbone = str | Path | tuple[nn.Module, BackboneSpec]


def embed_folder(
    backbone: Backbone,
    folder: str | Path,
    *,
    to: str | Path | None = None,
    batch_size: int = 256,
    workers: int = 2,
    device: str = "auto",
    skip_corrupt: bool = False,
    channels: int | None = None,
    gray_range: tuple[float, float] | None = None,
    max_image_gib: float = 8.0,
    labels: bool = True,
) -> Embedded:
    """Encode all images below a folder: their clean views, as evaluation sees them.

    Small squares of one size give what evaluation gives; other images are cut to their central
    parts as there, but not stored as JPEG first.

    Args:
        backbone: a run's folder, its backbone.safetensors, or what load_backbone returned, which is
            moved to the device.
        folder: images at any depth.
        to: also write this .npz (names, representations, labels, classes) or .parquet file (name,
            label, class, representation), whole or not at all.
        batch_size: images that the backbone sees at once.
        workers: threads that read images.
        device: auto, cpu, cuda or cuda:N.
        skip_corrupt: leave out images that do not decode, naming them.
        channels: of the images, as --channels.
        gray_range: black and white of images of more than 8 bits, as --gray-range.
        max_image_gib: memory that decoding an image may take; larger ones count as damaged.
        labels: the first folder below is the label; else there is none.

    Raises:
        InputError: for anything that the user has to mend, such as images that do not decode.
    """
    model, augment, runtime = _open(backbone, to, batch_size, workers, device)
    root, canvas = Path(folder), canvas_of(augment.image_size)
    channels = _channels(augment, channels)
    decoding = Decoding(gray_range, max_image_gib, enough_px=2 * max(canvas), channels=channels)
    began = time.monotonic()
    files, numbers, classes, notes = images_below(root, decoding, folders_are_classes=labels)
    names = [str(Path(str(path)).relative_to(root)) for path in files.paths]

    def encoded(side: int | None) -> Embedded:
        findings = Findings([], [], gray_range is not None)
        reading = {"batch_size": batch_size, "workers": workers}
        batches = read_files(
            files, side, canvas, **reading, device=runtime.device, findings=findings
        )
        images = ImageBatches(names, numbers, classes, batches, findings)
        return represent(model, images, augment, runtime, began=began, skip_corrupt=skip_corrupt)

    # Looking at every header first would keep the backbone waiting: if these mislead, begin again.
    try:
        embedded = encoded(common_side(files.paths[:: max(1, len(names) // LOOKED_AT)], decoding))
    except OtherSideError:
        embedded = encoded(None)
    return _saved(embedded._replace(notes=notes + embedded.notes), to)


def embed_set(
    backbone: Backbone,
    storage: Storage,
    split: Literal["train", "test"] = "train",
    *,
    to: str | Path | None = None,
    batch_size: int = 256,
    device: str = "auto",
) -> Embedded:
    """Encode a split of an image set, otherwise as embed_folder does.

    The images come from the .beton file that training reads, which is written if there is none.

    Args:
        backbone: as for embed_folder.
        storage: the set, and how it is or will be stored.
        split: the set's split.
        to: as for embed_folder.
        batch_size: images that the backbone sees at once.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: for anything that the user has to mend, such as a split that the set lacks.
    """
    model, augment, runtime = _open(backbone, to, batch_size, storage.workers, device)
    storage = replace(storage, channels=_channels(augment, storage.channels))
    source_and_stored = open_split(storage, split)
    if source_and_stored is None:
        raise InputError(f"{storage.data} in {storage.data_dir} has no {split} split")
    source, stored = source_and_stored
    began = time.monotonic()
    stream = ViewStream(
        stored,
        augment,
        seed=0,  # clean views draw nothing
        batch_size=batch_size,
        clean_batch_size=batch_size,
        workers=storage.workers,
        runtime=runtime,
    )
    names = names_of(source, stored.positions, storage.data_dir, split)
    none = Findings([], [], has_range=False)  # storing the images has told
    images = ImageBatches(names, stored.labels, stored.classes, read_stored(stream), none)
    embedded = represent(model, images, augment, runtime, began=began, skip_corrupt=False)
    return _saved(embedded, to)


def _open(
    backbone: Backbone, to: str | Path | None, batch_size: int, workers: int, device: str
) -> tuple[nn.Module, Augment, Runtime]:
    """Check what can be checked before any work, and load the model.

    Returns (model, how its clean views are made, where it runs).
    """
    for flag, count in {"--batch-size": batch_size, "--workers": workers}.items():
        if count < 1:
            raise InputError(f"{flag} must be at least 1, not {count}")
    if to is not None:
        check_target(Path(to))
    runtime = open_runtime(device)
    model, spec = backbone if isinstance(backbone, tuple) else load_backbone(backbone)
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    looks = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std}
    augment = Augment(**looks, **OF_RGB)  # type: ignore[arg-type]
    return model, augment, runtime


def _channels(augment: Augment, given: int | None) -> int | None:
    """Return the channels of the images, where RGB of 8 bits is None. Raises InputError for others
    than the backbone takes."""
    if given not in (None, augment.channels):
        raise InputError(f"--channels {given}: the backbone takes {augment.channels}")
    return given if augment.channels == 3 else augment.channels


def _saved(embedded: Embedded, to: str | Path | None) -> Embedded:
    if to is not None:
        save(embedded, Path(to))
    return embedded


def _as_in_training(settings: Embed) -> Embed:
    """Return the settings with the run's channels and range of values where none are given, if it
    is a folder: other values would give other representations, without a word."""
    if not (settings.run / "config.yaml").is_file():
        return settings
    images = cli.load(settings.run / "config.yaml").images
    channels, window = settings.channels or images.channels, images.gray_range
    if settings.gray_range is not None or window is None or window == "auto":
        return replace(settings, channels=channels)
    print(f"--gray-range {window[0]:g} {window[1]:g}, as the run has it", file=sys.stderr)
    return replace(settings, channels=channels, gray_range=window)


def _embed(settings: Embed) -> Embedded:
    settings = _as_in_training(settings)
    if settings.images is not None:
        return embed_folder(
            settings.run,
            settings.images,
            to=settings.to,
            batch_size=settings.batch_size,
            workers=settings.workers,
            device=settings.device,
            skip_corrupt=settings.skip_corrupt,
            channels=settings.channels,
            gray_range=settings.gray_range,
            max_image_gib=settings.max_image_gib,
            labels=settings.labels,
        )
    assert settings.data is not None
    storage = Storage(
        data=settings.data,
        data_dir=settings.data_dir,
        more_dirs=settings.more_dirs,
        beton_dir=settings.beton_dir,
        max_side=settings.max_side,
        store=settings.store,
        jpeg_quality=settings.jpeg_quality,
        image_column=settings.image_column,
        label_column=settings.label_column,
        workers=settings.workers,
        skip_corrupt=settings.skip_corrupt,
        channels=settings.channels,
        gray_range=settings.gray_range,
        max_image_gib=settings.max_image_gib,
        labels=settings.labels,
    )
    return embed_set(
        settings.run,
        storage,
        settings.split,
        to=settings.to,
        batch_size=settings.batch_size,
        device=settings.device,
    )


def _report(embedded: Embedded, to: Path) -> None:
    for note in embedded.notes:
        print(note, file=sys.stderr)
    num_images, dim = embedded.representations.shape
    print(
        f"{to}: {num_images} images, {dim} numbers each; {embedded.seconds:.1f} s, "
        f"{embedded.images_per_s:.0f} images/s, "
        f"{100 * embedded.loader_share:.1f}% of the time spent waiting for images"
    )


def main(settings: Embed) -> int:
    """Embed as the command line does; returns the exit code."""
    return signals.exit_code(lambda: _report(_embed(settings), settings.to))

"""The command `embed`, and its two functions for Python."""

from __future__ import annotations

import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from effssl import InputError
from effssl.data.decode import Decoding
from effssl.data.headers import common_side
from effssl.data.image_files import images_below
from effssl.data.sources import names_of
from effssl.data.stored import OWN_SETS, open_split
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
Range = tuple[float, float]


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
        channels: of the images, as --channels; None for what they were in training.
        gray_range: black and white of images of more than 8 bits, as --gray-range; None likewise.
        max_image_gib: memory that decoding an image may take; larger ones count as damaged.
        labels: the first folder below is the label; else there is none.

    Raises:
        InputError: for anything that the user has to mend, such as images that do not decode.
    """
    model, spec, runtime = _open(backbone, to, batch_size, workers, device)
    root, augment, canvas = Path(folder), _clean_views(spec), canvas_of(spec.image_size)
    channels, (gray_range, about_range) = _channels(spec, channels), _range(spec, gray_range)
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
    return _saved(embedded._replace(notes=about_range + notes + embedded.notes), to)


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
        storage: the set, and how it is or will be stored; without channels or gray_range these are
            what they were in training.
        split: the set's split.
        to: as for embed_folder.
        batch_size: images that the backbone sees at once.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: for anything that the user has to mend, such as a split that the set lacks.
    """
    model, spec, runtime = _open(backbone, to, batch_size, storage.workers, device)
    augment, channels = _clean_views(spec), _channels(spec, storage.channels)
    if channels == 3 and storage.channels is None and storage.data not in OWN_SETS:
        channels = None  # of 8 bits they are the same
    assert storage.gray_range != "auto"
    gray_range, about_range = _range(spec, storage.gray_range)
    storage = replace(storage, channels=channels, gray_range=gray_range)
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
    return _saved(embedded._replace(notes=about_range + embedded.notes), to)


def _open(
    backbone: Backbone, to: str | Path | None, batch_size: int, workers: int | None, device: str
) -> tuple[nn.Module, BackboneSpec, Runtime]:
    """Check what can be checked before any work, and load the model.

    Returns (model, what its file says of it, where it runs).
    """
    for flag, count in {"--batch-size": batch_size, "--workers": workers}.items():
        if count is not None and count < 1:
            raise InputError(f"{flag} must be at least 1, not {count}")
    if to is not None:
        check_target(Path(to))
    runtime = open_runtime(device)
    model, spec = backbone if isinstance(backbone, tuple) else load_backbone(backbone)
    model.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, spec, runtime


def _clean_views(spec: BackboneSpec) -> Augment:
    looks = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std}
    return Augment(**looks, **OF_RGB)  # type: ignore[arg-type]


def _channels(spec: BackboneSpec, given: int | None) -> int | None:
    """Return the channels of the images, if none are given those of training: None is RGB of 8
    bits.

    Raises InputError for others than the backbone takes.
    """
    if given not in (None, spec.channels):
        raise InputError(f"--channels {given}: the backbone takes {spec.channels}")
    return spec.channels if given or spec.keeps_values else None


def _range(spec: BackboneSpec, given: Range | None) -> tuple[Range | None, list[str]]:
    """Return which values are black and white, as in training if it is not given, and then a
    sentence that says so."""
    if given is not None or spec.gray_range is None:
        return given, []
    low, high = spec.gray_range
    return (low, high), [f"--gray-range {low:g} {high:g}, as in training"]


def _saved(embedded: Embedded, to: str | Path | None) -> Embedded:
    if to is not None:
        save(embedded, Path(to))
    return embedded


def _embed(settings: Embed) -> Embedded:
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
    shared = {each.name for each in fields(Storage)} & {each.name for each in fields(Embed)}
    storage = Storage(**{name: getattr(settings, name) for name in shared})
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

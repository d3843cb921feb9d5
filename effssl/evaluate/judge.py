"""All columns of a row: each protocol is a function that gives columns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from effssl.evaluate.images import Corruptions, ImageSet
from effssl.evaluate.rows import Row
from effssl.evaluation import classifiers, protocols, semi_supervised
from effssl.evaluation.encode import (
    authors_features,
    averaged_features,
    clean_views_of,
    encode,
    pixel_size,
    pixels,
    spread,
    view_features,
)
from effssl.evaluation.finetune import Near
from effssl.evaluation.protocols import Columns
from effssl.job_config import Evaluation

LINE_AFTER_S = 10.0  # without a terminal, and so without bars, parts that took longer are told of
T = TypeVar("T")


class Stopwatch:
    """The seconds that each part of a row took."""

    def __init__(self, row: str):
        self.seconds: dict[str, float] = {}
        self._row = row

    def __call__(self, part: str, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what work(*args, **kwargs) returns, and keep its seconds as those of `part`."""
        began_s = time.monotonic()
        result = work(*args, **kwargs)
        took_s = self.seconds[part] = round(time.monotonic() - began_s, 3)
        if took_s > LINE_AFTER_S and not sys.stderr.isatty():
            print(f"  {self._row}: {part}, {took_s:.0f} s", flush=True)
        return result


def draw_labels(probed: ImageSet, settings: Evaluation) -> None:
    """Choose the labels to fine-tune on, so that what is wrong with them is told before hours are
    spent. Raises InputError as semi_supervised.labels_to_tune_on does."""
    name, folds, seed = _labels_of(probed), settings.fine_tune_folds, probed.images.split_seed
    for fraction in settings.fine_tune:
        semi_supervised.labels_to_tune_on(probed.data, name, fraction, folds, seed)


def judge(
    row: Row, probed: ImageSet, corruptions: Corruptions | None, settings: Evaluation
) -> tuple[dict[str, Any], list[list[int]]]:
    """Judge a row by every protocol.

    Returns its columns, with the seconds that each part took as `seconds`, and the confusion matrix
    of its linear probe.
    """
    timed, seed = Stopwatch(row.name), probed.images.split_seed
    encoded = timed(
        "encode_train", protocols.encode_splits, row.features(), probed.data, settings.train_images
    )
    chosen = timed("fit_linear", protocols.choose_linear, encoded)
    h, y = timed("encode_reported", encoded.reported)
    columns = timed("linear", protocols.linear, encoded, chosen)
    columns |= timed("knn", protocols.knn, encoded, settings.knn_k)
    columns |= timed("few_labels", protocols.few_labels, encoded, settings.probe_labels, seed)
    columns |= timed("measures", protocols.measures, protocols.measured_part(h), row.projector)
    if corruptions is not None:
        of_corruptions = _encoded_corruptions(row, corruptions)
        columns |= timed("corrupted", protocols.corrupted, chosen[0], of_corruptions)
    if row.backbone is not None:
        columns |= _judge_by_random_views(row, row.backbone, probed, settings, timed)
        columns |= _judge_changed_copies(row, row.backbone, probed, settings, timed)
    return columns | {"seconds": timed.seconds}, protocols.confusion(chosen[0], h, y)


def _judge_by_random_views(
    row: Row, backbone: nn.Module, probed: ImageSet, settings: Evaluation, timed: Stopwatch
) -> Columns:
    """Measure how views of an image differ, and probe representations averaged over views."""
    split, positions = protocols.reported_images(probed.data)
    h = timed(
        "encode_views",
        view_features(backbone, row.streams.augmented),
        split,
        spread(positions, protocols.VIEW_IMAGES),
    )
    columns = timed("measures_of_views", protocols.measures_of_views, h, row.projector)
    for kind, streams in row.streams.averaged.items():
        name = f"averaged/{kind}"
        features = (
            authors_features(backbone, row.streams.clean, streams)
            if kind == "authors"
            else averaged_features(backbone, streams)
        )
        averaged = timed(
            f"encode_{name}", protocols.encode_splits, features, probed.data, settings.train_images
        )
        chosen = timed(f"fit_{name}", protocols.choose_linear, averaged)
        columns |= timed(name, protocols.linear, averaged, chosen, name)
    return columns


def _judge_changed_copies(
    row: Row, backbone: nn.Module, probed: ImageSet, settings: Evaluation, timed: Stopwatch
) -> Columns:
    """Judge copies of the backbone whose BatchNorm is adapted, or all of which is fine-tuned."""
    data, streams, columns = probed.data, row.streams.clean, Columns()
    if settings.adapt_batch_norm:
        columns |= timed(
            "adapted", classifiers.adapted, backbone, data, streams, settings.train_images
        )
    near = None
    if settings.fine_tune and settings.keep:
        fisher = row.fisher if settings.keep_fisher == "ssl" else None
        near = Near(settings.keep, timed("fisher", fisher) if fisher else None)
    for fraction in settings.fine_tune:
        columns |= timed(
            f"fine_tuned/{fraction:g}",
            semi_supervised.fine_tuned,
            backbone,
            data,
            streams,
            name=_labels_of(probed),
            fraction=fraction,
            epochs=settings.fine_tune_epochs,
            max_steps=settings.fine_tune_steps,
            folds=settings.fine_tune_folds,
            seed=probed.images.split_seed,
            near=near,
        )
    return columns


def _labels_of(probed: ImageSet) -> str:
    """Return what files of labels are called."""
    return f"{probed.images.data}-train"


def _encoded_corruptions(
    row: Row, corruptions: Corruptions
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Encode corrupted images as clean ones are: yields (corruption, h, y)."""
    stream = row.streams.clean["train"]
    y = torch.from_numpy(corruptions.labels).to(stream.runtime.device)
    bar = tqdm(corruptions.images.items(), unit="corruption", delay=2, leave=False, disable=None)
    for name, images in bar:
        if row.backbone is None:
            yield name, pixels(clean_views_of(images, stream, pixel_size(stream))), y
        else:
            views = clean_views_of(images, stream, stream.augment.image_size)
            yield name, encode(row.backbone, views, stream.runtime), y

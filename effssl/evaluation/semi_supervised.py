"""Columns of backbones that are trained further, with a head, on a part of the labels."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from effssl import InputError
from effssl.data.label_files import label_fraction
from effssl.data.splits import folds as folds_of
from effssl.data.stored import Data
from effssl.evaluation.classifiers import chosen_classifier, reported_accuracy
from effssl.evaluation.encode import Streams, crops_and_flips
from effssl.evaluation.finetune import RATES, Classifier, Near, Recipe
from effssl.evaluation.labelled_views import labelled_views, tuning_batch_size
from effssl.evaluation.probes import best_of_grid, wilson_interval
from effssl.evaluation.protocols import Columns, labelled_positions
from effssl.views.stream import ViewStream

Rates = Sequence[tuple[float, float]]  # of the backbone and of the head


def fine_tuned(
    backbone: nn.Module,
    data: Data,
    streams: Streams,
    *,
    name: str,
    fraction: float,
    epochs: int,
    max_steps: int | None,
    folds: int | None,
    seed: int,
    near: Near | None = None,
) -> Columns:
    """Judge backbone and linear head, both trained on a part of the labels by crops and flips.

    The labels are noted in a text file beside the .beton, which later calls read. Batches are of
    256 images, fewer if that would be fewer than 25 steps an epoch, with rates in proportion. The
    rates are those of RATES that are best on validation, or by cross-validation within the labels.

    Args:
        backbone: stays as it is.
        data: the set.
        streams: the views of its splits.
        name: of the split in the text file.
        fraction: part of the labels, in (0, 1].
        epochs: passes over them.
        max_steps: bounds the steps; None does not.
        folds: of the cross-validation; None chooses on validation.
        seed: of the choice of labels, the folds, the views, their order, and dropout.
        near: how near the backbone stays to what it is.

    Returns:
        Accuracy in [0, 1], its interval, and what was chosen, as columns of fine_tuned/FRACTION or,
        with folds, of fine_tuned_within/FRACTION.

    Raises:
        InputError: as labels_to_tune_on does.
        FloatingPointError: if training diverges at all rates.
    """
    positions = labels_to_tune_on(data, name, fraction, folds, seed)
    bounds: dict[str, Any] = {"epochs": epochs, "max_steps": max_steps, "seed": seed, "near": near}
    bounds["asked_by"] = f"--fine-tune {fraction:g}"
    train: Callable[[np.ndarray, Rates, np.ndarray], Classifier] = functools.partial(
        _train_on_crops, backbone, data, streams["train"], **bounds
    )
    if folds is None:
        chosen = train(positions, RATES, data.val_positions)
        tried = [reached for _, reached in chosen.tried]
    else:
        tried = _cross_validated(train, positions, data.train.labels, folds, seed)
        chosen = train(positions, [RATES[best_of_grid(tried)]], data.val_positions)
    share, count = reported_accuracy(chosen, data, streams)
    low, high = wilson_interval(share, count)
    key = f"fine_tuned/{fraction:g}" if folds is None else f"fine_tuned_within/{fraction:g}"
    columns = {key: share, f"{key}_low": low, f"{key}_high": high}
    at_end = best_of_grid(tried) in (0, len(RATES) - 1)
    columns |= {f"{key}_val": chosen.val_accuracy, f"{key}_at_end": at_end}
    recipe = chosen.recipe
    return columns | {f"{key}_backbone_lr": recipe.backbone_lr, f"{key}_head_lr": recipe.head_lr}


def labels_to_tune_on(
    data: Data, name: str, fraction: float, folds: int | None, seed: int
) -> np.ndarray:
    """Return training positions that have a label, or the noted part of them.

    Arguments are those of fine_tuned. Raises InputError as label_fraction does, and if a training,
    of all folds but one if there are any, would have fewer than two images, which BatchNorm needs.
    """
    if fraction == 1:
        positions = labelled_positions(data)
    else:
        folder, among = data.train.path.parent, data.train_positions
        positions = label_fraction(folder, name, data.train, among, fraction=fraction, seed=seed)
    count = len(positions)
    held_out = 0 if folds is None else -(-count // folds)
    if count - held_out < 2:
        of_folds = "" if folds is None else f" and --fine-tune-folds {folds}"
        raise InputError(
            f"--fine-tune {fraction:g}{of_folds}: {count} labels leave {count - held_out} images "
            "to train on, where BatchNorm needs two"
        )
    return positions


def _cross_validated(
    train: Callable[[np.ndarray, Rates, np.ndarray], Classifier],
    positions: np.ndarray,
    labels: np.ndarray,
    num_folds: int,
    seed: int,
) -> list[float]:
    """Return the accuracy of each pair of RATES on images that were not trained on, nan if one of
    its trainings diverged.
    """
    fold = folds_of(labels[positions], num_folds, seed)
    hits = np.zeros(len(RATES))
    for held in (fold == number for number in np.unique(fold)):
        tried = train(positions[~held], RATES, positions[held]).tried
        hits += held.sum() * np.array([reached for _, reached in tried])
    if np.isnan(hits).all():
        raise FloatingPointError("training diverged with all rates in one fold or another")
    return (hits / len(positions)).tolist()


def _train_on_crops(
    backbone: nn.Module,
    data: Data,
    stream: ViewStream,
    positions: np.ndarray,
    rates: Rates,
    held: np.ndarray,
    *,
    epochs: int,
    max_steps: int | None,
    seed: int,
    near: Near | None,
    asked_by: str,
) -> Classifier:
    """Train at each pair of rates on images at `positions`, and choose on those at `held`."""
    batch_size = tuning_batch_size(len(positions))
    crops = crops_and_flips(stream.augment, views=1)
    views = labelled_views(
        stream.with_views(crops, seed=seed, batch_size=batch_size), positions, seed=seed
    )
    scale = batch_size / 256
    steps = min(epochs * views.steps_per_epoch, max_steps or sys.maxsize)
    recipes = [Recipe(lr * scale, head_lr * scale, steps, near=near) for lr, head_lr in rates]
    return chosen_classifier(backbone, data, stream, views, recipes, seed, held, asked_by)

"""The protocols by which representations are judged.

Each is one function that gives columns, numbers by name. Whatever is chosen is chosen on the
validation split; the split that is reported is encoded once, and read after that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effssl.data.splits import class_balanced, folds, per_class
from effssl.data.stored import Data, Split
from effssl.evaluation.encode import Features, embed, finite, spread
from effssl.evaluation.probes import (
    L2_GRID,
    LinearProbe,
    accuracy,
    best_linear_probe,
    best_of_grid,
    cross_validated,
    fit_linear_probes,
    is_end,
    knn_accuracy,
    wilson_interval,
)
from effssl.evaluation.spectrum import (
    alignment,
    decay_exponent,
    effective_rank,
    lidar,
    mean_std,
    off_diagonal_energy,
    uniformity,
    variance_share,
)

FEW_LABEL_DRAWS = 5
FEW_LABEL_GRID = L2_GRID[:5]  # weaker penalties change nothing if the classes are separable
FEW_LABEL_FOLDS = 5
RANK_IMAGES = 2000  # for the measures without labels
VIEW_IMAGES, VIEWS = 1000, 8  # for those of random views
TOP_5_CLASSES = 6  # from this many classes on, top-5 accuracy says something

Columns = dict[str, float]


class Encoded(NamedTuple):
    """Representations [n, dim] and labels int64 [n] of the splits of a set, on the device."""

    classes: int
    train_h: Tensor
    train_y: Tensor
    val_h: Tensor
    val_y: Tensor
    reported: Callable[[], tuple[Tensor, Tensor]]
    """() -> (h, y) of the reported split, which is encoded at the first call."""


def encode_splits(features: Features, data: Data, max_images: int) -> Encoded:
    """Encode about `max_images` labelled training images, a part of every class and at least one,
    and validation.

    Raises FloatingPointError for representations that are not finite, as `reported` does."""
    labels, labelled = data.train.labels, labelled_positions(data)
    part = min(1.0, max_images / len(labelled))
    chosen = labelled[class_balanced(labels[labelled], part, seed=0)]
    train_h, train_y = _with_labels(features, data, "train", chosen)
    val_h, val_y = _with_labels(features, data, "train", data.val_positions)

    @functools.cache
    def reported() -> tuple[Tensor, Tensor]:
        split, positions = reported_images(data)
        if split == "train":  # that is the validation split, encoded above
            return val_h, val_y
        return _with_labels(features, data, split, positions)

    return Encoded(len(data.train.classes), train_h, train_y, val_h, val_y, reported)


def labelled_positions(data: Data) -> np.ndarray:
    """Return training positions to fit probes on; none if no label is held out to choose by."""
    if not (data.train.labels[data.val_positions] >= 0).any():
        return data.val_positions[:0]
    return data.train_positions[data.train.labels[data.train_positions] >= 0]


def reported_split(data: Data) -> str:
    """Return "test", or "validation" if the set has no test split with a label."""
    return "test" if data.test is not None and (data.test.labels >= 0).any() else "validation"


def reported_images(data: Data) -> tuple[Split, np.ndarray]:
    """Return the stored split that is reported from, and the positions of its labelled images."""
    if reported_split(data) == "test":
        return "test", np.flatnonzero(data.stored("test").labels >= 0)
    return "train", data.val_positions


def about_unlabelled(data: Data) -> str:
    """Return what to say about images of the test split without a label; "" if all have one."""
    if data.test is None or (data.test.labels >= 0).all():
        return ""
    num_images, num_unlabelled = len(data.test.labels), int((data.test.labels < 0).sum())
    if num_unlabelled == num_images:
        return f"not test: none of its {num_images} images has a label"
    return f"without {num_unlabelled} of its {num_images} images, which have no label"


def choose_linear(encoded: Encoded) -> tuple[LinearProbe, float]:
    """Return the linear probe on all labels that is best on validation, and its accuracy there."""
    train, val = (encoded.train_h, encoded.train_y), (encoded.val_h, encoded.val_y)
    return best_linear_probe(*train, *val, encoded.classes)


def linear(encoded: Encoded, chosen: tuple[LinearProbe, float], name: str = "linear") -> Columns:
    """Judge the chosen probe, as column `name` and others that begin with it.

    They are its accuracy in [0, 1], a 95% interval over images, its accuracy on validation, its
    penalty, how many choices fell on an end of the grid (0 or 1), and its top-5 accuracy if there
    are over five classes.
    """
    probe, val = chosen
    h, y = encoded.reported()
    top1 = accuracy(probe, h, y)
    low, high = wilson_interval(top1, len(y))
    columns = {name: top1, f"{name}_low": low, f"{name}_high": high}
    columns |= {f"{name}_val": val, f"{name}_l2": probe.l2, f"{name}_at_end": is_end(probe.l2)}
    if encoded.classes >= TOP_5_CLASSES:
        columns[f"{name}_top5"] = accuracy(probe, h, y, top=5)
    return columns


def few_labels(encoded: Encoded, count: int, seed: int) -> Columns:
    """Judge linear probes on `count` labels a class: mean and deviation over seeded draws.

    Each probe's penalty is chosen by cross-validation within the labels that were drawn, so that no
    other label is used. Beside it, `few_labels_by_validation` has it chosen on all labels of the
    validation split, which are often many more than those drawn.
    """
    by_choice: dict[str, list[LinearProbe]] = {"few_labels": [], "few_labels_by_validation": []}
    for i in range(FEW_LABEL_DRAWS):
        labels = encoded.train_y.cpu().numpy()
        drawn = per_class(labels, count, seed + i)
        fold = torch.from_numpy(folds(labels[drawn], FEW_LABEL_FOLDS, seed + i))
        at = torch.from_numpy(drawn).to(encoded.train_y.device)
        h, y = encoded.train_h[at], encoded.train_y[at]
        probes = fit_linear_probes(h, y, encoded.classes, FEW_LABEL_GRID)
        within = cross_validated(h, y, encoded.classes, FEW_LABEL_GRID, fold.to(at))
        on_val = [accuracy(probe, encoded.val_h, encoded.val_y) for probe in probes]
        for chosen, reached in zip(by_choice.values(), (within, on_val), strict=True):
            chosen.append(probes[best_of_grid(reached)])
    columns: Columns = {}
    for name, chosen in by_choice.items():
        accuracies = torch.tensor([accuracy(probe, *encoded.reported()) for probe in chosen])
        at_end = sum(is_end(probe.l2, FEW_LABEL_GRID) for probe in chosen)
        columns |= {name: float(accuracies.mean()), f"{name}_std": float(accuracies.std())}
        columns |= {f"{name}_at_end": at_end}
    return columns


def knn(encoded: Encoded, k: int = 20) -> Columns:
    """Judge the weighted k-nearest-neighbour classifier, with a 95% interval over images."""
    h, y = encoded.reported()
    share = knn_accuracy(encoded.train_h, encoded.train_y, h, y, k=k)
    low, high = wilson_interval(share, len(y))
    return {"knn": share, "knn_low": low, "knn_high": high}


def corrupted(probe: LinearProbe, encoded: Iterable[tuple[str, Tensor, Tensor]]) -> Columns:
    """Judge a linear probe on corrupted test images, (corruption, h, y) each.

    The columns are the mean over corruptions (arXiv 1903.12261), and each of them.
    """
    each = {f"corrupted/{name}": accuracy(probe, h, y) for name, h, y in encoded}
    return {"corrupted": sum(each.values()) / len(each)} | each


def measures(h: Tensor, projector: nn.Module | None) -> Columns:
    """Measure representations h [n, dim] and embeddings z = projector(h), without labels.

    The columns are effective rank, decay exponent alpha, off-diagonal energy, the share of
    variance and the standard deviation; those that need more dimensions than there are are left
    out.
    """
    by_name = {
        "effective_rank": effective_rank,
        "alpha": decay_exponent,
        "off_diagonal": off_diagonal_energy,
        "variance_share": variance_share,
        "std": mean_std,
    }
    return _measured(h, projector, by_name)


def measures_of_views(h: Tensor, projector: nn.Module | None) -> Columns:
    """Measure representations h [images, views, dim] of random views, and their embeddings.

    The columns are LiDAR, alignment, and uniformity over the first view of every image.
    """
    by_name = {
        "lidar": lidar,
        "alignment": alignment,
        "uniformity": lambda x: uniformity(x[:, 0]),
    }
    return _measured(h, projector, by_name)


def confusion(probe: LinearProbe, h: Tensor, y: Tensor) -> list[list[int]]:
    """Count what the probe takes for what: [classes, classes], a row a true class."""
    classes = len(probe.bias)
    pairs = y * classes + probe.logits(h).argmax(1)
    return torch.bincount(pairs.cpu(), minlength=classes**2).view(classes, classes).tolist()


def measured_part(h: Tensor) -> Tensor:
    """Return the images that the measures without labels are taken of."""
    return spread(h, RANK_IMAGES)


def _measured(
    h: Tensor, projector: nn.Module | None, by_name: Mapping[str, Callable[[Tensor], float]]
) -> Columns:
    """Take measures of h [..., dim_h], and of z if there is a projector; nan is left out."""
    tensors = {"h": h}
    if projector is not None:
        tensors["z"] = embed(projector, h.flatten(0, -2)).unflatten(0, h.shape[:-1])
    columns = {
        f"{letter}/{name}": measure(x)
        for letter, x in tensors.items()
        for name, measure in by_name.items()
    }
    return {name: value for name, value in columns.items() if not math.isnan(value)}


def _with_labels(
    features: Features, data: Data, split: Split, positions: np.ndarray
) -> tuple[Tensor, Tensor]:
    h = finite(features(split, positions))
    return h, torch.from_numpy(data.stored(split).labels[positions]).to(h.device)

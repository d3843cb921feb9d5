"""The protocols by which representations are judged: each is one function that gives columns, numbers by name.

Whatever is chosen is chosen on the validation split; the split that is reported is encoded once, and read after that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effssl.data.splits import class_balanced, per_class
from effssl.data.stored import Data, Split
from effssl.evaluation.encode import Features, embed, spread
from effssl.evaluation.probes import LinearProbe, accuracy, best_linear_probe, knn_accuracy, wilson_interval
from effssl.evaluation.spectrum import alignment, decay_exponent, effective_rank, lidar, off_diagonal_energy, uniformity

FEW_LABEL_DRAWS = 5
FEW_LABEL_GRID = (1e-1, 1e-2, 1e-3)  # weaker penalties change nothing where the classes are separable
RANK_IMAGES = 2000  # for the measures without labels
VIEW_IMAGES, VIEWS = 1000, 8  # for those of random views
TOP_5_CLASSES = 6  # it says something from this many classes on

Columns = dict[str, float]


class Encoded(NamedTuple):
    """Representations [n, dim] and labels [n] of the splits of a set, on the device."""

    classes: int
    train_h: Tensor
    train_y: Tensor
    val_h: Tensor
    val_y: Tensor
    reported: Callable[[], tuple[Tensor, Tensor]]  # (h, y) of the reported split, encoded at the first call


def encode_splits(features: Features, data: Data, max_images: int) -> Encoded:
    """At most `max_images` labelled training images, class-balanced, and the validation split."""
    labels, labelled = data.train.labels, labelled_positions(data)
    chosen = labelled[class_balanced(labels[labelled], min(1.0, max_images / len(labelled)), seed=0)]
    train_h, train_y = _with_labels(features, data, "train", chosen)
    val_h, val_y = _with_labels(features, data, "train", data.val_positions)

    @functools.cache
    def reported() -> tuple[Tensor, Tensor]:
        split, positions = reported_images(data)
        return _with_labels(features, data, split, positions) if split == "test" else (val_h, val_y)

    return Encoded(len(data.train.classes), train_h, train_y, val_h, val_y, reported)


def labelled_positions(data: Data) -> np.ndarray:
    """Training positions to fit probes on; none where no label could be held out to choose by."""
    if len(data.val_positions) == 0:
        return data.val_positions
    return data.train_positions[data.train.labels[data.train_positions] >= 0]


def reported_split(data: Data) -> str:
    """ "test", or "validation" where the set has no test split with labels."""
    test = data.test
    return "test" if test is not None and len(test.labels) > 0 and bool((test.labels >= 0).all()) else "validation"


def reported_images(data: Data) -> tuple[Split, np.ndarray]:
    """Return the stored split that is reported from, and the positions of the images there."""
    if reported_split(data) == "test":
        assert data.test is not None
        return "test", np.arange(len(data.test.labels))
    return "train", data.val_positions


def choose_linear(encoded: Encoded) -> tuple[LinearProbe, float]:
    """The linear probe on all labels with the best validation accuracy, and that accuracy."""
    return best_linear_probe(encoded.train_h, encoded.train_y, encoded.val_h, encoded.val_y, encoded.classes)


def linear(encoded: Encoded, chosen: tuple[LinearProbe, float], name: str = "linear") -> Columns:
    """Accuracy in [0, 1] of the chosen probe, its 95% interval over images, top-5 where there are over five classes;
    named `name`."""
    probe, val = chosen
    h, y = encoded.reported()
    reached = accuracy(probe, h, y)
    low, high = wilson_interval(reached, len(y))
    columns = {name: reached, f"{name}_low": low, f"{name}_high": high, f"{name}_val": val, f"{name}_l2": probe.l2}
    if encoded.classes >= TOP_5_CLASSES:
        columns[f"{name}_top5"] = accuracy(probe, h, y, top=5)
    return columns


def few_labels(encoded: Encoded, count: int, seed: int) -> Columns:
    """Of linear probes on `count` labels a class: mean and standard deviation over seeded draws."""
    fitted = []
    for i in range(FEW_LABEL_DRAWS):
        drawn = torch.from_numpy(per_class(encoded.train_y.cpu().numpy(), count, seed + i)).to(encoded.train_y.device)
        few_h, few_y = encoded.train_h[drawn], encoded.train_y[drawn]
        fitted.append(best_linear_probe(few_h, few_y, encoded.val_h, encoded.val_y, encoded.classes, FEW_LABEL_GRID))
    reached = torch.tensor([accuracy(probe, *encoded.reported()) for probe, _ in fitted])
    return {
        "few_labels": float(reached.mean()),
        "few_labels_std": float(reached.std()),
        "few_labels_val": sum(val for _, val in fitted) / len(fitted),
    }


def knn(encoded: Encoded, k: int = 20) -> Columns:
    """Of the weighted k-nearest-neighbour classifier on cosine similarity, and its 95% interval over images."""
    h, y = encoded.reported()
    reached = knn_accuracy(encoded.train_h, encoded.train_y, h, y, k=k)
    low, high = wilson_interval(reached, len(y))
    return {"knn": reached, "knn_low": low, "knn_high": high}


def corrupted(probe: LinearProbe, encoded: Iterable[tuple[str, Tensor, Tensor]]) -> Columns:
    """Of the chosen linear probe on corrupted test images, (corruption, h, y) each: the mean over corruptions (arXiv
    1903.12261) and each."""
    each = {f"corrupted/{name}": accuracy(probe, h, y) for name, h, y in encoded}
    return {"corrupted": sum(each.values()) / len(each)} | each


def measures(h: Tensor, projector: nn.Module | None) -> Columns:
    """Without labels, of representations h [n, dim] and of embeddings z = projector(h): effective rank, decay exponent
    alpha and off-diagonal energy, where there are enough dimensions for them."""
    of = {"effective_rank": effective_rank, "alpha": decay_exponent, "off_diagonal": off_diagonal_energy}
    return _measured(h, projector, of)


def measures_of_views(h: Tensor, projector: nn.Module | None) -> Columns:
    """Without labels, of representations h [images, views, dim] of random views and of their embeddings: LiDAR,
    alignment, and uniformity over the first view of every image."""
    of = {"lidar": lidar, "alignment": alignment, "uniformity": lambda x: uniformity(x[:, 0])}
    return _measured(h, projector, of)


def _measured(h: Tensor, projector: nn.Module | None, of: Mapping[str, Callable[[Tensor], float]]) -> Columns:
    measured = {"h": h}
    if projector is not None:
        measured["z"] = embed(projector, h.flatten(0, -2)).unflatten(0, h.shape[:-1])
    columns = {f"{x}/{name}": measure(measured[x]) for x in measured for name, measure in of.items()}
    return {name: value for name, value in columns.items() if not math.isnan(value)}


def confusion(probe: LinearProbe, h: Tensor, y: Tensor) -> list[list[int]]:
    """Counts [classes, classes]: a row a true class, a column a predicted one."""
    classes = len(probe.bias)
    counted = torch.bincount((y * classes + probe.logits(h).argmax(1)).cpu(), minlength=classes**2)
    return counted.view(classes, classes).tolist()


def measured_part(h: Tensor) -> Tensor:
    """The images that the measures without labels are taken of."""
    return spread(h, RANK_IMAGES)


def _with_labels(features: Features, data: Data, split: Split, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    h = features(split, positions)
    return h, torch.from_numpy(data.stored(split).labels[positions]).to(h.device)

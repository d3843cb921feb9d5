"""Probes of a backbone: on the validation split while training, and the final table on the test split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effssl.augment import clean_view
from effssl.data import Data
from effssl.data.beton import Beton
from effssl.data.loader import batches, open_loader
from effssl.data.splits import class_balanced, per_class
from effssl.probe import accuracy, best_linear_probe, embed, encode, knn_accuracy
from effssl.spectrum import effective_rank, off_diagonal_energy

FEW_LABEL_DRAWS = 5
FEW_LABEL_GRID = (1e-1, 1e-2, 1e-3)  # weaker penalties change nothing where the classes are separable
RANK_IMAGES = 2000  # for the measures without labels
PIXEL_SIDE = 32  # pixels are probed at no more than this


class Clean(NamedTuple):
    """How clean views are made."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    canvas: int  # side that images of varied size are decoded to, in pixels; see loader.open_loader
    workers: int
    device: torch.device
    dtype: torch.dtype


# Representations [n, dim], on the device, of the images at some positions of a stored split
Features = Callable[[Beton, np.ndarray], Tensor]


def backbone_features(backbone: nn.Module, clean: Clean) -> Features:
    """Representations of clean single views."""
    size, dtype = clean.size, clean.dtype
    return lambda beton, positions: encode(backbone, clean_views(beton, positions, clean, size), dtype=dtype)


def pixel_features(clean: Clean) -> Features:
    """The pixels themselves, at most PIXEL_SIDE a side."""
    side = min(PIXEL_SIDE, clean.size)
    return lambda beton, positions: torch.cat([x.flatten(1) for x in clean_views(beton, positions, clean, side)])


_loaders: dict[tuple, Any] = {}  # compiling one takes seconds, and every probe reads the same two files


def clean_views(beton: Beton, positions: np.ndarray, clean: Clean, size: int) -> Iterator[Tensor]:
    """Clean views [batch, 3, size, size], normalised, on the device, of the images at `positions`, in that order."""
    canvas = None if beton.side else clean.canvas
    key = (beton.path, clean.workers, canvas)
    if key not in _loaders:
        _loaders[key] = open_loader(beton.path, 256, clean.workers, canvas)
    for images, _ in batches(_loaders[key], positions, clean.device):
        yield clean_view(images, size=size, mean=clean.mean, std=clean.std)


def validation_probe(features: Features, data: Data, max_images: int, projector: nn.Module) -> dict[str, float]:
    """kNN and linear accuracy in [0, 1] on the validation split, from at most `max_images` training images; effective
    rank and off-diagonal energy of the representations h and of the embeddings z = projector(h). Without labels: these
    measures alone."""
    labels = data.train.labels
    labelled = _labelled(data)
    if len(labelled) == 0:
        return _measures(features(data.train, spread(data.train_positions, RANK_IMAGES)), projector)
    chosen = labelled[class_balanced(labels[labelled], min(1.0, max_images / len(labelled)), seed=0)]
    train_h, train_y = _labelled_features(features, data.train, chosen)
    val_h, val_y = _labelled_features(features, data.train, data.val_positions)
    _, linear = best_linear_probe(train_h, train_y, val_h, val_y, len(data.train.classes), grid=(1e-3,))
    knn = knn_accuracy(train_h, train_y, val_h, val_y)
    return {"linear": linear, "knn": knn} | _measures(spread(val_h, RANK_IMAGES), projector)


def _measures(h: Tensor, projector: nn.Module) -> dict[str, float]:
    measured = {}
    for name, x in {"h": h, "z": embed(projector, h)}.items():
        measured[f"{name}/effective_rank"] = effective_rank(x)
        measured[f"{name}/off_diagonal"] = off_diagonal_energy(x)
    return measured


def final_rows(rows: dict[str, Features], data: Data, *, max_images: int, few_labels: int, seed: int) -> dict[str, Any]:
    """The final table: for every row, accuracies in [0, 1] of a linear probe on all labels, on `few_labels` labels a
    class (mean and standard deviation over seeded draws) and of kNN.

    The penalty of each probe is chosen on the validation split; the test split is encoded once per row, after that. A
    set without a test split reports the validation split, and says so; one without labels reports no rows.
    """
    labels, labelled = data.train.labels, _labelled(data)
    on_test = data.test is not None and len(data.test.labels) > 0 and bool((data.test.labels >= 0).all())
    if len(labelled) == 0 or not rows:
        return {"split": None, "rows": {}}
    chosen = labelled[class_balanced(labels[labelled], min(1.0, max_images / len(labelled)), seed=0)]
    classes = len(data.train.classes)
    table: dict[str, dict[str, float]] = {}
    for row, features in rows.items():
        train_h, train_y = _labelled_features(features, data.train, chosen)
        val_h, val_y = _labelled_features(features, data.train, data.val_positions)
        full, full_val = best_linear_probe(train_h, train_y, val_h, val_y, classes)
        few = []
        for i in range(FEW_LABEL_DRAWS):
            drawn = torch.from_numpy(per_class(labels[chosen], few_labels, seed + i)).to(train_h.device)
            few.append(best_linear_probe(train_h[drawn], train_y[drawn], val_h, val_y, classes, FEW_LABEL_GRID))
        if on_test:
            assert data.test is not None
            end_h, end_y = _labelled_features(features, data.test, np.arange(len(data.test.labels)))
        else:
            end_h, end_y = val_h, val_y
        reached = torch.tensor([accuracy(probe, end_h, end_y) for probe, _ in few])
        table[row] = {
            "linear": accuracy(full, end_h, end_y),
            "linear_val": full_val,
            "few_labels": float(reached.mean()),
            "few_labels_std": float(reached.std()),
            "few_labels_val": sum(val for _, val in few) / len(few),
            "knn": knn_accuracy(train_h, train_y, end_h, end_y),
            "effective_rank": effective_rank(spread(end_h, RANK_IMAGES)),
        }
    return {"split": "test" if on_test else "validation", "few_labels": few_labels, "rows": table}


def format_table(final: dict[str, Any]) -> str:
    """The final table as text."""
    if not final["rows"]:
        return "no final probes (no labels, or --final-images 0): metrics.jsonl has those on the way"
    few = f"linear, {final['few_labels']} labels a class"
    lines = [f"accuracy on the {final['split']} split (%)", f"{'':<12} {'linear, all labels':>20} {few:>29} {'kNN':>8}"]
    for row, a in final["rows"].items():
        spread = f"{100 * a['few_labels']:.1f} +- {100 * a['few_labels_std']:.1f}"
        lines.append(f"{row:<12} {100 * a['linear']:>20.1f} {spread:>29} {100 * a['knn']:>8.1f}")
    return "\n".join(lines)


def spread(rows, count: int):
    """At most `count` rows of an array or tensor, evenly over its length: images may lie sorted by class."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _labelled(data: Data) -> np.ndarray:
    """Training positions to fit probes on; none where no label could be held out to choose by."""
    if len(data.val_positions) == 0:
        return data.val_positions
    return data.train_positions[data.train.labels[data.train_positions] >= 0]


def _labelled_features(features: Features, beton: Beton, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    h = features(beton, positions)
    return h, torch.from_numpy(beton.labels[positions]).to(h.device)

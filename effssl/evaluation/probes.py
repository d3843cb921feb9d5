"""kNN and linear probes on frozen representations: pure functions of tensors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effssl.evaluation.logistic import minimise

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
VALUES = 2**25  # similarities and votes that kNN holds at a time


class LinearProbe(NamedTuple):
    """A fitted linear classifier on standardised representations."""

    weight: Tensor  # [classes, dim]
    bias: Tensor  # [classes]
    mean: Tensor  # [dim]
    std: Tensor  # [dim]
    l2: float

    def logits(self, h: Tensor) -> Tensor:
        """Return logits [n, classes] of h [n, dim]."""
        return ((h - self.mean) / self.std) @ self.weight.T + self.bias


def fit_linear_probes(
    h: Tensor, y: Tensor, classes: int, grid: tuple[float, ...], *, tolerance: float = 1e-4
) -> list[LinearProbe]:
    """Fit multinomial logistic regressions on standardised h [n, dim], y int64 [n].

    There is one for every l2 of the grid, all in one pass. Each minimises mean cross-entropy
    + l2 / 2 |W|^2, which is scikit-learn's with C = 1 / (n l2). The fit is deterministic.
    """
    with torch.no_grad():
        mean, std = h.mean(0), h.std(0, unbiased=False).clamp(min=1e-6)
        l2 = torch.tensor(grid, dtype=h.dtype, device=h.device)
        weights, biases = minimise((h - mean) / std, y, classes, l2, tolerance=tolerance)
    return [
        LinearProbe(w, b, mean, std, each) for w, b, each in zip(weights, biases, grid, strict=True)
    ]


def best_linear_probe(
    train_h: Tensor,
    train_y: Tensor,
    val_h: Tensor,
    val_y: Tensor,
    classes: int,
    grid: tuple[float, ...] = L2_GRID,
) -> tuple[LinearProbe, float]:
    """Return the probe of the grid of l2 that is best on validation, and its accuracy there.

    Of equals it is that of the largest l2.
    """
    probes = fit_linear_probes(train_h, train_y, classes, tuple(sorted(grid, reverse=True)))
    reached = [accuracy(probe, val_h, val_y) for probe in probes]
    best = max(range(len(probes)), key=reached.__getitem__)
    return probes[best], reached[best]


def accuracy(probe: LinearProbe, h: Tensor, y: Tensor, *, top: int = 1) -> float:
    """Return the share of h [n, dim] with y [n] among the `top` largest logits, in [0, 1]."""
    logits = probe.logits(h)
    largest = logits.topk(min(top, logits.shape[1]), dim=1).indices
    return int((largest == y[:, None]).sum()) / len(y)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95% confidence interval of a probability, observed as `share` of n trials.

    It is Wilson's (J. Am. Stat. Assoc. 22, 1927). It covers what other test images would change;
    other training seeds add to that.
    """
    z = 1.959964  # the normal distribution's 97.5% quantile
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # In exact numbers it contains the share and lies in [0, 1].
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


@torch.no_grad()
def knn_accuracy(
    train_h: Tensor,
    train_y: Tensor,
    eval_h: Tensor,
    eval_y: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the accuracy in [0, 1] of the weighted k-nearest-neighbour classifier.

    It is that of arXiv 1805.01978, on cosine similarity with votes exp(similarity / temperature).
    h: [n, dim]; y: int64 [n], not negative. It works in parts of bounded memory.
    """
    train_h, eval_h = F.normalize(train_h, dim=1), F.normalize(eval_h, dim=1)
    k = min(k, len(train_h))
    classes = int(train_y.max()) + 1
    rows = max(1, VALUES // max(len(train_h), classes))
    hits = 0
    for h, y in zip(eval_h.split(rows), eval_y.split(rows), strict=True):
        similarity, neighbour = (h @ train_h.T).topk(k, dim=1)
        votes = torch.zeros(len(h), classes, device=h.device)
        # The nearest one's vote is 1: exp(1 / temperature) overflows below a temperature of 0.012.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes.scatter_add_(1, train_y[neighbour], weight)
        hits += int((votes.argmax(1) == y).sum())
    return hits / len(eval_y)

"""kNN and linear probes on frozen representations: pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effssl.evaluation.logistic import minimise

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
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
    h: Tensor, y: Tensor, classes: int, grid: tuple[float, ...], *, tolerance: float = 1e-2
) -> list[LinearProbe]:
    """Fit multinomial logistic regressions on standardised h [n, dim], y int64 [n].

    There is one for every l2 of the grid, the strongest first. Each minimises mean cross-entropy
    + l2 / 2 |W|^2, which is scikit-learn's with C = 1 / (n l2). The fit is deterministic.
    """
    penalties = tuple(sorted(grid, reverse=True))
    with torch.no_grad():
        mean, std = standardisation(h)
        solved = minimise((h - mean) / std, y, classes, penalties, tolerance=tolerance)
    return [
        LinearProbe(weight, bias, mean, std, l2)
        for (weight, bias), l2 in zip(solved, penalties, strict=True)
    ]


def standardisation(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [dim] of h [n, dim].

    A dimension that varies by no more than rounding does is constant and has the deviation 1, as in
    scikit-learn's StandardScaler: divided by next to nothing, what it is on other images would
    drown all other dimensions. How small a dimension is does not matter beside that.
    """
    mean = (h.sum(0, dtype=torch.float64) / len(h)).to(h)
    size, distance = (
        torch.linalg.vector_norm(x, dim=0, dtype=torch.float64) for x in (h, h - mean)
    )
    varies = distance > 10 * torch.finfo(h.dtype).eps * size
    return mean, torch.where(varies, distance / math.sqrt(len(h)), 1.0).to(h)


def best_linear_probe(
    train_h: Tensor,
    train_y: Tensor,
    val_h: Tensor,
    val_y: Tensor,
    classes: int,
    grid: tuple[float, ...] = L2_GRID,
) -> tuple[LinearProbe, float]:
    """Return the probe of the grid of l2 that is best on validation, and its accuracy there."""
    probes = fit_linear_probes(train_h, train_y, classes, grid)
    reached = [accuracy(probe, val_h, val_y) for probe in probes]
    best = best_of_grid(reached)
    return probes[best], reached[best]


def cross_validated(
    h: Tensor, y: Tensor, classes: int, grid: tuple[float, ...], fold: Tensor
) -> list[float]:
    """Return the accuracy, in [0, 1], of each penalty on images that were not fitted on.

    h: [n, dim]; y: int64 [n]; grid: the strongest first; fold: int [n], which images are held out
    together. A probe is fitted without each fold in turn.
    """
    hits = torch.zeros(len(grid), dtype=torch.int64)
    for is_held in (fold == number for number in fold.unique()):
        fitted = fit_linear_probes(h[~is_held], y[~is_held], classes, grid, tolerance=0.1)
        hits += torch.tensor(
            [int((probe.logits(h[is_held]).argmax(1) == y[is_held]).sum()) for probe in fitted]
        )
    return (hits / len(y)).tolist()


def best_of_grid(reached: Sequence[float]) -> int:
    """Return the position of the largest value along a grid; nan is no value.

    Of equals it is the first that is no end of the grid, so that an end is chosen only where it is
    better than all between: then what lies beyond might be better still.
    """
    last = len(reached) - 1
    return max(
        (i for i, value in enumerate(reached) if not math.isnan(value)),
        key=lambda i: (reached[i], 0 < i < last, -i),
    )


def is_end(l2: float, grid: tuple[float, ...] = L2_GRID) -> bool:
    """Say whether a penalty is the weakest or the strongest of several."""
    return len(grid) > 1 and l2 in (min(grid), max(grid))


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

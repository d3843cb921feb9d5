"""kNN and linear probes on frozen representations; pure functions of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


class LinearProbe(NamedTuple):
    """A fitted linear classifier on standardised representations."""

    weight: Tensor  # [classes, dim]
    bias: Tensor  # [classes]
    mean: Tensor  # [dim]
    std: Tensor  # [dim]
    l2: float

    def logits(self, h: Tensor) -> Tensor:
        """h [n, dim] -> [n, classes]."""
        return ((h - self.mean) / self.std) @ self.weight.T + self.bias


def encode(backbone: nn.Module, batches: Iterable[Tensor], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Representations of clean views, float32 [n, dim]. batches: normalised [b, 3, h, w]; every module is left in
    the mode it was in. dtype: bfloat16 for autocast."""
    parts = []
    with _evaluating(backbone):
        for x in batches:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                h = backbone(x.to(memory_format=torch.channels_last))
            parts.append(h.float())
    return torch.cat(parts)


def embed(projector: nn.Module, h: Tensor) -> Tensor:
    """Embeddings [n, dim] of representations h [n, dim_h]; every module is left in the mode it was in."""
    with _evaluating(projector):
        return projector(h)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def knn_accuracy(
    train_h: Tensor, train_y: Tensor, eval_h: Tensor, eval_y: Tensor, *, k: int = 20, temperature: float = 0.07
) -> float:
    """Accuracy in [0, 1] of the weighted k-nearest-neighbour classifier on cosine similarity (arXiv 1805.01978):
    votes exp(similarity / temperature). h [n, dim], y int64 [n] >= 0. In chunks of bounded memory."""
    train_h, eval_h = F.normalize(train_h, dim=1), F.normalize(eval_h, dim=1)
    k = min(k, len(train_h))
    classes = int(train_y.max()) + 1
    chunk = max(1, 2**25 // len(train_h))
    hits = 0
    for h, y in zip(eval_h.split(chunk), eval_y.split(chunk), strict=True):
        similarity, neighbour = (h @ train_h.T).topk(k, dim=1)
        votes = torch.zeros(len(h), classes, device=h.device)
        votes.scatter_add_(1, train_y[neighbour], (similarity / temperature).exp())
        hits += int((votes.argmax(1) == y).sum())
    return hits / len(eval_y)


def fit_linear_probe(h: Tensor, y: Tensor, classes: int, l2: float, *, start: LinearProbe | None = None) -> LinearProbe:
    """Multinomial logistic regression on standardised h [n, dim], y int64 [n]: minimises mean cross-entropy +
    l2 / 2 |W|^2 with L-BFGS in float32, from `start` or zero. Deterministic."""
    mean, std = h.mean(0), h.std(0, unbiased=False).clamp(min=1e-6)
    x = (h - mean) / std
    weight = (start.weight.clone() if start else x.new_zeros(classes, x.shape[1])).requires_grad_()
    bias = (start.bias.clone() if start else x.new_zeros(classes)).requires_grad_()
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + 0.5 * l2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)  # type: ignore[arg-type]
    return LinearProbe(weight.detach(), bias.detach(), mean, std, l2)


def best_linear_probe(
    train_h: Tensor, train_y: Tensor, val_h: Tensor, val_y: Tensor, classes: int, grid: tuple[float, ...] = L2_GRID
) -> tuple[LinearProbe, float]:
    """The probe of the grid of l2 with the best validation accuracy, and that accuracy."""
    best: tuple[LinearProbe, float] | None = None
    probe = None
    for l2 in sorted(grid, reverse=True):  # each start is the solution of the stronger penalty before
        probe = fit_linear_probe(train_h, train_y, classes, l2, start=probe)
        reached = accuracy(probe, val_h, val_y)
        if best is None or reached > best[1]:
            best = probe, reached
    assert best is not None
    return best


def accuracy(probe: LinearProbe, h: Tensor, y: Tensor) -> float:
    """Share of h [n, dim] whose largest logit is y [n], in [0, 1]."""
    return float((probe.logits(h).argmax(1) == y).float().mean())

"""The losses as double loops over pairs of views, which the benchmark of losses compares.

They are naive in one thing only, a d x d matrix for every pair of views (VICReg: of every view):
they standardise each view once, and take the transpose of C_ab for C_ba."""

from __future__ import annotations

from functools import reduce
from itertools import combinations

import torch
from torch import Tensor

from effssl.losses import redundancy_weight


def vicreg_loop(z: Tensor) -> Tensor:
    """Return VICReg of z [views, batch, dim] with weights 25, 25, 1."""
    invariance = torch.stack([(a - b).square().mean() for a, b in combinations(z, 2)]).mean()
    variance = [torch.relu(1 - torch.sqrt(a.var(0) + 1e-4)).mean() for a in z]
    squares = [c.square().sum() - c.diagonal().square().sum() for c in (a.T.cov() for a in z)]
    covariance = 2 / z.shape[2] * torch.stack(squares).mean()
    return 25 * invariance + 25 * torch.stack(variance).mean() + covariance


def barlow_loop(z: Tensor, pooled: bool) -> Tensor:
    """Return Barlow Twins of z [views, batch, dim] with the rule's weight, of the mean correlation
    or as the mean over pairs."""
    n = z.shape[1]
    x = [torch.nn.functional.batch_norm(a, None, None, training=True) / n**0.5 for a in z]
    between = (a.T @ b for a, b in combinations(x, 2))
    if not pooled:
        return torch.stack([_barlow_of(c) for c in between]).mean()
    half = reduce(torch.add, between)
    return _barlow_of((half + half.T) / (len(z) * (len(z) - 1)))


def _barlow_of(c: Tensor) -> Tensor:
    d = c.diagonal()
    off_diagonal = c.square().sum() - d.square().sum()
    return (1 - d).square().sum() + redundancy_weight(len(c)) * off_diagonal

"""Measures of representations and embeddings that need no labels; pure functions of x [n, dim], in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> float:
    """RankMe (arXiv 2210.02885, eq. 1) of x [n, dim]: exp of the entropy of its normalised singular values, from 1
    (collapsed) to min(n, dim). Not centred, as in the paper.

    Through the smaller Gram matrix, seven times faster at 2000 x 4096 than the singular values themselves; what lies
    below float64's noise in it (1e-7 of the largest singular value) counts as 0.
    """
    squares = torch.linalg.eigvalsh(_small_gram(x.double()))
    noise = len(squares) * torch.finfo(torch.float64).eps * squares[-1]
    singular = torch.where(squares > noise, squares, 0).clamp(min=0).sqrt()
    p = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def off_diagonal_energy(x: Tensor) -> float:
    """Mean squared correlation of two distinct dimensions of x [n >= 2, dim], less its sampling floor 1 / (n - 1).

    0 where dimensions are orthogonal up to sampling, near 1 where all say the same. The floor is the mean of the
    squared sample correlation of independent normal variables, so the measure can fall a little below 0. Constant
    dimensions have no correlation and are left out; nan where fewer than two others remain.
    """
    n = len(x)
    x = x.double()
    centred = x - x.mean(0)
    norm = torch.linalg.vector_norm(centred, dim=0)
    varies = norm > 1e-7 * torch.linalg.vector_norm(x, dim=0)  # float32 rounding leaves a constant this close
    unit = centred[:, varies] / norm[varies]
    dim = unit.shape[1]
    if dim < 2:
        return float("nan")
    energy = _small_gram(unit).square().sum() - dim  # sum over i != j of the squared correlation
    return float(energy / (dim * (dim - 1))) - 1 / (n - 1)


def _small_gram(x: Tensor) -> Tensor:
    """x x' or x' x, whichever is smaller: they share their eigenvalues but for zeros."""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x

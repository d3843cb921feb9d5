"""Measures of representations and embeddings that need no labels.

All are pure functions of tensors, and compute in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIRS_AT_ONCE = 2**23  # 64 MB in float64
_RANKS = (4, 100)  # between which the decay of the eigenvalues is fitted


def effective_rank(x: Tensor) -> float:
    """Return RankMe (arXiv 2210.02885, eq. 1) of x [n, dim], from 1 (collapsed) to min(n, dim).

    It is exp of the entropy of the normalised singular values of x, which is not centred, as in the
    paper. They come from the smaller Gram matrix, which is seven times faster at 2000 x 4096 than a
    singular value decomposition; those below float64's noise in it (1e-7 of the largest) count
    as 0.
    """
    return _exp_entropy(_spectrum(x.double()).sqrt())


def decay_exponent(x: Tensor) -> float:
    """Return alpha-ReQ (arXiv 2202.05808) of x [n, dim].

    It is minus the slope of log eigenvalue against log rank, for the covariance's eigenvalues at
    ranks 4 to 100 (counted from 1), or fewer if fewer are above float64's noise. These are the
    ranks of the authors' code, which calls them arange(3, 100), counted from 0. It is large if few
    directions dominate, 0 if all are equal; the paper finds about 1 to be best. It is nan if fewer
    than two ranks remain. With n near dim or below, the sampling of the covariance steepens its
    tail.

    The slope is that of least squares with weight 1 / rank, as in the code of the paper (from arXiv
    1807.05523's analysis of cortex): ranks are dense on a logarithmic axis, and without weights the
    tail alone would set it.
    """
    eigenvalues = _spectrum(centred(x)).flip(0)
    first, last = _RANKS
    count = min(last, int((eigenvalues > 0).sum()))
    if count < first + 1:
        return float("nan")
    rank = torch.arange(first, count + 1, dtype=torch.float64, device=x.device)
    weight = 1 / rank
    log_rank, log_eigenvalue = rank.log(), eigenvalues[first - 1 : count].log()
    log_rank = log_rank - (weight * log_rank).sum() / weight.sum()
    return float(-(weight * log_rank * log_eigenvalue).sum() / (weight * log_rank.square()).sum())


def lidar(x: Tensor, delta: float = 1e-4) -> float:
    """Return LiDAR (arXiv 2312.04000) of x [images, views, dim], from 1 to min(dim, images - 1).

    Each image is a class of its own, and the measure is exp of the entropy of the normalised
    eigenvalues of W^(-1/2) B W^(-1/2). B is the covariance of the images' means (over images - 1),
    W the mean covariance of an image's views about its mean (over images (views - 1)) plus delta I.
    Eigenvalues count, not their roots as in RankMe. It is nan for fewer than two images or views.

    Directions in which views of an image differ as much as images do add little; delta is absolute,
    so the scale of x counts if views differ by less. The paper adds a small constant to each share;
    here a share of 0 contributes its limit, 0.
    """
    images, views, dim = x.shape
    if images < 2 or views < 2:
        return float("nan")
    x = x.double()
    means = x.mean(1)  # [images, dim]
    about_means = (x - means[:, None]).flatten(0, 1)
    ridge = delta * torch.eye(dim, dtype=x.dtype, device=x.device)
    within = about_means.T @ about_means / (images * (views - 1)) + ridge
    between = (means - means.mean(0)) / (images - 1) ** 0.5
    # With within = L L', the eigenvalues are also those of (L^-1 between')(L^-1 between')'.
    factor = torch.linalg.cholesky(within)
    whitened = torch.linalg.solve_triangular(factor, between.T, upper=False)
    return _exp_entropy(_spectrum(whitened))


def alignment(x: Tensor) -> float:
    """Return the mean squared distance of two views of an image on the unit sphere.

    That is arXiv 2005.10242 with alpha = 2, over all pairs of views of x [images, views, dim]: from
    0 (all views alike) to about 2 if views differ as images do; nan for one view.

    Through sum_{a<b} |u_a - u_b|^2 = K sum_a |u_a - mean u|^2, K the number of views, it takes no
    loop over pairs.
    """
    views = x.shape[1]
    if views < 2:
        return float("nan")
    u = F.normalize(x.double(), dim=-1)
    return float((u - u.mean(1, keepdim=True)).square().sum((1, 2)).mean() * 2 / (views - 1))


def uniformity(x: Tensor) -> float:
    """Return log of the mean of exp(-2 |u_i - u_j|^2) over pairs of distinct rows of x [n, dim].

    That is arXiv 2005.10242 with t = 2, u on the unit sphere: 0 if all rows are alike, down to
    about -4 + 8 / dim if they are spread evenly; nan for one row. It is exact, in parts of bounded
    memory.
    """
    n = len(x)
    if n < 2:
        return float("nan")
    u = F.normalize(x.double(), dim=-1)
    rows = max(1, _PAIRS_AT_ONCE // n)
    total = u.new_zeros(())
    for start in range(0, n, rows):
        part = u[start : start + rows]
        distance = (2 - 2 * part @ u.T).clamp(min=0)
        distance.diagonal(offset=start).fill_(float("inf"))  # a row and itself are no pair
        total += torch.exp(-2 * distance).sum()
    return float((total / (n * (n - 1))).log())


def off_diagonal_energy(x: Tensor) -> float:
    """Return the mean squared correlation of two distinct dimensions of x [n >= 2, dim].

    Its sampling floor 1 / (n - 1) is taken off: 0 if dimensions are orthogonal up to sampling, near
    1 if all say the same. The floor is the mean of the squared sample correlation of independent
    normal variables, so the measure can fall a little below 0. Constant dimensions have no
    correlation and are left out; the measure is nan if fewer than two others remain.
    """
    n = len(x)
    varied = centred(x)
    unit = varied / torch.linalg.vector_norm(varied, dim=0)
    dim = unit.shape[1]
    if dim < 2:
        return float("nan")
    energy = _small_gram(unit).square().sum() - dim  # sum over i != j of the squared correlation
    return float(energy / (dim * (dim - 1))) - 1 / (n - 1)


def mean_std(x: Tensor) -> float:
    """Return the root of the mean over dimensions of the variance of x [n >= 2, dim]."""
    return float(x.double().var(0).mean().sqrt())


def variance_share(x: Tensor) -> float:
    """Return the part of the mean square of x [n >= 2, dim] that is variance over rows, in [0, 1].

    It is 0 if all rows are alike, also if all are 0, which is collapse, and 1 if their mean is 0.
    """
    x = x.double()
    square = x.square().sum() / len(x)
    if square == 0:
        return 0.0
    return float((x - x.mean(0)).square().sum() / len(x) / square)


def centred(x: Tensor) -> Tensor:
    """Return the dimensions of x [n, dim] that vary, each less its mean, in float64."""
    x = x.double()
    about_mean = x - x.mean(0)
    # Rounding to float32 leaves a constant this close to its mean.
    noise = 1e-7 * torch.linalg.vector_norm(x, dim=0)
    return about_mean[:, torch.linalg.vector_norm(about_mean, dim=0) > noise]


def _spectrum(x: Tensor) -> Tensor:
    """Return the squared singular values of x, ascending, and 0 for those below float64's noise.

    They come from the smaller Gram matrix.
    """
    squares = torch.linalg.eigvalsh(_small_gram(x))
    if len(squares) == 0:
        return squares
    noise = len(squares) * torch.finfo(torch.float64).eps * squares[-1]
    return torch.where(squares > noise, squares, 0).clamp(min=0)


def _exp_entropy(shares: Tensor) -> float:
    p = shares / shares.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def _small_gram(x: Tensor) -> Tensor:
    """Return x x' or x' x, whichever is smaller: they share their eigenvalues but for zeros."""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x

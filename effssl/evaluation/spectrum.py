"""Measures of representations and embeddings that need no labels; pure functions of tensors, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIRS_AT_ONCE = 2**23  # 64 MB in float64


def effective_rank(x: Tensor) -> float:
    """RankMe (arXiv 2210.02885, eq. 1) of x [n, dim]: exp of the entropy of its normalised singular values, from 1
    (collapsed) to min(n, dim). Not centred, as in the paper.

    Through the smaller Gram matrix, seven times faster at 2000 x 4096 than the singular values themselves; what lies
    below float64's noise in it (1e-7 of the largest singular value) counts as 0.
    """
    return _exp_entropy(_spectrum(x.double()).sqrt())


def decay_exponent(x: Tensor, first: int = 3, last: int = 100) -> float:
    """alpha-ReQ (arXiv 2202.05808) of x [n, dim]: minus the slope of log eigenvalue against log rank, of the
    covariance's eigenvalues at ranks `first` to `last` (counted from 1), or fewer where fewer are above float64's
    noise. Large where few directions dominate, 0 where all are equal; the paper finds about 1 to be best.

    Weighted least squares with weight 1 / rank, as in the code of the paper (from arXiv 1807.05523's analysis of
    cortex): ranks are dense on a logarithmic axis, and unweighted the tail alone would set the slope. nan where fewer
    than two ranks remain. With n near dim or below, the sampling of the covariance steepens its tail.
    """
    eigenvalues = _spectrum(_centred(x)).flip(0)
    count = min(last, int((eigenvalues > 0).sum()))
    if count < first + 1:
        return float("nan")
    rank = torch.arange(first, count + 1, dtype=torch.float64, device=x.device)
    weight = 1 / rank
    log_rank, log_eigenvalue = rank.log(), eigenvalues[first - 1 : count].log()
    log_rank = log_rank - (weight * log_rank).sum() / weight.sum()
    return float(-(weight * log_rank * log_eigenvalue).sum() / (weight * log_rank.square()).sum())


def lidar(x: Tensor, delta: float = 1e-4) -> float:
    """LiDAR (arXiv 2312.04000) of x [images >= 2, views >= 2, dim], each image a class of its own: exp of the entropy
    of the normalised eigenvalues of W^(-1/2) B W^(-1/2), from 1 to min(dim, images - 1).

    B is the covariance of the images' means (over images - 1), W the mean covariance of an image's views about its
    mean (over images (views - 1)) plus delta I. Eigenvalues, not their roots as in RankMe. Directions in which views
    of an image differ as much as images do add little; delta is absolute, so the scale of x counts where views differ
    by less. The paper adds a small constant to each share; here a share of 0 contributes its limit, 0.
    """
    images, views, dim = x.shape
    if images < 2 or views < 2:
        return float("nan")
    x = x.double()
    means = x.mean(1)  # [images, dim]
    spread = (x - means[:, None]).flatten(0, 1)
    within = spread.T @ spread / (images * (views - 1)) + delta * torch.eye(dim, dtype=x.dtype, device=x.device)
    between = (means - means.mean(0)) / (images - 1) ** 0.5
    # With within = L L', the eigenvalues are also those of (L^-1 between')(L^-1 between')'.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T, upper=False)
    return _exp_entropy(_spectrum(whitened))


def alignment(x: Tensor) -> float:
    """Mean squared distance of two views of an image on the unit sphere (arXiv 2005.10242, alpha = 2), over all pairs
    of views; x [images, views >= 2, dim]. From 0 (all views alike); about 2 where views are as different as images.

    Through sum_{a<b} |u_a - u_b|^2 = K sum_a |u_a - mean u|^2, K the number of views: no loop over pairs.
    """
    views = x.shape[1]
    if views < 2:
        return float("nan")
    u = F.normalize(x.double(), dim=-1)
    return float((u - u.mean(1, keepdim=True)).square().sum((1, 2)).mean() * 2 / (views - 1))


def uniformity(x: Tensor) -> float:
    """log of the mean of exp(-2 |u_i - u_j|^2) over all pairs of distinct rows of x [n >= 2, dim] on the unit sphere
    (arXiv 2005.10242, t = 2): 0 where all are alike, down to about -4 + 8 / dim where they are spread evenly. Exact, in
    chunks of bounded memory."""
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


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = True) -> float:
    """Linear CKA (arXiv 1905.00414) of two representations x [n >= 4, dim_x], y [n, dim_y] of the same images: 1 where
    they are equal up to rotation, scale and shift, 0 where they are independent.

    HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)). With `unbiased`, of the estimator of arXiv 2010.15327, eq. 3, which can
    fall a little below 0; else of |x' y|_F^2 of the centred x and y. The latter is too high where little is shared: by
    d / (n + d) for d dimensions of equal variance (0.2 for d = 512 and n = 2,000, 0.17 for 2,048 and 10,000), less
    where few dominate, so by an amount that differs between layers. The unbiased one costs no more, hence the default.
    nan where one of them is constant.
    """
    return float(cka_matrix([x], [y], unbiased=unbiased))


def cka_matrix(xs: Sequence[Tensor], ys: Sequence[Tensor], *, unbiased: bool = True) -> Tensor:
    """linear_cka of every xs[i] [n, dim_i] with every ys[j] [n, dim_j], of the same n images; float64 [i, j] on the
    CPU. Layer by layer of two backbones: layers.layer_features gives xs and ys."""
    xs, ys = ([_centred(x) for x in each] for each in (xs, ys))
    cross = torch.tensor([[_hsic(x, y, unbiased) for y in ys] for x in xs], dtype=torch.float64)
    own_x, own_y = (torch.tensor([_hsic(x, x, unbiased) for x in each], dtype=torch.float64) for each in (xs, ys))
    return cross / (own_x[:, None] * own_y).sqrt().where((own_x[:, None] > 0) & (own_y > 0), torch.nan)


def off_diagonal_energy(x: Tensor) -> float:
    """Mean squared correlation of two distinct dimensions of x [n >= 2, dim], less its sampling floor 1 / (n - 1).

    0 where dimensions are orthogonal up to sampling, near 1 where all say the same. The floor is the mean of the
    squared sample correlation of independent normal variables, so the measure can fall a little below 0. Constant
    dimensions have no correlation and are left out; nan where fewer than two others remain.
    """
    n = len(x)
    centred = _centred(x)
    unit = centred / torch.linalg.vector_norm(centred, dim=0)
    dim = unit.shape[1]
    if dim < 2:
        return float("nan")
    energy = _small_gram(unit).square().sum() - dim  # sum over i != j of the squared correlation
    return float(energy / (dim * (dim - 1))) - 1 / (n - 1)


def _hsic(x: Tensor, y: Tensor, unbiased: bool) -> float:
    """HSIC of linear kernels up to a factor that depends on n alone, of centred x [n, dim_x] and y [n, dim_y].

    The unbiased estimator of the kernels k and l without their diagonals, tr(k l) + 1'k1 1'l1 / ((n - 1)(n - 2))
    - 2 / (n - 2) 1'k l1, where centred rows sum to 0: k1 is minus the squared norms of the rows of x.
    """
    n, (dim_x, dim_y) = len(x), (x.shape[1], y.shape[1])
    through_images = n * (dim_x + dim_y) < dim_x * dim_y
    shared = float(((x @ x.T) * (y @ y.T)).sum() if through_images else (x.T @ y).square().sum())
    if not unbiased:
        return shared
    if n < 4:
        return float("nan")
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    along = float(norms_x @ norms_y)
    return shared - n / (n - 2) * along + float(norms_x.sum() * norms_y.sum()) / ((n - 1) * (n - 2))


def _centred(x: Tensor) -> Tensor:
    """The dimensions of x [n, dim] that vary, each less its mean, in float64."""
    x = x.double()
    centred = x - x.mean(0)
    # float32 rounding leaves a constant this close to its mean
    return centred[:, torch.linalg.vector_norm(centred, dim=0) > 1e-7 * torch.linalg.vector_norm(x, dim=0)]


def _spectrum(x: Tensor) -> Tensor:
    """Squared singular values of x, ascending, through the smaller Gram matrix; 0 below float64's noise in it."""
    squares = torch.linalg.eigvalsh(_small_gram(x))
    if len(squares) == 0:
        return squares
    noise = len(squares) * torch.finfo(torch.float64).eps * squares[-1]
    return torch.where(squares > noise, squares, 0).clamp(min=0)


def _exp_entropy(shares: Tensor) -> float:
    p = shares / shares.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def _small_gram(x: Tensor) -> Tensor:
    """x x' or x' x, whichever is smaller: they share their eigenvalues but for zeros."""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x

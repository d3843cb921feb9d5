"""How alike two representations of the same images are: linear CKA, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effssl.evaluation.spectrum import centred


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear CKA (arXiv 1905.00414) of x [n >= 4, dim_x] and y [n, dim_y].

    It is 1 if they are equal up to rotation, scale and shift, 0 if they are independent, and nan if
    one of them is constant:

        HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))

    with the unbiased estimator of HSIC of arXiv 2010.15327, eq. 3, so that it can fall a little
    below 0. The usual |x' y|_F^2 of the centred x and y is too high if little is shared: by
    d / (n + d) for d dimensions of equal variance (0.2 for d = 512 and n = 2,000, 0.17 for 2,048
    and 10,000), and by less if few dominate, which differs between layers.
    """
    return float(cka_matrix([x], [y]))


def cka_matrix(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    """Return linear_cka of every xs[i] [n, dim_i] with every ys[j] [n, dim_j], of the same images.

    float64 [i, j], on the CPU. layers.layer_features gives xs and ys of two backbones.
    """
    xs, ys = ([centred(x) for x in each] for each in (xs, ys))
    cross = torch.tensor([[_hsic(x, y) for y in ys] for x in xs], dtype=torch.float64)
    own_x, own_y = (
        torch.tensor([_hsic(x, x) for x in each], dtype=torch.float64) for each in (xs, ys)
    )
    is_varied = (own_x[:, None] > 0) & (own_y > 0)
    return cross / (own_x[:, None] * own_y).sqrt().where(is_varied, torch.nan)


def _hsic(x: Tensor, y: Tensor) -> float:
    """Return HSIC of the linear kernels of centred x [n, dim_x] and y [n, dim_y].

    It is that up to a factor of n alone. The unbiased estimator, of the kernels k and l without
    their diagonals, is

        tr(k l) + 1'k1 1'l1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'k l1.

    As the rows of x sum to 0, k1 is minus the squared norms of the rows of x.
    """
    n, (dim_x, dim_y) = len(x), (x.shape[1], y.shape[1])
    if n < 4:
        return float("nan")
    through_images = n * (dim_x + dim_y) < dim_x * dim_y
    shared = float(((x @ x.T) * (y @ y.T)).sum() if through_images else (x.T @ y).square().sum())
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    along = float(norms_x @ norms_y)
    return shared - n / (n - 2) * along + float(norms_x.sum() * norms_y.sum()) / ((n - 1) * (n - 2))

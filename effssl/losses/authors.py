"""The losses for K views as the code of arXiv 2312.10725 has them (`--pairing authors`).

They are here so that a comparison with that code compares one thing at a time; functional.py has
ours and the notation, docs/methods.md the differences and what they were measured to do. Their code
knows one process; here the batch is the global one, as in functional.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effssl.losses.functional import (
    BarlowTwinsTerms,
    VICRegTerms,
    at_least_float32,
    check_shape,
    hinge,
)
from effssl.losses.sums_over_images import CentredSums, no_autocast
from effssl.run.distributed import all_sum

# Added to a variance before its root. Theirs adds nothing, so that one constant dimension makes all
# gradients NaN; this is too small to show in any other.
_TINY = 1e-10


def barlow_twins_authors(z: Tensor, *, redundancy_weight: float) -> BarlowTwinsTerms:
    """Compute Barlow Twins as the authors of arXiv 2312.10725 do.

    Every z is scaled to unit length, and standardised per dimension with the mean and the unbiased
    variance of all views together. Then, at K = 2, with C = z_1' z_2 / N,

        invariance  sum_i (1 - C_ii)^2
        redundancy  sum_{i != j} C_ij^2

    and for K > 2, with z-bar the mean over the views, self-pairs included,

        invariance  mean over views a of sum_i (1 - (z_a' z-bar / N)_ii)^2
        redundancy  sum_{i != j} (z-bar' z-bar / N)_ij^2

    loss = invariance + redundancy_weight * redundancy. So their weight means another thing at K = 2
    than for K > 2, where averaging makes the redundancy smaller. The variance of the terms is 0.

    Args:
        z: embeddings [num_views >= 2, batch, dim], batch >= 2 over all processes.
        redundancy_weight: the paper's lambda.

    Raises:
        ValueError: if z has another shape.
    """
    num_views, sizes, _ = check_shape(z)
    batch = sum(sizes)
    with no_autocast(z):
        z = nn.functional.normalize(at_least_float32(z), dim=-1)
        centred = z - all_sum(z.sum((0, 1))) / (num_views * batch)
        var = all_sum(centred.square().sum((0, 1))) / (num_views * batch - 1)
        x = centred * torch.rsqrt(var + _TINY)
        first, second = (x[0], x[1]) if num_views == 2 else (x.mean(0), x.mean(0))
        c = all_sum(first.T @ second) / batch
        to_all = x[:1] if num_views == 2 else x
        diagonal = all_sum((to_all * second).sum(1)) / batch  # [1 or K, d]
        invariance = (1 - diagonal).square().sum(1).mean()
        redundancy = c.square().sum() - c.diagonal().square().sum()
    loss = invariance + redundancy_weight * redundancy
    return BarlowTwinsTerms(loss, invariance, redundancy, torch.zeros_like(loss))


def vicreg_authors(
    z: Tensor, *, inv_weight: float, var_weight: float, cov_weight: float
) -> VICRegTerms:
    """Compute VICReg as the authors of arXiv 2312.10725 do.

    With m_a the mean of the other views than a, each term is the mean over views a of that of the
    pair (z_a, m_a):

        invariance  mean((z_a - m_a)^2)
        variance    mean over dimensions and over z_a and m_a of max(0, 1 - sqrt(Var))
        covariance  sum over z_a and m_a of sum_{i != j} Cov_ij^2 / d

    At K = 2 this is VICReg but for the 1e-4 that is not added to the variance. For K > 2 the means
    vary less than the views, so that their hinge asks for views that vary more.

    Args:
        z: embeddings [num_views >= 2, batch, dim], batch >= 2 over all processes.
        inv_weight: weight of the invariance.
        var_weight: weight of the variance.
        cov_weight: weight of the covariance.

    Raises:
        ValueError: if z has another shape.
    """
    num_views, sizes, dim = check_shape(z)
    batch = sum(sizes)
    with no_autocast(z):
        z = at_least_float32(z)
        others = (z.sum(0) - z) / (num_views - 1)
        invariance = all_sum((z - others).square().sum()) / (num_views * batch * dim)
        both = torch.cat([z, others])  # [2 K, batch, d]
        _, squares, energy = CentredSums.apply(both, sizes)
        var = squares / (batch - 1)
        variance = hinge(var, added=_TINY)
        off_diagonal = energy / (batch - 1) ** 2 - var.square().sum()
        covariance = off_diagonal / (num_views * dim)
    loss = inv_weight * invariance + var_weight * variance + cov_weight * covariance
    return VICRegTerms(loss, invariance, variance, covariance)

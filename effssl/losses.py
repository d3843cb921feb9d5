"""Losses on the embeddings of K views, as pure functions of z [views, batch, dim].

Notation: z_a [N, d] is view a of the batch, K the number of views, z-bar their mean over views. Statistics are over
the batch, in float32 or better whatever autocast says. There is no loop over pairs of views: the matrix products grow
linearly with K (the diagonals of C_ab, K^2 N d multiplications without a product of matrices, stay small beside them).
At K = 2 both losses equal the official code of their papers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class VICReg(NamedTuple):
    """Scalars; the terms are before weighting."""

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


class BarlowTwins(NamedTuple):
    """Scalars; the terms are before weighting."""

    loss: Tensor
    invariance: Tensor
    redundancy: Tensor


def vicreg(z: Tensor, *, inv_weight: float = 25.0, var_weight: float = 25.0, cov_weight: float = 1.0) -> VICReg:
    """VICReg (arXiv 2105.04906, eq. 6) for K views.

    z: [views, batch, dim], views >= 2, batch >= 2.

        invariance  mean over pairs a < b of mean((z_a - z_b)^2)
        variance    mean over dimensions and views of max(0, 1 - sqrt(Var(z_ai) + 1e-4)), unbiased variance
        covariance  2 / K sum_a sum_{i != j} Cov(z_a)_ij^2 / d, unbiased covariance

    The pairs are summed through sum_{a<b} |z_a - z_b|^2 = K sum_a |z_a - z-bar|^2. As in the official code the variance
    term is the mean over views (lightly sums the two views) and the covariance term their sum at K = 2.
    Raises ValueError for other shapes.
    """
    views, batch, dim = _check(z)
    with torch.autocast(z.device.type, enabled=False):
        z = _at_least_float32(z)
        # K sum_a |z_a - z-bar|^2 over K (K - 1) / 2 pairs
        invariance = (z - z.mean(0)).square().sum() * (2 / ((views - 1) * batch * dim))
        centred = z - z.mean(1, keepdim=True)
        var = centred.square().sum(1) / (batch - 1)  # [views, dim]
        variance = torch.relu(1 - torch.sqrt(var + 1e-4)).mean()
        energy = _gram_energy(centred) / (batch - 1) ** 2  # [views]: sum_ij Cov(z_a)_ij^2
        covariance = (energy - var.square().sum(1)).sum() * (2 / (views * dim))
    loss = inv_weight * invariance + var_weight * variance + cov_weight * covariance
    return VICReg(loss, invariance, variance, covariance)


def barlow_twins(
    z: Tensor, *, redundancy_weight: float, pairing: Literal["all", "pooled"] = "all", eps: float = 1e-5
) -> BarlowTwins:
    """Barlow Twins (arXiv 2103.03230, eq. 1) for K views.

    z: [views, batch, dim], views >= 2, batch >= 2. Each view is standardised per dimension with the biased variance
    plus eps, as the official code's BatchNorm does; then C_ab = z_a' z_b / N and

        invariance  sum_i (1 - C_ii)^2
        redundancy  sum_{i != j} C_ij^2
        loss        invariance + redundancy_weight * redundancy

    pairing "all":    both terms are means over the pairs a < b.
    pairing "pooled": both are taken of C = mean of C_ab over ordered pairs a != b, the unbiased estimate of the
                      population's cross-correlation, whose sampling noise falls with K (arXiv 2312.10725, sec. 3.2,
                      less the self-pairs that it leaves in).

    No factor before the loss (solo-learn has 0.025). Raises ValueError for other shapes.
    """
    views, batch, _ = _check(z)
    with torch.autocast(z.device.type, enabled=False):
        z = _at_least_float32(z)
        centred = z - z.mean(1, keepdim=True)
        z = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
        match pairing:
            case "all":
                invariance, redundancy = _all_pairs(z)
            case "pooled":
                side_by_side = z.flatten(0, 1)  # sum_a z_a' z_a = side_by_side' side_by_side
                total = z.sum(0)  # K z-bar
                c = (total.T @ total - side_by_side.T @ side_by_side) / (views * (views - 1) * batch)
                diagonal = c.diagonal()
                invariance = (1 - diagonal).square().sum()
                redundancy = c.square().sum() - diagonal.square().sum()
            case _:
                raise ValueError(f"pairing is 'all' or 'pooled', not {pairing!r}")
    return BarlowTwins(invariance + redundancy_weight * redundancy, invariance, redundancy)


def redundancy_weight(dim: int) -> float:
    """The rule `auto` for Barlow Twins: 3.4 / dim, fitted to the weights that arXiv 2312.10725 found best for
    dim 64 to 8192 on CIFAR-10 (its table of hyperparameters)."""
    return 3.4 / dim


def _all_pairs(z: Tensor) -> tuple[Tensor, Tensor]:
    """Means over pairs a < b of sum_i (1 - C_ab,ii)^2 and sum_{i != j} C_ab,ij^2, for standardised z [K, N, d].

    The energy of all pairs at once: sum_ab |z_a' z_b|_F^2 = |sum_a z_a z_a'|_F^2, one Gram matrix of the views laid
    side by side; the pairs a = b are subtracted.
    """
    views, batch, dim = z.shape
    side_by_side = z.transpose(0, 1).reshape(batch, views * dim)  # [N, K d]
    energy = (_gram_energy(side_by_side) - _gram_energy(z).sum()) / batch**2  # ordered pairs a != b
    diagonals = torch.einsum("and,bnd->abd", z, z) / batch  # C_ab,ii, [K, K, d]
    off = ~torch.eye(views, dtype=torch.bool, device=z.device)
    between = diagonals[off]  # [K (K - 1), d]
    pairs = views * (views - 1)
    return (1 - between).square().sum() / pairs, (energy - between.square().sum()) / pairs


def _gram_energy(x: Tensor) -> Tensor:
    """|x' x|_F^2 = |x x'|_F^2 of x [..., N, d], through whichever Gram matrix is smaller."""
    gram = x @ x.mT if x.shape[-2] <= x.shape[-1] else x.mT @ x
    return gram.square().sum((-2, -1))


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _check(z: Tensor) -> tuple[int, int, int]:
    if z.ndim != 3 or z.shape[0] < 2 or z.shape[1] < 2:
        raise ValueError(f"z must be [views >= 2, batch >= 2, dim], not {list(z.shape)}")
    views, batch, dim = z.shape
    return views, batch, dim

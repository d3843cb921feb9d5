"""VICReg and Barlow Twins for K views, as pure functions of embeddings z [num_views, batch, dim].

Notation, as in the papers: z_a [N, d] is view a of the batch, K the number of views, z-bar their
mean over views. The batch is the global one: in a process group each process passes its own images
and gets the loss of all of them (run/distributed.py says what backward() then leaves). Everything
is computed in float32 or better whatever autocast says. Neither loss multiplies matrices pair by
pair, and at K = 2 both equal the official code of their papers. As always in PyTorch, backward()
belongs outside autocast.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from effssl.losses.sums_over_images import CentredSums, StandardisedSums, no_autocast
from effssl.run.distributed import all_rows, all_sum, batch_sizes

_EPS = 1e-5  # added to the variance before its root, as in BatchNorm


class VICRegTerms(NamedTuple):
    """What `vicreg` returns: scalars; the terms are before weighting."""

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


class BarlowTwinsTerms(NamedTuple):
    """What `barlow_twins` returns: scalars; the terms are before weighting."""

    loss: Tensor
    invariance: Tensor
    redundancy: Tensor
    variance: Tensor


def vicreg(
    z: Tensor, *, inv_weight: float = 25.0, var_weight: float = 25.0, cov_weight: float = 1.0
) -> VICRegTerms:
    """Compute VICReg (arXiv 2105.04906, eq. 6) for K views.

        invariance  mean over pairs a < b of mean((z_a - z_b)^2)
        variance    mean over dimensions and views of max(0, 1 - sqrt(Var(z_ai) + 1e-4))
        covariance  2 / K sum_a sum_{i != j} Cov(z_a)_ij^2 / d
        loss        inv_weight * invariance + var_weight * variance + cov_weight * covariance

    Variance and covariance are the unbiased ones. As in the official code and in lightly, at K = 2
    the variance term is the mean over the two views and the covariance term their sum. solo-learn
    sums both: its variance weight of 25 is 50 here.

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
        if batch <= dim:
            to_mean, squares, energy = CentredSums.apply(z, sizes)
        else:
            x = z - all_sum(z.sum(1, keepdim=True)) / batch
            to_mean = all_sum((z - z.mean(0)).square().sum())
            squares = all_sum(x.square().sum(1))  # [K, d]
            energy = all_sum(x.mT @ x).square().sum()  # sum_a |x_a' x_a|_F^2
        # sum_{a<b} |z_a - z_b|^2 = K sum_a |z_a - z-bar|^2, over K (K - 1) / 2 pairs
        invariance = to_mean * (2 / ((num_views - 1) * batch * dim))
        var = squares / (batch - 1)
        variance = hinge(var)
        # sum_a sum_{i != j} Cov(z_a)_ij^2
        off_diagonal = energy / (batch - 1) ** 2 - var.square().sum()
        covariance = off_diagonal * (2 / (num_views * dim))
    loss = inv_weight * invariance + var_weight * variance + cov_weight * covariance
    return VICRegTerms(loss, invariance, variance, covariance)


def barlow_twins(
    z: Tensor,
    *,
    redundancy_weight: float,
    pairing: Literal["all", "pooled"] = "all",
    var_weight: float = 0.0,
) -> BarlowTwinsTerms:
    """Compute Barlow Twins (arXiv 2103.03230, eq. 1) for K views.

    Each view is standardised per dimension with the biased variance plus 1e-5, as the official
    code's BatchNorm does; then C_ab = z_a' z_b / N and

        invariance  sum_i (1 - C_ii)^2
        redundancy  sum_{i != j} C_ij^2
        variance    VICReg's variance term of z as it came, an add-on
        loss        invariance + redundancy_weight * redundancy + var_weight * variance

    As in the official code and in lightly, no factor stands before the loss. solo-learn scales the
    whole of it by 0.024 in its method, by 0.025 in its function (the defaults of both).

    Args:
        z: embeddings [num_views >= 2, batch, dim], batch >= 2 over all processes.
        redundancy_weight: weight of the redundancy, the paper's lambda.
        pairing: with "all", invariance and redundancy are means over the pairs a < b. With
            "pooled" both are taken of C = mean of C_ab over ordered pairs a != b. This is the
            unbiased estimate of the population's cross-correlation, whose sampling noise falls
            with K (arXiv 2312.10725, less the self-pairs that it leaves in).
        var_weight: weight of the variance.

    Raises:
        ValueError: if z has another shape, or the pairing another name.
    """
    _, sizes, _ = check_shape(z)
    with no_autocast(z):
        z = at_least_float32(z)
        match pairing:
            case "all":
                squares, diagonal, energy = _all_pairs(z, sizes, _EPS)
            case "pooled":
                squares, diagonal, energy = _pooled(z, sizes, _EPS)
            case _:
                raise ValueError(f"pairing is 'all' or 'pooled', not {pairing!r}")
        # The diagonal is that of every C_ab [pairs, d], or of the one mean C [1, d].
        invariance = (1 - diagonal).square().sum(1).mean()
        redundancy = energy - diagonal.square().sum(1).mean()
        variance = hinge(squares / (sum(sizes) - 1))
    loss = invariance + redundancy_weight * redundancy + var_weight * variance
    return BarlowTwinsTerms(loss, invariance, redundancy, variance)


def weight_orthogonality(weight: Tensor) -> Tensor:
    """Compute the soft penalty |W W' - I|_F^2 of a layer's weight [out, in], in float32.

    If out > in it is that of W' W. The two differ by |out - in| only, so their gradients are the
    same.
    """
    with no_autocast(weight):
        w = at_least_float32(weight)
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()


def check_shape(z: Tensor) -> tuple[int, list[int], int]:
    """Return the number of views, the batch of every process, and the width of z.

    Raises ValueError if z is not [num_views >= 2, batch, dim] with batch >= 2 over all processes.
    """
    if z.ndim == 3 and z.shape[0] >= 2:
        sizes = batch_sizes(z.shape[1], z.device)
        if sum(sizes) >= 2:
            return z.shape[0], sizes, z.shape[2]
    raise ValueError(f"z must be [views >= 2, batch >= 2, dim], not {list(z.shape)}")


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or as it is if it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def hinge(var: Tensor, added: float = 1e-4) -> Tensor:
    """Return VICReg's variance term of the variances [K, d]; `added` keeps its gradient finite."""
    return torch.relu(1 - torch.sqrt(var + added)).mean()


def _all_pairs(z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the losses of all pairs a < b are made of.

    These are sum_n (z - mean)^2 [K, d], the diagonals of C_ab [pairs, d], and the mean of
    |C_ab|_F^2 over these pairs.
    """
    num_views, _, dim = z.shape
    batch = sum(sizes)
    if batch <= num_views * dim:
        squares, diagonals, energy = StandardisedSums.apply(z, sizes, eps)
        return squares, diagonals / batch, energy / (batch**2 * num_views * (num_views - 1))
    # Fewer multiplications: all C_ab side by side, [K d, K d].
    x, squares = _standardise(z, sizes, eps)
    side_by_side = x.transpose(0, 1).flatten(1)  # [n, K d]
    c = all_sum(side_by_side.T @ side_by_side)
    c = c.unflatten(0, (num_views, dim)).unflatten(2, (num_views, dim)) / batch  # [K, d, K, d]
    a, b = torch.triu_indices(num_views, num_views, 1, device=z.device)
    between = c.transpose(1, 2)[a, b]  # [pairs, d, d]
    return squares, between.diagonal(dim1=1, dim2=2), between.square().sum((1, 2)).mean()


def _pooled(z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the loss of C, the mean of C_ab over ordered pairs a != b, is made of.

    These are sum_n (z - mean)^2 [K, d], the diagonal of C [1, d], and |C|_F^2.
    """
    num_views, _, dim = z.shape
    pairs = num_views * (num_views - 1) * sum(sizes)
    x, squares = _standardise(z, sizes, eps)
    if num_views**2 * sum(sizes) >= (num_views + 1) * dim:
        rows, total = x.flatten(0, 1), x.sum(0)  # K z-bar
        c = all_sum(total.T @ total - rows.T @ rows) / pairs  # rows' rows = sum_a x_a' x_a
        return squares, c.diagonal()[None], c.square().sum()
    # Fewer multiplications through the Gram matrix g of all views, [K N, K N]:
    # |x' M x|_F^2 = tr(M g M g), where M over views is 1 - I.
    g = torch.einsum("and,bmd->anbm", x, all_rows(x, sizes))
    energy = all_sum(((g.sum(0, keepdim=True) - g) * (g.sum(2, keepdim=True) - g)).sum())
    diagonal = all_sum((x.sum(0).square() - x.square().sum(0)).sum(0)) / pairs
    return squares, diagonal[None], energy / pairs**2


def _standardise(z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor]:
    """Return z with mean 0 and variance 1 in every view and dimension, and sum_n (z - mean)^2."""
    centred = z - all_sum(z.sum(1, keepdim=True)) / sum(sizes)
    squares = all_sum(centred.square().sum(1))  # [K, d]
    return centred * torch.rsqrt(squares / sum(sizes) + eps)[:, None], squares

"""Losses on the embeddings of K views, as pure functions of z [views, batch, dim].

Notation, as in the papers: z_a [N, d] is view a of the batch, K the number of views, z-bar their mean over views. The
batch is the global one: in a process group each process passes its own images and gets the loss of all of them (see
distributed.py for what backward() then leaves). Everything is computed in float32 or better whatever autocast says.
VICReg and Barlow Twins multiply no matrices pair by pair, and at K = 2 equal the official code of their papers.
As always in PyTorch, backward() belongs outside autocast.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effssl.losses.sums_over_images import CentredSums, StandardisedSums, no_autocast
from effssl.run.distributed import all_rows, all_sum, batch_sizes, first_row


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
    variance: Tensor


class SimCLR(NamedTuple):
    """Scalars. alignment: mean cosine of two views of an image."""

    loss: Tensor
    alignment: Tensor


class EntropyReconstruction(NamedTuple):
    """Scalars, in nats; loss = -(entropy + reconstruction)."""

    loss: Tensor
    entropy: Tensor
    reconstruction: Tensor


def vicreg(z: Tensor, *, inv_weight: float = 25.0, var_weight: float = 25.0, cov_weight: float = 1.0) -> VICReg:
    """VICReg (arXiv 2105.04906, eq. 6) for K views.

    z: [views, batch, dim], views >= 2, batch >= 2 over all processes.

        invariance  mean over pairs a < b of mean((z_a - z_b)^2)
        variance    mean over dimensions and views of max(0, 1 - sqrt(Var(z_ai) + 1e-4)), unbiased variance
        covariance  2 / K sum_a sum_{i != j} Cov(z_a)_ij^2 / d, unbiased covariance
        loss        inv_weight * invariance + var_weight * variance + cov_weight * covariance

    As in the official code the variance term is the mean over views (lightly sums the two views, so its weight of 25 is
    50 here) and the covariance term their sum at K = 2. Raises ValueError for other shapes.
    """
    views, sizes, dim = _check(z)
    batch = sum(sizes)
    with no_autocast(z):
        z = _at_least_float32(z)
        if batch <= dim:
            to_mean, squares, energy = CentredSums.apply(z, sizes)
        else:
            x = z - all_sum(z.sum(1, keepdim=True)) / batch
            to_mean = all_sum((z - z.mean(0)).square().sum())
            squares = all_sum(x.square().sum(1))  # [views, dim]
            energy = all_sum(x.mT @ x).square().sum()  # sum_a |x_a' x_a|_F^2
        # sum_{a<b} |z_a - z_b|^2 = K sum_a |z_a - z-bar|^2, over K (K - 1) / 2 pairs
        invariance = to_mean * (2 / ((views - 1) * batch * dim))
        var = squares / (batch - 1)
        variance = _hinge(var)
        off_diagonal = energy / (batch - 1) ** 2 - var.square().sum()  # sum_a sum_{i != j} Cov(z_a)_ij^2
        covariance = off_diagonal * (2 / (views * dim))
    loss = inv_weight * invariance + var_weight * variance + cov_weight * covariance
    return VICReg(loss, invariance, variance, covariance)


def barlow_twins(
    z: Tensor,
    *,
    redundancy_weight: float,
    pairing: Literal["all", "pooled"] = "all",
    var_weight: float = 0.0,
    eps: float = 1e-5,
) -> BarlowTwins:
    """Barlow Twins (arXiv 2103.03230, eq. 1) for K views.

    z: [views, batch, dim], views >= 2, batch >= 2 over all processes. Each view is standardised per dimension with the
    biased variance plus eps, as the official code's BatchNorm does; then C_ab = z_a' z_b / N and

        invariance  sum_i (1 - C_ii)^2
        redundancy  sum_{i != j} C_ij^2
        variance    VICReg's variance term of z as it came, an add-on
        loss        invariance + redundancy_weight * redundancy + var_weight * variance

    pairing "all":    invariance and redundancy are means over the pairs a < b.
    pairing "pooled": both are taken of C = mean of C_ab over ordered pairs a != b, the unbiased estimate of the
                      population's cross-correlation, whose sampling noise falls with K (arXiv 2312.10725,
                      less the self-pairs that it leaves in).

    No factor before the loss (solo-learn has 0.025). Raises ValueError for other shapes.
    """
    _, sizes, _ = _check(z)
    with no_autocast(z):
        z = _at_least_float32(z)
        match pairing:
            case "all":
                squares, diagonal, energy = _all_pairs(z, sizes, eps)
            case "pooled":
                squares, diagonal, energy = _pooled(z, sizes, eps)
            case _:
                raise ValueError(f"pairing is 'all' or 'pooled', not {pairing!r}")
        invariance = (1 - diagonal).square().sum(1).mean()  # diagonal of every C_ab, or of the one mean C
        redundancy = energy - diagonal.square().sum(1).mean()
        variance = _hinge(squares / (sum(sizes) - 1))
    loss = invariance + redundancy_weight * redundancy + var_weight * variance
    return BarlowTwins(loss, invariance, redundancy, variance)


def simclr(z: Tensor, *, temperature: float = 0.2) -> SimCLR:
    """SimCLR (arXiv 2002.05709, eq. 1) for K views: NT-Xent with K - 1 positives (as arXiv 2004.11362, eq. 2).

    z: [views, batch, dim], views >= 2, batch >= 2 over all processes. With u the K N embeddings at unit length,

        loss  mean over u_i, and over the K - 1 other views u_p of its image, of
              -log( exp(u_i u_p / temperature) / sum_{j != i} exp(u_i u_j / temperature) )

    At K = 2 the official loss. Its cost grows with K^2: every view is compared with every other. Raises ValueError for
    other shapes.
    """
    views, sizes, _ = _check(z)
    batch = sum(sizes)
    with no_autocast(z):
        u = F.normalize(_at_least_float32(z), dim=-1)
        cosines = torch.einsum("and,bmd->anbm", u, all_rows(u, sizes))  # [views, n, views, N]
        own = torch.arange(u.shape[1], device=z.device)
        of_image = cosines[:, own, :, own + first_row(sizes)]  # [n, views, views]
        # Each view is its own neighbour at cosine 1: not a positive, and out of the sum.
        itself = torch.eye(views, dtype=torch.bool, device=z.device)
        positives = of_image.masked_fill(itself, 0).sum(-1).T / (views - 1)  # [views, n]
        self_pairs = torch.zeros_like(cosines, dtype=torch.bool)
        self_pairs[:, own, :, own + first_row(sizes)] = itself
        others = (cosines / temperature).masked_fill(self_pairs, -math.inf).flatten(2).logsumexp(-1)  # [views, n]
        alignment = all_sum(positives.sum()) / (views * batch)
        loss = all_sum((others - positives / temperature).sum()) / (views * batch)
    return SimCLR(loss, alignment)


def entropy_reconstruction(z: Tensor, *, concentration: float = 10.0) -> EntropyReconstruction:
    """The entropy-reconstruction bound on the mutual information of two views (arXiv 2307.10907, eq. 3), for K views.

    z: [views, batch, dim], views >= 2, batch >= 2 over all processes. With u_a at unit length and von Mises-Fisher
    densities of this concentration, both for a view given another and as the kernel of the density estimate:

        reconstruction  mean over images and ordered pairs a != b of concentration * u_a u_b
        entropy         minus the mean over images n and views of log mean_m exp(concentration * u_an u_am)
        loss            -(entropy + reconstruction)

    The entropy is the paper's average (Joe's) estimator, the mean over views; the normaliser of the density cancels
    between the terms and is left out of both. Raises ValueError for other shapes.
    """
    views, sizes, _ = _check(z)
    batch = sum(sizes)
    with no_autocast(z):
        u = F.normalize(_at_least_float32(z), dim=-1)
        # sum_{a != b} u_a u_b = |sum_a u_a|^2 - sum_a |u_a|^2
        between = all_sum(u.sum(0).square().sum() - u.square().sum()) / (views * (views - 1) * batch)
        reconstruction = concentration * between
        log_density = (concentration * (u @ all_rows(u, sizes).mT)).logsumexp(-1) - math.log(batch)  # [views, n]
        entropy = -all_sum(log_density.sum()) / (views * batch)
    return EntropyReconstruction(-(entropy + reconstruction), entropy, reconstruction)


def weight_orthogonality(weight: Tensor) -> Tensor:
    """The soft penalty |W W' - I|_F^2 of a layer's weight [out, in], of W' W where out > in, in float32.

    The two differ by |out - in| only, so their gradients are the same.
    """
    with no_autocast(weight):
        w = _at_least_float32(weight)
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()


def cov_weight(dim: int, inv_weight: float) -> float:
    """The rule `auto` for VICReg: 40 inv_weight / dim.

    Measured for 4 views and dim 64 to 1024 on CIFAR-10 (analysis/results/weight_rule); those that arXiv 2312.10725
    found best for 2 views are 3 to 41 inv_weight / dim.
    """
    return 40 * inv_weight / dim


def redundancy_weight(dim: int) -> float:
    """The rule `auto` for Barlow Twins: 3.4 / dim.

    Fitted to the weights that arXiv 2312.10725 found best for 2 views and dim 64 to 8192 on CIFAR-10, and measured
    again for 4 views and dim 64 to 4096: the best lay at 2.7 to 3.6 / dim (analysis/results/weight_rule).
    """
    return 3.4 / dim


def _hinge(var: Tensor) -> Tensor:
    return torch.relu(1 - torch.sqrt(var + 1e-4)).mean()


def _all_pairs(z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """sum_n (z - mean)^2 [views, dim]; diagonals of C_ab, a < b [pairs, dim]; mean of |C_ab|_F^2 over these pairs."""
    views, _, dim = z.shape
    batch = sum(sizes)
    if batch <= views * dim:
        squares, diagonals, energy = StandardisedSums.apply(z, sizes, eps)
        return squares, diagonals / batch, energy / (batch**2 * views * (views - 1))
    x, squares = _standardise(z, sizes, eps)  # fewer multiplications: all C_ab side by side, [K d, K d]
    side_by_side = x.transpose(0, 1).flatten(1)  # [n, K d]
    c = all_sum(side_by_side.T @ side_by_side).unflatten(0, (views, dim)).unflatten(2, (views, dim)) / batch
    a, b = torch.triu_indices(views, views, 1, device=z.device)
    between = c.transpose(1, 2)[a, b]  # [pairs, d, d]
    return squares, between.diagonal(dim1=1, dim2=2), between.square().sum((1, 2)).mean()


def _pooled(z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """sum_n (z - mean)^2 [views, dim]; the diagonal [1, dim] and |C|_F^2 of C, the mean of C_ab over pairs a != b."""
    views, _, dim = z.shape
    pairs = views * (views - 1) * sum(sizes)
    x, squares = _standardise(z, sizes, eps)
    if views**2 * sum(sizes) >= (views + 1) * dim:
        rows, total = x.flatten(0, 1), x.sum(0)  # K z-bar
        c = all_sum(total.T @ total - rows.T @ rows) / pairs  # rows' rows = sum_a x_a' x_a
        return squares, c.diagonal()[None], c.square().sum()
    # Fewer multiplications through the Gram matrix g of all views, [K N, K N]: |x' M x|_F^2 = tr(M g M g), where M over
    # views is 1 - I.
    g = torch.einsum("and,bmd->anbm", x, all_rows(x, sizes))
    energy = all_sum(((g.sum(0, keepdim=True) - g) * (g.sum(2, keepdim=True) - g)).sum()) / pairs**2
    diagonal = all_sum((x.sum(0).square() - x.square().sum(0)).sum(0)) / pairs
    return squares, diagonal[None], energy


def _standardise(z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor]:
    centred = z - all_sum(z.sum(1, keepdim=True)) / sum(sizes)
    squares = all_sum(centred.square().sum(1))  # [views, dim]
    return centred * torch.rsqrt(squares / sum(sizes) + eps)[:, None], squares


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _check(z: Tensor) -> tuple[int, list[int], int]:
    """views, batch of every process, dim."""
    if z.ndim == 3 and z.shape[0] >= 2:
        sizes = batch_sizes(z.shape[1])
        if sum(sizes) >= 2:
            return z.shape[0], sizes, z.shape[2]
    raise ValueError(f"z must be [views >= 2, batch >= 2, dim], not {list(z.shape)}")

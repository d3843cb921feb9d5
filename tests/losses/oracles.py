"""Embeddings, the losses by name, and loops over pairs that the losses must equal."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effssl.losses import (
    barlow_twins,
    barlow_twins_authors,
    entropy_reconstruction,
    simclr,
    vicreg,
    vicreg_authors,
)

# batch, dim: every way to the matrix products
SHAPES = [(6, 60), (6, 20), (12, 12), (12, 7), (40, 5), (41, 5)]
TERMS = {
    "vicreg": vicreg,
    "barlow all": functools.partial(barlow_twins, redundancy_weight=0.02, var_weight=3.0),
    "barlow pooled": functools.partial(
        barlow_twins, redundancy_weight=0.02, var_weight=3.0, pairing="pooled"
    ),
    "vicreg authors": functools.partial(vicreg_authors, inv_weight=25, var_weight=25, cov_weight=1),
    "barlow authors": functools.partial(barlow_twins_authors, redundancy_weight=0.02),
    "simclr": simclr,
    "entropy reconstruction": entropy_reconstruction,
}
LOSSES = {name: lambda z, terms=terms: terms(z).loss for name, terms in TERMS.items()}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
each_low_precision = pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"]
)


def embeddings(views, batch, dim, dtype=torch.float64):
    """Give related views, with means away from 0.

    Their spreads lie on both sides of 1, so that the hinge is partly active.
    """
    generator = torch.Generator().manual_seed(views * 1000 + batch)
    image = torch.randn(batch, dim, dtype=dtype, generator=generator)
    noise = torch.randn(views, batch, dim, dtype=dtype, generator=generator)
    z = (image + 0.5 * noise) * torch.linspace(0.3, 2.0, dim, dtype=dtype) + 0.7
    return z.requires_grad_()


def off_diagonal(x):
    return x - torch.diag(x.diagonal())


def correlation(z_a, z_b):
    bn = nn.BatchNorm1d(z_a.shape[1], affine=False).to(z_a.dtype)
    return bn(z_a).T @ bn(z_b) / len(z_a)


def barlow_of(c):
    return (c.diagonal() - 1).square().sum(), off_diagonal(c).square().sum()


def official_vicreg(x, y, inv_weight, var_weight, cov_weight):
    """Compute the loss as main_vicreg.py of facebookresearch/vicreg does."""
    repr_loss = F.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    std_x, std_y = torch.sqrt(x.var(dim=0) + 0.0001), torch.sqrt(y.var(dim=0) + 0.0001)
    std_loss = torch.mean(F.relu(1 - std_x)) / 2 + torch.mean(F.relu(1 - std_y)) / 2
    cov_x, cov_y = x.T @ x / (len(x) - 1), y.T @ y / (len(y) - 1)
    cov_loss = (off_diagonal(cov_x).pow(2).sum() + off_diagonal(cov_y).pow(2).sum()) / x.shape[1]
    return inv_weight * repr_loss + var_weight * std_loss + cov_weight * cov_loss


def variance_of(z):
    return sum(torch.relu(1 - torch.sqrt(a.var(0) + 1e-4)).mean() for a in z) / len(z)


def vicreg_by_pairs(z, inv_weight=25, var_weight=25, cov_weight=1):
    pairs = list(itertools.combinations(z, 2))
    invariance = sum((a - b).square().mean() for a, b in pairs) / len(pairs)
    variance = variance_of(z)
    covariance = 2 / len(z) * sum(off_diagonal(a.T.cov()).square().sum() / a.shape[1] for a in z)
    loss = inv_weight * invariance + var_weight * variance + cov_weight * covariance
    return loss, invariance, variance, covariance


def barlow_by_pairs(z, weight, var_weight=0):
    pairs = [barlow_of(correlation(a, b)) for a, b in itertools.combinations(z, 2)]
    invariance, redundancy = (sum(terms) / len(pairs) for terms in zip(*pairs, strict=True))
    variance = variance_of(z)
    return (
        invariance + weight * redundancy + var_weight * variance,
        invariance,
        redundancy,
        variance,
    )


def barlow_pooled(z, weight, var_weight=0):
    between = [correlation(a, b) for a, b in itertools.permutations(z, 2)]
    invariance, redundancy = barlow_of(sum(between) / len(between))
    variance = variance_of(z)
    return (
        invariance + weight * redundancy + var_weight * variance,
        invariance,
        redundancy,
        variance,
    )


def of_unit_length(z):
    """Return {(view, image): embedding}."""
    places = itertools.product(range(z.shape[0]), range(z.shape[1]))
    return {(a, n): z[a, n] / z[a, n].square().sum().sqrt() for a, n in places}


def simclr_by_pairs(z, temperature):
    u = of_unit_length(z)
    of_pairs, cosines = [], []
    for i, (a, n) in enumerate(u):
        others = [
            torch.exp(u[a, n] @ other / temperature) for j, other in enumerate(u.values()) if j != i
        ]
        for positive in (u[b, n] for b in range(len(z)) if b != a):
            cosines.append(u[a, n] @ positive)
            of_pairs.append(-torch.log(torch.exp(cosines[-1] / temperature) / sum(others)))
    return sum(of_pairs) / len(of_pairs), sum(cosines) / len(cosines)


def nt_xent(z, temperature):
    u = F.normalize(z.flatten(0, 1), dim=1)
    similarities = (u @ u.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(similarities, torch.arange(len(u)).roll(len(u) // 2))


def entropy_reconstruction_by_pairs(z, concentration):
    u, (views, batch, _) = of_unit_length(z), z.shape
    between = [
        u[a, n] @ u[b, n] for a, b in itertools.permutations(range(views), 2) for n in range(batch)
    ]
    reconstruction = sum(concentration * cosine for cosine in between) / len(between)
    densities = [
        sum(torch.exp(concentration * u[a, n] @ u[a, m]) for m in range(batch)) / batch
        for a, n in itertools.product(range(views), range(batch))
    ]
    entropy = -sum(map(torch.log, densities)) / len(densities)
    return -(entropy + reconstruction), entropy, reconstruction


def assert_same(actual, expected, z, rtol=1e-9):
    """Check that two losses of z have the same value and gradient."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)
    one, other = gradient_of(actual, z), gradient_of(expected, z)
    assert other.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=0, atol=rtol * float(other.abs().max()))


def gradient_of(loss, z):
    return torch.autograd.grad(loss, z, retain_graph=True)[0]


def assert_all_same(terms, expected, z, rtol=1e-9):
    for one, other in zip(terms, expected, strict=True):
        assert_same(one, other, z, rtol)

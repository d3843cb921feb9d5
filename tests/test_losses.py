import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effssl.losses import barlow_twins, redundancy_weight, vicreg

SHAPES = [(6, 20), (40, 5), (12, 12)]  # batch, dim
LOSSES = {
    "vicreg": lambda z: vicreg(z).loss,
    "barlow all": lambda z: barlow_twins(z, redundancy_weight=0.02).loss,
    "barlow pooled": lambda z: barlow_twins(z, redundancy_weight=0.02, pairing="pooled").loss,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def embeddings(views, batch, dim, dtype=torch.float64):
    """Related views, with means away from 0 and spreads on both sides of 1, so that the hinge is partly active."""
    generator = torch.Generator().manual_seed(views * 1000 + batch)
    image = torch.randn(batch, dim, dtype=dtype, generator=generator)
    noise = torch.randn(views, batch, dim, dtype=dtype, generator=generator)
    return ((image + 0.5 * noise) * torch.linspace(0.3, 2.0, dim, dtype=dtype) + 0.7).requires_grad_()


def off_diagonal(x):
    return x - torch.diag(x.diagonal())


def correlation(z_a, z_b):
    bn = nn.BatchNorm1d(z_a.shape[1], affine=False).to(z_a.dtype)
    return bn(z_a).T @ bn(z_b) / len(z_a)


def barlow_of(c):
    return (c.diagonal() - 1).square().sum(), off_diagonal(c).square().sum()


def official_vicreg(x, y, inv_weight, var_weight, cov_weight):
    """main_vicreg.py of facebookresearch/vicreg."""
    repr_loss = F.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    std_x, std_y = torch.sqrt(x.var(dim=0) + 0.0001), torch.sqrt(y.var(dim=0) + 0.0001)
    std_loss = torch.mean(F.relu(1 - std_x)) / 2 + torch.mean(F.relu(1 - std_y)) / 2
    cov_x, cov_y = x.T @ x / (len(x) - 1), y.T @ y / (len(y) - 1)
    cov_loss = (off_diagonal(cov_x).pow(2).sum() + off_diagonal(cov_y).pow(2).sum()) / x.shape[1]
    return inv_weight * repr_loss + var_weight * std_loss + cov_weight * cov_loss


def vicreg_by_pairs(z):
    pairs = list(itertools.combinations(z, 2))
    invariance = sum((a - b).square().mean() for a, b in pairs) / len(pairs)
    variance = sum(torch.relu(1 - torch.sqrt(a.var(0) + 1e-4)).mean() for a in z) / len(z)
    covariance = 2 / len(z) * sum(off_diagonal(a.T.cov()).square().sum() / a.shape[1] for a in z)
    return 25 * invariance + 25 * variance + covariance, invariance, variance, covariance


def barlow_by_pairs(z, weight):
    pairs = [barlow_of(correlation(a, b)) for a, b in itertools.combinations(z, 2)]
    invariance, redundancy = (sum(terms) / len(pairs) for terms in zip(*pairs, strict=True))
    return invariance + weight * redundancy, invariance, redundancy


def barlow_pooled(z, weight):
    between = [correlation(a, b) for a, b in itertools.permutations(z, 2)]
    invariance, redundancy = barlow_of(sum(between) / len(between))
    return invariance + weight * redundancy, invariance, redundancy


def assert_same(actual, expected, z, rtol=1e-9):
    """Value and gradient of two losses of z."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)
    (one,), (other,) = torch.autograd.grad(actual, z), torch.autograd.grad(expected, z)
    assert other.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=0, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_vicreg_of_two_views_is_the_official_code(batch, dim):
    z = embeddings(2, batch, dim)
    assert_same(vicreg(z, inv_weight=20, var_weight=30, cov_weight=2).loss, official_vicreg(*z, 20, 30, 2), z)
    assert_same(vicreg(z).loss, official_vicreg(*z, 25, 25, 1), z)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_barlow_twins_of_two_views_is_the_official_code(batch, dim):
    z = embeddings(2, batch, dim)
    bn = nn.BatchNorm1d(dim, affine=False).double()
    c = bn(z[0]).T @ bn(z[1])
    c = c / batch
    on_diag = torch.diagonal(c).add(-1).pow(2).sum()
    off_diag = off_diagonal(c).pow(2).sum()
    assert_same(barlow_twins(z, redundancy_weight=0.0051).loss, on_diag + 0.0051 * off_diag, z)


@pytest.mark.parametrize("views", range(2, 9))
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_losses_of_k_views_are_the_loops_over_pairs(views, batch, dim):
    z = embeddings(views, batch, dim)
    compared = [
        (vicreg(z), vicreg_by_pairs(z)),
        (barlow_twins(z, redundancy_weight=0.02), barlow_by_pairs(z, 0.02)),
        (barlow_twins(z, redundancy_weight=0.02, pairing="pooled"), barlow_pooled(z, 0.02)),
    ]
    for actual, expected in compared:
        assert_same(actual.loss, expected[0], z)
        torch.testing.assert_close(tuple(actual)[: len(expected)], tuple(expected), rtol=1e-9, atol=0)


def test_pooled_noise_falls_with_the_number_of_pairs():
    """For unrelated views the correlation is 0, and each of its estimates has variance 1 / (K (K - 1) N)."""
    for views in (2, 4, 8):
        z = torch.randn(views, 200, 64, generator=torch.Generator().manual_seed(views))
        redundancy = barlow_twins(z, redundancy_weight=1.0, pairing="pooled").redundancy
        assert float(redundancy) == pytest.approx(2 * 64 * 63 / 2 / (views * (views - 1) * 200), rel=0.15)


@each_loss
def test_float32_is_close_to_float64(loss):
    z = embeddings(4, 128, 256)
    torch.testing.assert_close(loss(z.float()).double(), loss(z), rtol=1e-5, atol=0)


def constant_dimensions():
    z = embeddings(3, 16, 8, torch.float32).detach()
    z[:, :, :3] = torch.tensor([0.0, 1.0, -300.0])
    return z


@each_loss
@pytest.mark.parametrize(
    "z",
    [
        constant_dimensions(),
        torch.full((3, 16, 8), 2.5),
        torch.zeros(2, 2, 4),
        embeddings(2, 2, 8, torch.float32).detach(),
        1e4 * embeddings(4, 32, 16, torch.float32).detach(),
        1e4 + embeddings(4, 32, 16, torch.float32).detach(),
    ],
    ids=["constant dimensions", "constant batch", "zeros", "batch of 2", "large", "far from 0"],
)
def test_values_and_gradients_are_finite(loss, z):
    z = z.clone().requires_grad_()
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.double(), loss(z.double()), rtol=1e-3, atol=1e-4)


@each_loss
def test_autocast_does_not_lower_the_precision(loss):
    z = embeddings(4, 32, 16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(z)
    assert value.dtype == torch.float32
    assert_same(value, loss(z), z, rtol=1e-6)


@each_loss
def test_bfloat16_embeddings_are_taken_in_float32(loss):
    z = embeddings(4, 32, 16).detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(z)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(z.float()), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()


@each_loss
def test_order_of_views_does_not_matter(loss):
    z = embeddings(5, 16, 8)
    assert_same(loss(z[[3, 0, 4, 1, 2]]), loss(z), z)


@each_loss
@pytest.mark.parametrize("shape", [(8, 4), (1, 8, 4), (2, 1, 4), (2, 2, 8, 4)])
def test_other_shapes_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"views >= 2.*" + ", ".join(map(str, shape))):
        loss(torch.zeros(shape))


def test_other_pairings_are_refused():
    with pytest.raises(ValueError, match="'nope'"):
        barlow_twins(torch.randn(2, 4, 3), redundancy_weight=1.0, pairing="nope")


def test_redundancy_weight_follows_the_published_ones():
    published = {64: 0.04, 128: 0.04, 256: 0.02, 512: 0.01, 1024: 0.001, 2048: 0.001, 4096: 0.0004, 8192: 0.0008}
    errors = [math.log(redundancy_weight(dim) / weight) for dim, weight in published.items()]
    assert abs(sum(errors) / len(errors)) < 0.2
    assert max(map(abs, errors)) < math.log(3.5)
    assert redundancy_weight(512) == pytest.approx(redundancy_weight(256) / 2)

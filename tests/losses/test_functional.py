import math

import pytest
import torch
from torch import nn

from effssl.losses import barlow_twins, functional, vicreg, weight_orthogonality
from tests.losses.oracles import (
    SHAPES,
    assert_all_same,
    assert_same,
    barlow_by_pairs,
    barlow_pooled,
    each_loss,
    each_low_precision,
    embeddings,
    off_diagonal,
    official_vicreg,
    vicreg_by_pairs,
)


def distance_from_identity(rows):
    """Return |rows rows' - I|_F^2 by a loop over pairs of rows."""
    return sum(
        (a @ b - int(i == j)).square() for i, a in enumerate(rows) for j, b in enumerate(rows)
    )


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_vicreg_of_two_views_is_the_official_code(batch, dim):
    z = embeddings(2, batch, dim)
    assert_same(
        vicreg(z, inv_weight=20, var_weight=30, cov_weight=2).loss,
        official_vicreg(*z, 20, 30, 2),
        z,
    )
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
    assert_all_same(vicreg(z), vicreg_by_pairs(z), z)
    assert_all_same(barlow_twins(z, redundancy_weight=0.02), barlow_by_pairs(z, 0.02), z)
    assert_all_same(
        barlow_twins(z, redundancy_weight=0.02, pairing="pooled"), barlow_pooled(z, 0.02), z
    )


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_terms_are_weighted_as_asked(batch, dim):
    z = embeddings(3, batch, dim)
    weighted = {"redundancy_weight": 0.7, "var_weight": 3.0}
    assert_same(
        vicreg(z, inv_weight=0.3, var_weight=7, cov_weight=11).loss,
        vicreg_by_pairs(z, 0.3, 7, 11)[0],
        z,
    )
    assert_same(barlow_twins(z, **weighted).loss, barlow_by_pairs(z, 0.7, 3)[0], z)
    assert_same(barlow_twins(z, **weighted, pairing="pooled").loss, barlow_pooled(z, 0.7, 3)[0], z)


def test_pooled_noise_falls_with_the_number_of_pairs():
    """For unrelated views the correlation is 0; its estimates have variance 1 / (K (K - 1) N)."""
    for views in (2, 4, 8):
        z = torch.randn(views, 200, 64, generator=torch.Generator().manual_seed(views))
        redundancy = barlow_twins(z, redundancy_weight=1.0, pairing="pooled").redundancy
        assert float(redundancy) == pytest.approx(
            2 * 64 * 63 / 2 / (views * (views - 1) * 200), rel=0.15
        )


@pytest.mark.parametrize("views", [2, 4, 8])
def test_pooled_correlation_is_unbiased(views):
    """The two dimensions have correlation 0.8 within a view.

    Between views each has 0.5 with itself and 0.4 with the other.
    """
    generator, mix = torch.Generator().manual_seed(views), torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    estimates = []
    for _ in range(200):
        image, noise = (
            torch.randn(400, 2, generator=generator),
            torch.randn(views, 400, 2, generator=generator),
        )
        _, diagonal, energy = functional._pooled((image + noise) @ mix, [400], eps=0)
        between = ((energy - diagonal.square().sum()) / 2).sqrt()
        estimates.append(torch.stack([*diagonal[0], between]))
    estimates = torch.stack(estimates)
    error = estimates.mean(0) - torch.tensor([0.5, 0.5, 0.4])
    assert (error.abs() < 4 * estimates.std(0) / math.sqrt(len(estimates))).all()


@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("views", [2, 4, 8])
def test_pooled_noise_is_that_of_an_intraclass_correlation(views, rho):
    """Fisher's variance is 2 (1 - rho)^2 (1 + (K - 1) rho)^2 / (K (K - 1) N).

    The dimensions are independent repeats.
    """
    batch, dim = 400, 1000
    generator = torch.Generator().manual_seed(views)
    image, noise = (torch.randn(k, batch, dim, generator=generator) for k in (1, views))
    _, diagonal, _ = functional._pooled(
        math.sqrt(rho) * image + math.sqrt(1 - rho) * noise, [batch], eps=0
    )
    variance = 2 * (1 - rho) ** 2 * (1 + (views - 1) * rho) ** 2 / (views * (views - 1) * batch)
    assert abs(float(diagonal.mean()) - rho) < 4 * math.sqrt(variance / dim)
    assert float(diagonal.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / dim))


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_weight_orthogonality_is_the_distance_from_orthonormal(shape):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    short, long = sorted([w, w.T], key=len)
    assert_same(weight_orthogonality(w), distance_from_identity(short), w)
    assert_same(weight_orthogonality(w) + (len(long) - len(short)), distance_from_identity(long), w)
    basis, _ = torch.linalg.qr(torch.randn(7, 3, dtype=torch.float64, generator=generator))
    for orthonormal in (basis, basis.T):
        assert float(weight_orthogonality(orthonormal)) == pytest.approx(0, abs=1e-24)


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
@each_low_precision
@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_autocast_does_not_lower_the_precision(loss, dtype, batch, dim):
    z = embeddings(4, batch, dim, torch.float32)
    with torch.autocast("cpu", dtype):
        value = loss(z)
    assert value.dtype == torch.float32
    assert_same(value, loss(z), z, rtol=1e-6)


@each_low_precision
def test_weight_orthogonality_is_taken_in_float32(dtype):
    w = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", dtype):
        value = weight_orthogonality(w)
    assert value.dtype == weight_orthogonality(w.to(dtype)).dtype == torch.float32
    assert_same(value, weight_orthogonality(w), w, rtol=1e-6)


@each_loss
@each_low_precision
def test_embeddings_of_low_precision_are_taken_in_float32(loss, dtype):
    z = embeddings(4, 32, 16).detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        value = loss(z)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(z.float()), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.dtype == dtype
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


def test_in_a_group_of_gpus_alone_sizes_are_exchanged_where_z_is(monkeypatch):
    """A loop of one's own may not have made its GPU torch's current one."""
    where = []
    fakes = {
        "is_initialized": lambda: True,
        "get_world_size": lambda: 2,
        "get_rank": lambda: 0,
        "get_backend_config": lambda: "cuda:nccl",
        "all_reduce": lambda sizes: where.append(sizes.device),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.distributed, name, fake)
    z = torch.zeros(2, 3, 4)
    assert functional.check_shape(z) == (2, [3, 0], 4)
    assert where == [z.device]


def test_other_pairings_are_refused():
    with pytest.raises(ValueError, match="'nope'"):
        barlow_twins(torch.randn(2, 4, 3), redundancy_weight=1.0, pairing="nope")


def test_barlow_twins_divides_by_the_spread_of_the_same_batch():
    """eps is BatchNorm's, as in the official code. A dimension without spread gets 0, not noise:
    what is divided is what the spread was taken of, so that no number exceeds sqrt(batch).
    """
    z = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0))
    z[..., 2] = 0.1
    z[:, ::5, 2] *= 1 + 1e-7
    x, _ = functional._standardise(z, [16], functional._EPS)
    assert x[..., 2].abs().max() < 1e-4
    official = torch.nn.BatchNorm1d(3, affine=False)
    torch.testing.assert_close(x, torch.stack([official(view) for view in z]), rtol=1e-4, atol=1e-4)

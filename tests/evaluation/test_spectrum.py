import math

import numpy as np
import pytest
import scipy.linalg
import torch

from effssl.evaluation import spectrum
from effssl.evaluation.spectrum import (
    alignment,
    decay_exponent,
    effective_rank,
    lidar,
    mean_std,
    off_diagonal_energy,
    uniformity,
    variance_share,
)


def with_singular_values(values, n=30, dim=10):
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(n, len(values), dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(
        torch.randn(dim, len(values), dtype=torch.float64, generator=generator)
    )[0]
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.eye(12), 12),
        (torch.eye(5, 9) * 1e-3, 5),
        (torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 6)), 1),
        (with_singular_values([3.0, 3.0, 3.0]), 3),
        (with_singular_values([6.0, 3.0, 1.0]), 10 / (6**0.6 * 3**0.3)),
        (torch.zeros(4, 3), 1),
    ],
)
def test_effective_rank_of_known_spectra(x, expected):
    assert effective_rank(x) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_is_that_of_the_singular_values():
    x = torch.randn(60, 90, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.logspace(0, -3, 90)
    )
    p = torch.linalg.svdvals(x.double())
    p = p / p.sum()
    assert (
        effective_rank(x)
        == effective_rank(x.T)
        == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-5)
    )


def normal(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "dim"), [(50, 8), (8, 50)])
def test_off_diagonal_energy_is_the_mean_squared_correlation_less_its_floor(n, dim):
    x = normal(n, dim) @ normal(dim, dim, seed=1) + 3
    r = torch.corrcoef(x.T)
    expected = r[~torch.eye(dim, dtype=torch.bool)].square().mean() - 1 / (n - 1)
    assert off_diagonal_energy(x) == pytest.approx(float(expected), rel=1e-9)


def test_off_diagonal_energy_of_independent_dimensions_is_zero_on_average():
    measured = torch.tensor([off_diagonal_energy(normal(20, 30, seed)) for seed in range(200)])
    assert abs(measured.mean()) < 4 * measured.std() / math.sqrt(200)
    assert measured.std() / math.sqrt(200) < 1e-3  # the floor is 0.05


def test_off_diagonal_energy_of_copies_is_one():
    x = normal(100, 1).float()
    copies = torch.cat(
        [x, -2 * x + 5, torch.full_like(x, 0.1)], 1
    )  # and a constant, which is left out
    assert off_diagonal_energy(copies) == pytest.approx(1 - 1 / 99, rel=1e-5)
    assert math.isnan(off_diagonal_energy(copies[:, [0, 2]]))


def with_eigenvalues(values, n):
    """Rows whose covariance has exactly these eigenvalues, in a random basis, with a mean."""
    dim = len(values)
    noise = normal(n, dim)
    left = torch.linalg.qr(noise - noise.mean(0))[0]
    right = torch.linalg.qr(normal(dim, dim, seed=1))[0]
    return left * (n * torch.as_tensor(values, dtype=torch.float64)).sqrt() @ right.T + 5


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.5])
def test_decay_exponent_of_a_power_law(alpha):
    x = with_eigenvalues(torch.arange(1, 151, dtype=torch.float64) ** -alpha, 400)
    assert decay_exponent(x) == pytest.approx(alpha, abs=1e-9)
    assert decay_exponent(1e-3 * x - 2) == pytest.approx(alpha, abs=1e-6)


def authors_exponent(values):
    """The fit of the authors' code, fastssl's stringer_get_powerlaw(values, arange(3, 100))."""
    at = np.arange(3, min(100, len(values)))
    rank = at + 1
    x = np.stack([-np.log(rank), np.ones(len(rank))], 1)
    weighted = x / rank[:, None]
    return np.linalg.solve(x.T @ weighted, weighted.T @ np.log(values[at]))[0]


def test_decay_exponent_is_that_of_the_authors_code_at_ranks_4_to_100():
    rank = np.arange(1, 151)
    values = rank**-1.0 * np.exp(0.3 * np.sin(rank))
    values[:3], values[100:] = (50, 9, 8), 1e-3 * rank[100:] ** -3.0  # what must not count
    values = -np.sort(-values)
    expected = authors_exponent(values)
    assert decay_exponent(with_eigenvalues(values, 400)) == pytest.approx(expected, rel=1e-9)


def test_decay_exponent_of_few_positive_eigenvalues():
    few = with_eigenvalues([9.0, 8.0, 4.0, 4.0**-2, 5.0**-2, 0.0, 0.0], 50)
    assert decay_exponent(few) == pytest.approx(2, rel=1e-6)
    assert math.isnan(decay_exponent(with_eigenvalues([3.0, 2.0, 1.0, 0.5, 0.0], 50)))
    assert math.isnan(decay_exponent(torch.full((10, 4), 0.1)))


def test_measures_without_labels_do_not_see_a_constant_dimension():
    """What divides by a deviation leaves it out: it has rounding for a spread."""
    x = normal(200, 12).float() * torch.logspace(0, -6, 12)
    constant = torch.full((200, 1), 0.1)
    constant[::7] *= 1 + 1e-7
    wider = torch.cat([x, constant], 1)
    assert off_diagonal_energy(wider) == pytest.approx(off_diagonal_energy(x), rel=1e-9)
    assert decay_exponent(wider) == pytest.approx(decay_exponent(x), rel=1e-9)


def test_lidar_divides_by_no_spread_below_its_delta():
    """Views that are alike in a dimension count as far apart as delta says, by the paper's rule."""
    x = views_of()
    still = torch.cat([x, torch.full((40, 6, 1), 0.1, dtype=torch.float64)], 2)
    assert lidar(still) == pytest.approx(lidar(x), rel=1e-9)


def views_of(n=40, views=6, dim=7, noise=0.5):
    scale = torch.logspace(0, -1, dim, dtype=torch.float64)
    return (
        normal(n, dim)[:, None] * scale
        + noise * normal(n * views, dim, seed=1).reshape(n, views, dim)
        + 1
    )


@pytest.mark.parametrize(("views", "delta"), [(6, 1e-4), (2, 0.3)])
def test_lidar_is_that_of_the_generalised_eigenvalues(views, delta):
    x = views_of(views=views)
    means = x.mean(1).numpy()
    within = np.mean([np.cov(image.numpy().T) for image in x], 0) + delta * np.eye(7)
    values = scipy.linalg.eigh(np.cov(means.T), within, eigvals_only=True)
    p = values / values.sum()
    assert lidar(x, delta) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    root = scipy.linalg.sqrtm(np.linalg.inv(within)).real  # and as the paper writes it
    np.testing.assert_allclose(np.linalg.eigvalsh(root @ np.cov(means.T) @ root), values, rtol=1e-8)


def test_lidar_of_known_cases():
    # Identical views: W is delta I, so the eigenvalues are those of the covariance of the images.
    x = with_eigenvalues([4.0, 2.0, 2.0], 30)
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert lidar(x[:, None].expand(-1, 5, -1)) == pytest.approx(
        float(torch.exp(-(p * p.log()).sum())), rel=1e-9
    )
    # Fewer images than dimensions: their means span images - 1.
    assert lidar(normal(8, 50)[:, None].expand(-1, 3, -1)) <= 7 + 1e-9
    # What differs between views of an image counts little: two dimensions of images, twenty of
    # augmentation.
    shared = torch.cat([normal(500, 2), torch.zeros(500, 20)], 1)[:, None]
    apart = torch.cat([torch.zeros(500 * 50, 2), 3 * normal(500 * 50, 20, seed=1)], 1).reshape(
        500, 50, 22
    )
    assert 1.9 < lidar(shared + apart) < 2.1
    assert effective_rank((shared + apart).flatten(0, 1)) > 15
    assert lidar(torch.ones(5, 3, 2)) == 1
    assert math.isnan(lidar(x[:, None]))


def test_alignment_is_the_double_loop_over_pairs_of_views():
    x = views_of()
    u = x / x.norm(dim=-1, keepdim=True)
    distances = [(u[:, a] - u[:, b]).square().sum(-1) for a in range(6) for b in range(a)]
    assert alignment(x.float()) == pytest.approx(float(torch.stack(distances).mean()), rel=1e-5)
    assert alignment(x) == pytest.approx(alignment(3 * x), rel=1e-12)
    assert alignment(x[:, :1].expand(-1, 4, -1)) == pytest.approx(0, abs=1e-12)
    assert alignment(torch.stack([x[:, 0], -x[:, 0]], 1)) == pytest.approx(4)
    assert math.isnan(alignment(x[:, :1]))


@pytest.mark.parametrize("pairs_at_once", [1, 200, 2**23])
def test_uniformity_is_the_double_loop_over_distinct_pairs(pairs_at_once, monkeypatch):
    monkeypatch.setattr(spectrum, "_PAIRS_AT_ONCE", pairs_at_once)
    x = normal(37, 5) + 0.3
    u = x / x.norm(dim=1, keepdim=True)
    terms = [
        math.exp(-2 * float((u[i] - u[j]).square().sum())) for i in range(37) for j in range(i)
    ]
    assert uniformity(x) == pytest.approx(math.log(np.mean(terms)), rel=1e-12)


def test_uniformity_of_known_cases():
    assert uniformity(torch.ones(10, 3)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.tensor([[1.0, 0], [-2, 0]])) == pytest.approx(-8)
    assert uniformity(torch.eye(9)) == pytest.approx(-4)
    assert uniformity(normal(2000, 100)) == pytest.approx(-4 + 8 / 100, abs=0.005)
    assert math.isnan(uniformity(torch.ones(1, 3)))


def test_variance_share_is_what_of_the_mean_square_is_variance():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x -= x.mean(0)
    square = x.square().sum() / len(x)
    assert variance_share(x) == pytest.approx(1)
    mean = torch.full((6,), 3.0)
    assert variance_share(x + mean) == pytest.approx(float(square / (square + 54)))
    assert variance_share(1e3 * (x + mean)) == pytest.approx(variance_share(x + mean))
    assert mean_std(x + mean) == pytest.approx(float(x.var(0).mean()) ** 0.5)
    assert variance_share(torch.ones(5, 3)) == variance_share(torch.zeros(5, 3)) == 0

import math

import pytest
import torch

from effssl.spectrum import effective_rank, off_diagonal_energy


def with_singular_values(values, n=30, dim=10):
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(n, len(values), dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(dim, len(values), dtype=torch.float64, generator=generator))[0]
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
    x = torch.randn(60, 90, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.logspace(0, -3, 90))
    p = torch.linalg.svdvals(x.double())
    p = p / p.sum()
    assert effective_rank(x) == effective_rank(x.T) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-5)


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
    copies = torch.cat([x, -2 * x + 5, torch.full_like(x, 0.1)], 1)  # and a constant, which is left out
    assert off_diagonal_energy(copies) == pytest.approx(1 - 1 / 99, rel=1e-5)
    assert math.isnan(off_diagonal_energy(copies[:, [0, 2]]))

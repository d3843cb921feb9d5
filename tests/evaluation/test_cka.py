from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from effssl.evaluation.cka import cka_matrix, linear_cka
from tests.evaluation.test_spectrum import normal


def hsic_by_formula(k, m):
    """The unbiased estimator as arXiv 2010.15327, eq. 3 writes it."""
    n = len(k)
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


@pytest.mark.parametrize(("dim_x", "dim_y"), [(6, 9), (60, 300), (6, 300)])
def test_cka_is_that_of_the_explicit_kernels(dim_x, dim_y):
    x = normal(25, dim_x) + 2
    y = x @ normal(dim_x, dim_y, seed=1) + normal(25, dim_y, seed=2) - 1
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = hsic_by_formula(k, m) / np.sqrt(hsic_by_formula(k, k) * hsic_by_formula(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_cka_ignores_rotation_scale_and_shift_and_nothing_else():
    x, y = normal(50, 8), normal(50, 8) * torch.logspace(0, -1, 8) + 0.5 * normal(50, 8, seed=1)
    turn = torch.linalg.qr(normal(8, 8, seed=2))[0]
    measured = linear_cka(x, y)
    assert 0.1 < measured < 0.99
    assert linear_cka(3 * x @ turn + 7, y) == pytest.approx(measured, rel=1e-9)
    assert linear_cka(y, x) == pytest.approx(measured, rel=1e-9)
    assert linear_cka(x, x @ turn) == pytest.approx(1, rel=1e-9)
    stretched = x * torch.logspace(0, 2, 8)
    assert abs(linear_cka(stretched, y) - measured) > 0.01


def test_cka_of_independent_data_is_zero():
    pairs = [(normal(100, 80, 2 * i), normal(100, 120, 2 * i + 1)) for i in range(20)]
    measured = torch.tensor([linear_cka(x, y) for x, y in pairs])
    assert abs(measured.mean()) < 4 * measured.std() / math.sqrt(20)
    assert measured.abs().max() < 0.1


def test_cka_matrix_is_that_of_its_pairs():
    xs, ys = (
        [normal(30, 5), normal(30, 60, 1)],
        [normal(30, 5), normal(30, 7, 2), torch.full((30, 3), 0.1)],
    )
    matrix = cka_matrix(xs, ys)
    assert matrix.shape == (2, 3)
    for i, x in enumerate(xs):
        for j, y in enumerate(ys[:2]):
            assert matrix[i, j] == pytest.approx(linear_cka(x, y), rel=1e-12)
    assert matrix[0, 0] == pytest.approx(1)
    assert matrix[:, 2].isnan().all()  # a constant says nothing
    assert math.isnan(linear_cka(torch.ones(3, 2), normal(3, 2)))  # fewer than 4 images

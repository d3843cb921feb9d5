"""Images on a ring: a finite augmentation graph where the eigenfunctions, and what the losses make
of them, are known.

An image is one of V positions on a ring; a view is its position moved by a random offset with
probabilities q. The augmentation kernel T(x, x') = p(x, x') / (p(x) p(x')) is then a circular
convolution: its eigenfunctions are 1 and the waves sqrt(2) cos(2 pi k x / V), sqrt(2) sin(2 pi k x
/ V), its eigenvalues |q^(k)|^2, q^ the Fourier transform of q."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor


def offsets(size: int, sharpness: float) -> Tensor:
    """Return the probabilities q [V] of the offset of a view from its image."""
    angle = 2 * np.pi * torch.arange(size, dtype=torch.float64) / size
    return torch.softmax(sharpness * torch.cos(angle), 0)


def eigenfunctions(q: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the top `count` non-constant eigenfunctions of the kernel [V, count], of unit mean
    square, and eigenvalues; count is even (waves come in pairs) and at most V - 2."""
    size = len(q)
    k = torch.repeat_interleave(torch.arange(1, size // 2), 2)[:count]  # 1, 1, 2, 2, ...
    angle = 2 * np.pi * torch.outer(torch.arange(size, dtype=torch.float64), k.double()) / size
    is_sine = torch.arange(count) % 2 == 1
    waves = np.sqrt(2) * torch.where(is_sine, torch.sin(angle), torch.cos(angle))
    return waves, torch.fft.fft(q)[k].abs() ** 2


def sample_views(q: Tensor, views: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return positions of the views of a batch of images, [views, batch]."""
    image = torch.randint(len(q), (batch,), generator=generator)
    moved = torch.multinomial(q, views * batch, replacement=True, generator=generator).view(
        views, batch
    )
    return (image + moved) % len(q)


def span_error(table: Tensor, waves: Tensor) -> float:
    """Return the mean squared sine of the principal angles between the spans of centred F [V, d]
    and of eigenfunctions [V, d]."""
    basis, _ = torch.linalg.qr((table - table.mean(0)).double())
    cosines = torch.linalg.svdvals(basis.T @ (waves / len(waves) ** 0.5))
    return float(1 - cosines.square().mean())


def estimate_error(q: Tensor, count: int, views: int) -> float:
    """Return N E|C~ - T|_F^2 of the K-view estimate from N images, in the basis of the top `count`
    eigenfunctions; exact.

    C~ is the mean over images of U = sum_{a != b} f_a f_b' / (K (K - 1)), f_a the eigenfunctions at
    view a. With m and S the mean of f and of f f' given the image, and n = K (K - 1), n^2 E|U|^2
    sums over two ordered pairs of views:

        sharing both       n:              tr(S)^2 + |S|^2
        sharing one        n (K - 2):      2 tr(S) |m|^2 + 2 m' S m
        sharing none       n (K-2) (K-3):  |m|^4
    """
    waves, eigenvalues = eigenfunctions(q, count)
    # On the ring every image sees the same up to a rotation of each wave's pair, so one image tells
    # all of them.
    mean = q @ waves
    square = waves.T @ (q[:, None] * waves)
    trace, norm = torch.trace(square), mean @ mean
    both = trace**2 + square.square().sum()
    one = 2 * trace * norm + 2 * mean @ square @ mean
    n = views * (views - 1)
    energy = (both + (views - 2) * one + (views - 2) * (views - 3) * norm**2) / n
    return float(energy - eigenvalues.square().sum())


def barlow_spectrum(eigenvalues: np.ndarray, dim: int, weight: float) -> np.ndarray:
    """Return the share p [dim] of each eigenfunction in the variance of z where Barlow Twins
    is least; weight <= 1.

    With z = sum_k phi_k A_k and columns of A at unit length, C = A' L A, L the diagonal matrix of
    eigenvalues lambda. Only the eigenvalues d p of A A' count, and equal diagonals of C are best
    for w <= 1 (and attained for d = 2, 4, 8, with rows of A along those of a Hadamard matrix). With
    s = sum_k lambda_k p_k,

        loss / d = (1 - s)^2 - w s^2 + w d sum_k lambda_k^2 p_k^2,

    for small w a function of w d alone.
    """
    lam = eigenvalues[:dim]

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        s = lam @ p
        slope = (-2 * (1 - s) - 2 * weight * s) * lam + 2 * weight * dim * lam**2 * p
        return (1 - s) ** 2 - weight * s**2 + weight * dim * (lam**2) @ p**2, slope

    return _on_simplex(value, dim)


def vicreg_spectrum(eigenvalues: np.ndarray, dim: int, weight: float) -> np.ndarray:
    """Return the variance g [dim] of each eigenfunction in z where VICReg is least;
    weight = cov_weight / inv_weight, and var_weight = inv_weight.

    Let g be the eigenvalues of the covariance of z, falling, and v its diagonal. By von Neumann's
    inequality the k-th belongs to the k-th eigenfunction; by Schur and Horn v can be whatever g
    majorises. So

        loss / inv_weight = (1 / d) sum_k 2 g_k (1 - lambda_k) + max(0, 1 - sqrt(v_k + 1e-4))
                                          + 2 w (g_k^2 - v_k^2),

    under linear constraints. Dimensions need not have equal variances: at large w some of them are
    an eigenfunction each, with none of the covariance. As -v^2 is not convex there are several
    minima; each start equalises v within blocks of the eigenfunctions, and the least end is taken.
    """
    lam, eps = eigenvalues[:dim], 1e-4
    falls = np.eye(dim)[:-1] - np.eye(dim, k=1)[:-1]
    sums, none = np.tril(np.ones((dim, dim)))[:-1], np.zeros((dim - 1, dim))
    above_0 = np.vstack([np.hstack([falls, none]), np.hstack([none, falls])])
    above_0 = np.vstack([above_0, np.hstack([sums, -sums])])
    same_total = np.append(np.ones(dim), -np.ones(dim))
    constraints = [
        {"type": "ineq", "fun": lambda x: above_0 @ x, "jac": lambda x: above_0},
        {"type": "eq", "fun": lambda x: same_total @ x, "jac": lambda x: same_total},
    ]
    # A dimension of more than unit deviation would do better with less.
    bounds = [(0.0, float(dim))] * dim + [(0.0, 1 - eps)] * dim

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        g, v = x[:dim], x[dim:]
        deviation = np.sqrt(v + eps)
        loss = 2 * g @ (1 - lam) + (1 - deviation).sum() + 2 * weight * (g @ g - v @ v)
        slope = np.append(2 * (1 - lam) + 4 * weight * g, -0.5 / deviation - 4 * weight * v)
        return loss / dim, slope / dim

    options = {"maxiter": 500, "ftol": 1e-13}
    how = {"jac": True, "bounds": bounds, "constraints": constraints, "options": options}
    ends = [minimize(value, x, method="SLSQP", **how) for x in _starts(dim)]
    return np.clip(min(ends, key=lambda end: end.fun).x[:dim], 0, None)


def _starts(dim: int) -> list[np.ndarray]:
    """Return starts (g, v): g falls slowly or fast, v is its mean in each of up to three blocks."""
    starts = []
    for num_cuts, slowness in itertools.product((0, 1, 2), (2.0, 6.0)):
        for cuts in itertools.combinations(range(2, min(dim, 14), 2), num_cuts):
            g = np.exp(-np.arange(dim) / slowness)
            blocks = itertools.pairwise((0, *cuts, dim))
            v = np.concatenate([np.full(b - a, min(0.99, g[a:b].mean())) for a, b in blocks])
            starts.append(np.append(g * v.sum() / g.sum(), v))
    return starts


def _on_simplex(value: Callable, dim: int) -> np.ndarray:
    total = {"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(dim)}
    start, bounds = np.full(dim, 1 / dim), [(0.0, 1.0)] * dim
    options = {"maxiter": 2000, "ftol": 1e-14}
    least = minimize(
        value, start, jac=True, bounds=bounds, constraints=[total], method="SLSQP", options=options
    )
    return np.clip(least.x, 0, None)


def rank_of_shares(p: np.ndarray) -> float:
    """Return the effective rank of features whose variance has these shares."""
    singular = np.sqrt(p[p > 0])  # of any total
    singular = singular / singular.sum()
    return float(np.exp(-(singular * np.log(singular)).sum()))


def predicted_rank(q: Tensor, loss: str, dim: int, product: float) -> float:
    """Return the effective rank of z where `loss` is least, at a weight of w d = `product`: for
    Barlow Twins of standardised z, as its loss does not see the scale of a dimension."""
    eigenvalues = eigenfunctions(q, dim)[1].numpy()
    spectrum = vicreg_spectrum if loss == "VICReg" else barlow_spectrum
    return rank_of_shares(spectrum(eigenvalues, dim, product / dim))

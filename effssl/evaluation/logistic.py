"""Multinomial logistic regression for several penalties at once.

L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) runs for all penalties side by
side: one pass over x gives loss and gradient of every one. Its first guess of the inverse Hessian
is that of the Hessian at zero weights, S / classes + l2 with S the covariance of x (a bound of the
Hessian everywhere has the same shape: Boehning, Ann. Inst. Statist. Math. 44, 1992), so that
correlated dimensions cost no iterations. All are pure functions of tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HISTORY = 10  # steps that the inverse Hessian is made from
LOGITS = 2**21  # held at a time
_DECREASE = 1e-4  # part of the predicted decrease that a step must reach
_HALVINGS = 20
_MAX_ITERATIONS = 2000


def minimise(
    x: Tensor, y: Tensor, classes: int, l2: Tensor, *, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Find the W and b that minimise mean cross-entropy(x W' + b, y) + l2 / 2 |W|^2, for each l2.

    It is deterministic. Memory beyond x is about 30 times W, and `LOGITS`.

    Args:
        x: [n, dim], of mean 0 in every dimension.
        y: int64 [n].
        classes: how many y can name.
        l2: the penalties, [penalties], above 0.
        tolerance: a problem is solved once no entry of its gradient exceeds this (as in
            scikit-learn), no step decreases its loss any more, or 2000 steps are taken.

    Returns:
        W [penalties, classes, dim] and b [penalties, classes], in the type of x.
    """
    if len(x) <= x.shape[1]:  # the rows of W lie in the span of those of x: at most n dimensions
        basis, coordinates = torch.linalg.qr(x.T)  # [dim, n], [n, n]
        weight, bias = _minimise(coordinates.T.contiguous(), y, classes, l2, tolerance)
        return weight @ basis.T, bias
    return _minimise(x, y, classes, l2, tolerance)


class _Step(NamedTuple):
    """A step that was taken, from which the inverse Hessian is estimated."""

    moved: Tensor  # [penalties, classes, dim + 1]
    change: Tensor  # of the gradient
    inverse: Tensor  # 1 / their product, [penalties, 1, 1]


def _minimise(
    x: Tensor, y: Tensor, classes: int, l2: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    # The last column of w is the bias, which is not penalised; penalty: [penalties, 1, dim + 1].
    penalty = F.pad(l2.to(x)[:, None].expand(-1, x.shape[1]), (0, 1))[:, None]
    factor = _curvature_factor(x, penalty, classes)
    solved = x.new_zeros(len(l2), classes, x.shape[1] + 1)
    w = solved.clone()
    unsolved = torch.arange(len(l2), device=x.device)  # positions of the penalties not solved yet
    loss, gradient = _loss_and_gradient(w, x, y, penalty)
    steps: list[_Step] = []
    going = torch.ones_like(unsolved, dtype=torch.bool)
    for _ in range(_MAX_ITERATIONS):
        going &= gradient.abs().amax((1, 2)) > tolerance
        if not bool(going.all()):
            solved[unsolved[~going]] = w[~going]
            unsolved, w, loss, gradient, penalty, factor = (
                t[going] for t in (unsolved, w, loss, gradient, penalty, factor)
            )
            steps = [_Step._make(t[going] for t in step) for step in steps]
            if len(unsolved) == 0:
                break
        direction = -_inverse_hessian_times(gradient, steps, factor)
        slope = _dot(direction, gradient)
        length = torch.ones_like(loss, dtype=x.dtype)[:, None, None]
        rounding = 10 * torch.finfo(x.dtype).eps * loss.abs()
        for _ in range(_HALVINGS):
            new_loss, new_gradient = _loss_and_gradient(w + length * direction, x, y, penalty)
            going = new_loss <= loss + _DECREASE * (length * slope).flatten() + rounding
            if bool(going.all()):
                break
            length = torch.where(going[:, None, None], length, length / 2)
        moved, change = length * direction, new_gradient - gradient
        product = _dot(moved, change)
        steps = [*steps, _Step(moved, change, torch.where(product > 0, 1 / product, 0))][-HISTORY:]
        w, loss, gradient = w + moved, new_loss, new_gradient
    solved[unsolved] = w
    return solved[..., :-1], solved[..., -1]


def _loss_and_gradient(w: Tensor, x: Tensor, y: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss, float64 [penalties], and gradient at w [penalties, classes, dim + 1].

    It sums over images in parts of bounded memory.
    """
    penalties, classes, _ = w.shape
    flat = w.flatten(0, 1)
    weight, bias = flat[:, :-1].T, flat[:, -1]
    loss, gradient = w.new_zeros(penalties, dtype=torch.float64), torch.zeros_like(flat)
    rows = max(1, LOGITS // len(flat))
    for part, labels in zip(x.split(rows), y.split(rows), strict=True):
        log_p = torch.addmm(bias, part, weight).view(-1, penalties, classes).log_softmax(-1)
        own = labels[:, None, None].expand(-1, penalties, 1)
        right = log_p.gather(2, own)
        loss -= right.sum((0, 2), dtype=torch.float64)
        residual = log_p.exp_().scatter_(2, own, right.exp() - 1).view(-1, len(flat))
        gradient[:, :-1].addmm_(residual.T, part)
        gradient[:, -1] += residual.sum(0)
    loss = loss / len(x) + 0.5 * (penalty * w.square()).sum((1, 2), dtype=torch.float64)
    return loss, gradient.view_as(w) / len(x) + penalty * w


def _curvature_factor(x: Tensor, penalty: Tensor, classes: int) -> Tensor:
    """Return Cholesky factors [penalties, dim + 1, dim + 1] of the first guess of the Hessian.

    The guess is the same for every class.
    """
    covariance = F.pad((x.T @ x).double() / len(x), (0, 1, 0, 1))
    covariance[-1, -1] = 1.0
    # Rounding in x' x can leave eigenvalues below 0 that a small penalty does not lift.
    floor = 1e-6 * covariance.diagonal().mean() / classes
    ridge = torch.diag_embed(penalty[:, 0].double() + floor)
    return torch.linalg.cholesky(covariance / classes + ridge).to(x)


def _inverse_hessian_times(gradient: Tensor, steps: list[_Step], factor: Tensor) -> Tensor:
    """Return the direction of L-BFGS: the two loops of its algorithm."""
    q, projections = gradient, []
    for step in reversed(steps):
        projections.append(step.inverse * _dot(step.moved, q))
        q = q - projections[-1] * step.change
    q = _solve(q, factor)
    if steps:
        last = steps[-1]
        curvature = _dot(last.change, _solve(last.change, factor)) * last.inverse
        q = torch.where(curvature > 0, q / curvature, q)
    for step in steps:
        q = q + (projections.pop() - step.inverse * _dot(step.change, q)) * step.moved
    return q


def _solve(q: Tensor, factor: Tensor) -> Tensor:
    return torch.cholesky_solve(q.mT, factor).mT


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)

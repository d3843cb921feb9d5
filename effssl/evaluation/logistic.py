"""Multinomial logistic regression for several penalties, the strongest first.

Each is minimised by L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) from the
solution of the next stronger one. The first guess of the inverse Hessian is that of the Hessian's
blocks, one a class, where it begins, so that neither correlated dimensions nor separable classes
cost iterations. All are pure functions of tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HISTORY = 10  # steps that the inverse Hessian is made from
LOGITS = 2**21  # held at a time
BLOCKS = 2**31  # products that the Hessian's blocks may take; if it would be more, one serves all
DEAR = 100  # dimensions a class from which one block serves all penalties: it costs dozens of steps
_DECREASE = 1e-4  # part of the predicted decrease that a step must reach
_HALVINGS = 20
_MAX_ITERATIONS = 2000


def minimise(
    x: Tensor, y: Tensor, classes: int, penalties: tuple[float, ...], *, tolerance: float
) -> list[tuple[Tensor, Tensor]]:
    """Find the W and b that minimise mean cross-entropy(x W' + b, y) + l2 / 2 |W|^2, for each l2.

    It is deterministic. Memory beyond x is about 30 times W, and `LOGITS`.

    Args:
        x: [n, dim], of mean 0 in every dimension.
        y: int64 [n].
        classes: how many y can name.
        penalties: the values of l2, above 0, the strongest first.
        tolerance: a problem is solved once no entry of its gradient exceeds this part of the
            largest of l2 W, once a step would gain less than rounding hides, or after 2000 steps.
            A bound that does not follow l2 stops early if classes are separable: the gradient of
            the cross-entropy, which is -l2 W at the minimum, goes to 0 with l2 there.

    Returns:
        W [classes, dim] and b [classes] for each penalty, in the type of x.
    """
    basis, n = None, len(x)
    if n <= x.shape[1]:  # the rows of W lie in the span of those of x: at most n dimensions
        basis, coordinates = torch.linalg.qr(x.T)  # [dim, n], [n, n]
        x = coordinates.T.contiguous()
    w = x.new_zeros(classes, x.shape[1] + 1)  # its last column is the bias, which is not penalised
    is_shared = n * classes * w.shape[1] ** 2 > BLOCKS
    is_dear = is_shared and w.shape[1] > DEAR * classes
    blocks, solved = None, []
    for l2 in penalties:
        penalty = F.pad(x.new_full((x.shape[1],), l2), (0, 1))
        if blocks is None or not is_dear:
            blocks = _curvature(w, x, is_shared)
        w = _minimise(w, x, y, penalty, _factor(blocks, penalty), tolerance)
        weight = w[:, :-1] if basis is None else w[:, :-1] @ basis.T
        solved.append((weight, w[:, -1]))
    return solved


class _Step(NamedTuple):
    """A step that was taken, from which the inverse Hessian is estimated."""

    moved: Tensor  # [classes, dim + 1]
    change: Tensor  # of the gradient
    inverse: Tensor  # 1 / their product


def _minimise(
    w: Tensor, x: Tensor, y: Tensor, penalty: Tensor, factor: Tensor, tolerance: float
) -> Tensor:
    """Return the solution [classes, dim + 1] for penalty [dim + 1], beginning at w, with Cholesky
    factors of blocks like the Hessian's."""
    loss, gradient = _loss_and_gradient(w, x, y, penalty)
    steps: list[_Step] = []
    for _ in range(_MAX_ITERATIONS):
        if gradient.abs().max() <= tolerance * (penalty * w).abs().max():
            break
        direction = -_inverse_hessian_times(gradient, steps, factor)
        slope = _dot(direction, gradient)
        rounding = torch.finfo(x.dtype).eps * loss
        # A step gains about half of its slope; rounding averages out over images, in part.
        if -slope <= 0.01 * rounding:
            break
        length = 1.0
        for _ in range(_HALVINGS):
            new_loss, new_gradient = _loss_and_gradient(w + length * direction, x, y, penalty)
            if new_loss <= loss + _DECREASE * length * slope + 10 * rounding:
                break
            length /= 2
        else:
            break
        moved, change = length * direction, new_gradient - gradient
        product = _dot(moved, change)
        if product > 0:
            steps = [*steps, _Step(moved, change, 1 / product)][-HISTORY:]
        w, loss, gradient = w + moved, new_loss, new_gradient
    return w


def _loss_and_gradient(w: Tensor, x: Tensor, y: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, float64, and its gradient at w [classes, dim + 1].

    It sums over images in parts of bounded memory.
    """
    weight, bias = w[:, :-1].T, w[:, -1]
    loss, gradient = w.new_zeros((), dtype=torch.float64), torch.zeros_like(w)
    rows = max(1, LOGITS // len(w))
    for part, labels in zip(x.split(rows), y.split(rows), strict=True):
        log_p = torch.addmm(bias, part, weight).log_softmax(1)
        own = labels[:, None]
        right = log_p.gather(1, own)
        loss -= right.sum(dtype=torch.float64)
        residual = log_p.exp_().scatter_(1, own, right.expm1())
        gradient[:, :-1].addmm_(residual.T, part)
        gradient[:, -1] += residual.sum(0)
    loss = loss / len(x) + 0.5 * (penalty * w.square()).sum(dtype=torch.float64)
    return loss, gradient / len(x) + penalty * w


def _curvature(w: Tensor, x: Tensor, is_shared: bool) -> Tensor:
    """Return the Hessian's blocks at w without penalty, float64 [classes, dim + 1, dim + 1].

    A class's block is the mean of p (1 - p) x x' over images. If they are shared, the mean of all
    stands for each: [1, dim + 1, dim + 1].
    """
    classes, width = w.shape
    blocks = x.new_zeros(1 if is_shared else classes, width, width, dtype=torch.float64)
    for part in x.split(max(1, LOGITS // max(classes, width))):
        p = torch.addmm(w[:, -1], part, w[:, :-1].T).softmax(1)
        curvature = p * (1 - p)
        if is_shared:
            curvature = curvature.mean(1, keepdim=True)
        with_one = F.pad(part, (0, 1), value=1.0)
        for i, of_class in enumerate(curvature.T):
            blocks[i] += (with_one.T * of_class) @ with_one
    return blocks / len(x)


def _factor(blocks: Tensor, penalty: Tensor) -> Tensor:
    """Return Cholesky factors of blocks [n, dim + 1, dim + 1] with their penalty [dim + 1]."""
    blocks = blocks + torch.diag(penalty.double())
    # Rounding can leave eigenvalues below 0.
    floor = 1e-6 * blocks.diagonal(dim1=1, dim2=2).mean(1)
    return torch.linalg.cholesky(blocks + torch.diag_embed(floor[:, None].expand_as(blocks[:, 0])))


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
        q = q / curvature
    for step in steps:
        q = q + (projections.pop() - step.inverse * _dot(step.change, q)) * step.moved
    return q


def _solve(q: Tensor, factor: Tensor) -> Tensor:
    """Return each class's row of q times the inverse of its block, or of the block of all.

    What all classes share is taken out: it alters no prediction, so W and gradients sum to 0 over
    classes, and blocks that differ would else put in what the penalty alone takes out, slowly.
    """
    q64 = q.double()
    if len(factor) == 1:
        return torch.cholesky_solve(q64.mT, factor[0]).mT.to(q)
    solved = torch.cholesky_solve(q64[..., None], factor)[..., 0]
    return (solved - solved.mean(0)).to(q)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()

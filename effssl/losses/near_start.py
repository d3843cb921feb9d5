"""Staying near the weights that training starts from: the distance, and what weighs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B")
FISHER_BATCHES = 16  # that the information is estimated on


def distance_from_start(
    parameters: Sequence[Tensor], start: Sequence[Tensor], fisher: Sequence[Tensor] | None
) -> Tensor:
    """Compute sum_i F_i (theta_i - theta_0i)^2, a scalar.

    With the diagonal of the Fisher information for F it is the penalty of elastic weight
    consolidation (arXiv 1612.00796, eq. 3, without its 1/2), in self-supervised learning that of
    arXiv 2210.16365; with F = 1 it is L2-SP (arXiv 1802.01483).

    Args:
        parameters: theta.
        start: theta_0, of the same shapes.
        fisher: F, likewise; None is 1.
    """
    total = parameters[0].new_zeros(())
    for i, (parameter, before) in enumerate(zip(parameters, start, strict=True)):
        squares = (parameter - before).square()
        total = total + (squares if fisher is None else fisher[i] * squares).sum()
    return total


def diagonal_fisher(
    leave_gradients: Callable[[B], object], batches: Iterable[B], parameters: Sequence[nn.Parameter]
) -> list[Tensor]:
    """Estimate the diagonal of the Fisher information of a loss, scaled to a mean of 1.

    It is the mean over batches of the squared gradient of a batch's loss (the empirical Fisher
    information, of batches as these losses have none of an image by itself). Scaled, a weight of
    the penalty means as much as it does with F = 1.

    Args:
        leave_gradients: leaves the gradient of a batch's loss on the parameters.
        batches: what it is given; at least one.
        parameters: whose information it is; their gradients are removed.

    Raises:
        FloatingPointError: if the gradients are not finite, or all zero.
    """
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        leave_gradients(batch)
        for square, parameter in zip(squares, parameters, strict=True):
            if parameter.grad is not None:
                square.addcmul_(parameter.grad, parameter.grad)
            parameter.grad = None
    total = sum(float(s.sum(dtype=torch.float64)) for s in squares)
    mean = total / sum(s.numel() for s in squares)
    if not 0 < mean < math.inf:
        raise FloatingPointError("the gradients that weigh --keep are not finite, or all zero")
    return [s / mean for s in squares]

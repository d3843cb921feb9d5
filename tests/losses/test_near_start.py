import pytest
import torch
from torch import nn

from effssl.losses.near_start import diagonal_fisher, distance_from_start


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]


@pytest.mark.parametrize("is_weighed", [False, True])
def test_the_distance_is_the_weighted_sum_of_squares_and_so_is_its_gradient(is_weighed):
    now, start = [t.requires_grad_() for t in tensors(0)], tensors(1)
    fisher = [t.abs() for t in tensors(2)] if is_weighed else None
    distance = distance_from_start(now, start, fisher)
    factors = fisher or [torch.ones(3, 2), torch.ones(4)]
    each = [f * (a - b) ** 2 for f, a, b in zip(factors, now, start, strict=True)]
    torch.testing.assert_close(distance, each[0].sum() + each[1].sum())
    distance.backward()
    for f, a, b in zip(factors, now, start, strict=True):
        torch.testing.assert_close(a.grad, 2 * f * (a - b).detach())
    assert distance_from_start(start, start, fisher) == 0


def test_fisher_information_is_the_mean_squared_gradient_scaled_to_a_mean_of_1():
    layer = nn.Linear(2, 1)
    unused = nn.Parameter(torch.ones(3))
    batches = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])]
    weight, bias, none = diagonal_fisher(
        lambda x: layer(x).sum().backward(), batches, [layer.weight, layer.bias, unused]
    )
    # The squares are 5, 2, 1 and three times 0, their mean 4/3.
    torch.testing.assert_close(weight, torch.tensor([[5.0, 2.0]]) * 3 / 4)
    torch.testing.assert_close(bias, torch.tensor([0.75]))
    assert torch.equal(none, torch.zeros(3))
    assert layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_gradients_that_weigh_nothing_are_told(factor):
    layer = nn.Linear(2, 1)
    with pytest.raises(FloatingPointError, match="not finite, or all zero"):
        diagonal_fisher(
            lambda x: (factor * layer(x)).sum().backward(), [torch.ones(1, 2)], [layer.weight]
        )

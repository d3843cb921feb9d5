"""Convolutions of the smallest maps as matrix products: what nn.Conv2d gives, in another way."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from effssl.cli import parse
from effssl.image_config import Augment
from effssl.models import build_encoder
from effssl.models.small_maps import SmallMapConv2d, fast_on_small_maps
from effssl.optim import build_optimizer


def both(conv: nn.Module, x: torch.Tensor) -> list[list[torch.Tensor]]:
    """Return output and gradients of a network as it is, and after fast_on_small_maps."""
    results = []
    for net in (conv, fast_on_small_maps(copy.deepcopy(conv))):
        given = x.clone().requires_grad_()
        y = net(given)
        torch.manual_seed(1)
        (y * torch.randn(y.shape, dtype=y.dtype)).sum().backward()
        results.append([y.detach(), given.grad, *(p.grad for p in net.parameters())])
    return results


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (5, 5)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_the_convolution(stride, size, bias, memory_format):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride, padding=1, bias=bias).double().to(memory_format=memory_format)
    x = torch.randn(4, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    plain, fast = both(conv, x)
    for a, b in zip(plain, fast, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("is_taken", "conv"),
    [
        (True, nn.Conv2d(4, 4, 3, padding=1)),
        (True, nn.Conv2d(4, 4, 3, 2, padding=1)),
        (False, nn.Conv2d(4, 4, 1)),
        (False, nn.Conv2d(4, 4, 3)),
        (False, nn.Conv2d(4, 4, 3, padding="same")),
        (False, nn.Conv2d(4, 4, 3, 3, padding=1)),
        (False, nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        (False, nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
        (False, nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        (False, timm.layers.ScaledStdConv2d(4, 4, 3, padding=1)),
    ],
)
def test_other_convolutions_are_left_alone(is_taken, conv):
    assert isinstance(fast_on_small_maps(conv), SmallMapConv2d) is is_taken


@pytest.mark.parametrize("size", [8, 24, (8, 16)])
def test_an_encoder_trains_as_with_plain_convolutions(size):
    """The weights too after steps of a fused optimizer, which wants gradients laid out alike."""
    kwargs = "{channels: [4, 4, 8, 8], layers: [1, 1, 1, 1]}"
    cfg = parse(["--data", "digits", "--stem", "small-s2", "--backbone-kwargs", kwargs])
    after = []
    for is_plain in (True, False):
        encoder = build_encoder(cfg.model, Augment(image_size=size), 0).double()
        convs = [m for m in encoder.modules() if isinstance(m, SmallMapConv2d)]
        assert len(convs) == 9
        for conv in convs if is_plain else ():
            conv.__class__ = nn.Conv2d
        optimizer = build_optimizer(encoder, "sgd", lr=0.1, weight_decay=0.0)
        torch.manual_seed(0)
        for _ in range(3):
            x = torch.randn(6, 3, *((size, size) if isinstance(size, int) else size)).double()
            _, z = encoder(x.contiguous(memory_format=torch.channels_last))
            (z[:3] - z[3:]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        after.append(torch.cat([p.detach().flatten() for p in encoder.parameters()]))
    torch.testing.assert_close(*after, rtol=1e-9, atol=1e-10)


def test_the_faster_way_is_taken_on_the_smallest_maps_alone(monkeypatch):
    conv, seen = fast_on_small_maps(nn.Conv2d(2, 2, 3, padding=1)), []
    plain = nn.Conv2d._conv_forward
    monkeypatch.setattr(
        nn.Conv2d, "_conv_forward", lambda *args: (seen.append(args[1].shape[-1]), plain(*args))[1]
    )
    for side in (1, 2, 3, 8):
        conv(torch.randn(2, 2, side, side))
    assert seen == [3, 8]

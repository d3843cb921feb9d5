import pytest
import torch
from torch import nn

from effssl.probe import accuracy, fit_linear_probes
from effssl.representations import encode


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("training", [True, False])
def test_encode_uses_eval_mode_and_leaves_the_mode_as_it_was(training):
    net, x = backbone().train(training), torch.randn(7, 3, 8, 8)
    h = encode(net, iter(x.split(3)))
    assert all(module.training == training for module in net.modules())
    assert (net[1].running_mean == 0).all()
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, net.eval()(x).detach())


def test_encode_restores_the_mode_after_an_error():
    net = backbone()
    with pytest.raises(RuntimeError):
        encode(net, [torch.randn(2, 4, 8, 8)])
    assert net.training


def test_encode_in_bfloat16_is_near_and_gives_float32():
    net, x = backbone(), torch.randn(4, 3, 8, 8)
    exact, rounded = encode(net, [x]), encode(net, [x], dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_encoded_representations_can_be_probed():
    net, x, y = backbone(), torch.randn(40, 3, 8, 8), torch.arange(40) % 2
    h = encode(net, [x + 2 * y[:, None, None, None]])
    (probe,) = fit_linear_probes(h, y, 2, (1e-3,))
    assert accuracy(probe, h, y) == 1


def test_encode_leaves_frozen_parts_frozen():
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    backbone[1].eval()
    encode(backbone, [torch.zeros(2, 3, 2, 2)])
    assert [m.training for m in backbone] == [True, False, True]

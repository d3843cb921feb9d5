"""Muon: along orthogonal matrices, in float32 on CPUs, in a CUDA graph as outside."""

from __future__ import annotations

import inspect

import pytest
import torch
from timm.optim import Muon
from torch import nn

from effssl import muon
from effssl.optim import build_optimizer


def test_muon_steps_along_an_orthogonal_matrix_and_adamw_for_the_rest():
    net = nn.Sequential(nn.Conv2d(3, 6, 2), nn.BatchNorm2d(6))
    optimizer = build_optimizer(net, "muon", lr=0.1, weight_decay=0.0)
    before = [p.detach().clone() for p in net.parameters()]
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    steps = [(was - p.detach()) / 0.1 for p, was in zip(net.parameters(), before, strict=True)]
    u, _, v = torch.linalg.svd(net[0].weight.grad.flatten(1), full_matrices=False)
    nearest = 0.2 * 12**0.5 * (u @ v)  # as large as AdamW's: 0.2 a number, as a root mean square
    assert (steps[0].flatten(1) - nearest).norm() < 0.35 * nearest.norm()  # five iterations
    for step, p in zip(steps[1:], list(net.parameters())[1:], strict=True):
        assert torch.equal(step.sign(), p.grad.sign())
        assert 0.5 < step.abs().min() <= step.abs().max() < 2


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (8, 8), (8, 15), (1, 9)])
@pytest.mark.parametrize("spread", [0, -3])
def test_orthogonalised_as_timm_does(shape, spread):
    """Long matrices go another way, on their Gram matrix; singular values span 1 or 1000."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(*shape, dtype=torch.float64), full_matrices=False)
    matrix = u @ torch.logspace(0, spread, min(shape), dtype=torch.float64).diag() @ v
    coefficients = [(4.0, -6.0, 3.0), (3.4445, -4.775, 2.0315)]  # the last one is repeated
    ours = muon._orthogonalised(matrix.float(), 5, coefficients)
    exact = muon._newton_schulz(matrix, 5, coefficients, dtype=torch.float64)
    assert ours.shape == shape
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(
    "given", [{"eps": 2.0}, {"safety_factor": 1.5}, {"eps": 2.0, "scale_eps": True}]
)
def test_settings_of_other_uses_of_timms_muon_are_heeded(given):
    """The function is replaced for the whole process."""
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    matrix, coefficients = matrix / matrix.norm(), [(3.4445, -4.775, 2.0315)]
    ours = muon._orthogonalised(matrix, 2, coefficients, **given)
    exact = muon._newton_schulz(matrix, 2, coefficients, **given, dtype=torch.float64)
    plain = muon._newton_schulz(matrix, 2, coefficients, dtype=torch.float64)
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=1e-4)
    assert (exact - plain).abs().max() > 1e-2


def test_what_is_plain_is_what_timm_has_by_default():
    """Else the faster way would be taken by nobody."""
    for function in (muon._newton_schulz, Muon):
        parameters = inspect.signature(function).parameters
        assert {name: parameters[name].default for name in muon._PLAIN} == muon._PLAIN


def test_matrices_side_by_side_are_timms():
    """As timm's conv_mode has a convolution's, one for each tap."""
    weight = nn.Parameter(torch.zeros(40, 6, 3, 3))
    muon.build_muon([{"params": [nn.Parameter(torch.zeros(6, 40))]}], 0.1)
    optimizer = Muon([weight], lr=1.0, conv_mode="batched", adjust_lr_fn="original")
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    taps = weight.detach().flatten(2).permute(2, 0, 1)
    singular = torch.linalg.svdvals(taps / taps.norm(dim=(1, 2), keepdim=True)) * 6**0.5
    assert taps.shape == (9, 40, 6) and 0.5 < singular.min() <= singular.max() < 1.5


def test_muon_stays_finite_where_nothing_is_to_be_learned():
    net = nn.Sequential(nn.Linear(20, 3, bias=False), nn.Linear(3, 3, bias=False))
    optimizer = build_optimizer(net, "muon", lr=0.1, weight_decay=0.0)
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("width", [5, 50])
def test_muon_computes_in_float32_on_a_cpu(monkeypatch, width):
    """In bfloat16, as timm has it, a step would take ten times as long on most CPUs."""
    net, seen = nn.Linear(width, 4, bias=False), []
    optimizer = build_optimizer(net, "muon", lr=0.1, weight_decay=0.0)
    monkeypatch.setattr(
        torch,
        "addmm",
        lambda *args, _of=torch.addmm, **kw: (seen.append(args[0].dtype), _of(*args, **kw))[1],
    )
    net.weight.grad = torch.randn(4, width)
    optimizer.step()
    assert set(seen) == {torch.float32}

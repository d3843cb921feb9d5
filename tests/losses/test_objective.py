import pytest
import torch
from torch import nn

from effssl import InputError, losses
from effssl.config import Loss
from effssl.losses.objective import build_objective


def last_layer():
    torch.manual_seed(0)
    return nn.Linear(12, 12, bias=False)


def embeddings():
    return torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            Loss(method="vicreg"),
            lambda z: losses.vicreg(z, cov_weight=losses.cov_weight(12, 25.0)),
        ),
        (
            Loss(method="vicreg", inv_weight=5, var_weight=3, cov_weight=2),
            lambda z: losses.vicreg(z, inv_weight=5, var_weight=3, cov_weight=2),
        ),
        (
            Loss(method="barlow_twins"),
            lambda z: losses.barlow_twins(z, redundancy_weight=losses.redundancy_weight(12)),
        ),
        (
            Loss(method="barlow_twins", redundancy_weight=0.3, pairing="pooled", var_weight=2),
            lambda z: losses.barlow_twins(z, redundancy_weight=0.3, pairing="pooled", var_weight=2),
        ),
        (
            Loss(method="barlow_twins", redundancy_weight=0.3, pairing="authors"),
            lambda z: losses.barlow_twins_authors(z, redundancy_weight=0.3),
        ),
        (
            Loss(method="vicreg", pairing="authors", inv_weight=5, var_weight=3, cov_weight=2),
            lambda z: losses.vicreg_authors(z, inv_weight=5, var_weight=3, cov_weight=2),
        ),
        (
            Loss(method="simclr", temperature=0.4),
            lambda z: losses.simclr(z, temperature=0.4),
        ),
        (
            Loss(method="entropy_reconstruction", concentration=4),
            lambda z: losses.entropy_reconstruction(z, concentration=4),
        ),
    ],
)
def test_every_method_is_its_loss_with_the_weights_asked_for(settings, expected):
    objective = build_objective(settings, 12, last_layer())
    terms, named = objective(embeddings()), expected(embeddings())._asdict()
    assert terms.keys() == {"loss"} | {f"loss/{name}" for name in named if name != "loss"}
    for name, value in named.items():
        torch.testing.assert_close(terms["loss" if name == "loss" else f"loss/{name}"], value)


def test_weight_ortho_adds_the_penalty_of_the_last_layer_and_its_gradient():
    z, layer = embeddings(), last_layer()
    plain = build_objective(Loss(), 12, layer)
    terms = build_objective(Loss(weight_ortho=0.5), 12, layer)(z)
    penalty = losses.weight_orthogonality(layer.weight)
    torch.testing.assert_close(terms["loss/weight_ortho"], penalty)
    torch.testing.assert_close(terms["loss"], plain(z)["loss"] + 0.5 * penalty)
    terms["loss"].backward()
    assert layer.weight.grad.abs().max() > 0


def test_the_penalty_makes_the_last_layer_orthogonal():
    layer = torch.nn.Linear(8, 12, bias=False)
    optimizer = torch.optim.SGD([layer.weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        losses.weight_orthogonality(layer.weight).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.T @ layer.weight, torch.eye(8), atol=1e-3, rtol=0)


def test_weights_that_the_authors_do_not_give_are_one_line():
    loss = Loss(method="barlow_twins", redundancy_weight="authors")
    with pytest.raises(InputError, match="the authors give no weight of barlow_twins for 2 views"):
        build_objective(loss, 12, last_layer())


@pytest.mark.parametrize("method", ["vicreg", "simclr", "entropy_reconstruction"])
def test_a_pairing_that_a_method_lacks_is_an_error(method):
    with pytest.raises(ValueError, match=f"--pairing pooled: for {method} it is all"):
        Loss(method=method, pairing="pooled")

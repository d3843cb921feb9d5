import pytest
import torch

from effssl import cli
from effssl.evaluation.finished_run import build_encoder
from effssl.losses import functional as losses
from effssl.losses import objective
from effssl.models import backbones as models

ENCODER = ["--image-size", "8", "--backbone-kwargs", "{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}"]


def built(*flags):
    cfg = cli.parse([*ENCODER, "--proj-dim", "12", *flags])
    encoder = build_encoder(cfg)
    return objective.build(cfg, encoder), encoder


def embeddings():
    return torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--method", "vicreg"], lambda z: losses.vicreg(z, cov_weight=losses.cov_weight(12, 25.0))),
        (
            ["--method", "vicreg", "--inv-weight", "5", "--var-weight", "3", "--cov-weight", "2"],
            lambda z: losses.vicreg(z, inv_weight=5, var_weight=3, cov_weight=2),
        ),
        (
            ["--method", "barlow_twins"],
            lambda z: losses.barlow_twins(z, redundancy_weight=losses.redundancy_weight(12)),
        ),
        (
            ["--method", "barlow_twins", "--redundancy-weight", "0.3", "--pairing", "pooled", "--var-weight", "2"],
            lambda z: losses.barlow_twins(z, redundancy_weight=0.3, pairing="pooled", var_weight=2),
        ),
        (["--method", "simclr", "--temperature", "0.4"], lambda z: losses.simclr(z, temperature=0.4)),
        (
            ["--method", "entropy_reconstruction", "--concentration", "4"],
            lambda z: losses.entropy_reconstruction(z, concentration=4),
        ),
    ],
)
def test_every_method_is_its_loss_with_the_weights_asked_for(flags, expected):
    loss_of, _ = built(*flags)
    terms, named = loss_of(embeddings()), expected(embeddings())._asdict()
    assert terms.keys() == {"loss"} | {f"loss/{name}" for name in named if name != "loss"}
    for name, value in named.items():
        torch.testing.assert_close(terms["loss" if name == "loss" else f"loss/{name}"], value)


def test_weight_ortho_adds_the_penalty_of_the_last_layer_and_its_gradient():
    z = embeddings()
    plain, _ = built()
    loss_of, encoder = built("--weight-ortho", "0.5")
    terms = loss_of(z)
    penalty = losses.weight_orthogonality(encoder.projector[-1].weight)
    torch.testing.assert_close(terms["loss/weight_ortho"], penalty)
    torch.testing.assert_close(terms["loss"], plain(z)["loss"] + 0.5 * penalty)
    terms["loss"].backward()
    assert encoder.projector[-1].weight.grad.abs().max() > 0


def test_the_penalty_makes_the_last_layer_orthogonal():
    layer = torch.nn.Linear(8, 12, bias=False)
    optimizer = torch.optim.SGD([layer.weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        losses.weight_orthogonality(layer.weight).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight.T @ layer.weight, torch.eye(8), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("flags", "widths"),
    [
        ([], [12, 12]),
        (["--projector", "authors"], [12, 12]),
        (["--projector", "official"], [12, 12, 12]),
        (["--projector", "official", "--proj-layers", "1"], [12]),
        (["--proj-hidden-dim", "20", "--proj-layers", "4"], [20, 20, 20, 12]),
    ],
)
def test_named_projectors_and_their_changes(flags, widths):
    _, encoder = built(*flags)
    assert [m.out_features for m in encoder.projector if isinstance(m, torch.nn.Linear)] == widths


def test_the_projector_of_a_run_has_the_normalisation_asked_for():
    _, encoder = built("--proj-norm", "layer")
    assert isinstance(encoder.projector, models.Projector)
    assert isinstance(encoder.projector[1], torch.nn.LayerNorm)

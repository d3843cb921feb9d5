import itertools

import pytest
import torch
from torch import nn

from effssl import InputError
from effssl.models import create_backbone
from effssl.models.encoder import Encoder
from effssl.optim import build_optimizer, learning_rate, set_learning_rate

SCHEDULE = {"peak": 0.4, "final": 0.01, "warmup_steps": 10, "total_steps": 110}
NAMES = ["adamw", "muon", "lars", "sgd"]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_warmup_is_linear_and_ends_at_the_peak():
    rates = [learning_rate(step, **SCHEDULE) for step in range(11)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[9] == rates[10] == max(rates) == 0.4


def test_decay_is_half_a_cosine_to_the_final_value():
    assert learning_rate(35, **SCHEDULE) == pytest.approx(0.4 * (0.01 + 0.99 * (1 + 0.5**0.5) / 2))
    assert learning_rate(60, **SCHEDULE) == pytest.approx(0.4 * (0.01 + 0.99 / 2))
    assert learning_rate(110, **SCHEDULE) == learning_rate(500, **SCHEDULE) == pytest.approx(0.004)
    rates = [learning_rate(step, **SCHEDULE) for step in range(10, 111)]
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_a_linear_decay_falls_by_the_same_at_every_step():
    rates = [learning_rate(step, **SCHEDULE, decay="linear") for step in range(10, 112)]
    assert rates[0] == 0.4 and rates[100] == rates[101] == pytest.approx(0.004)
    falls = [a - b for a, b in itertools.pairwise(rates[:101])]
    assert falls == pytest.approx([0.00396] * 100)


@pytest.mark.parametrize(
    ("name", "kind", "further", "decay_of_norms"),
    [
        ("adamw", torch.optim.AdamW, {}, 0.0),
        ("adam", torch.optim.Adam, {}, 0.1),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}, 0.0),
    ],
)
def test_fused_steps_are_those_of_torch_one_by_one(name, kind, further, decay_of_norms):
    """In channels_last too, where gradients and moments have to lie in memory as the weights do."""
    images = torch.randn(3, 8, 3, 8, 8, dtype=torch.float64)

    def trained(build) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))
        net = net.double().to(memory_format=torch.channels_last)
        optimizer = build(net)
        for x in images:
            net(x.contiguous(memory_format=torch.channels_last)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    def one_by_one(net):
        matrices = {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.1}
        rest = [p for p in net.parameters() if p.ndim <= 1]
        groups = [matrices, {"params": rest, "weight_decay": decay_of_norms}]
        return kind(groups, lr=0.01, foreach=False, **further)

    fused = trained(lambda net: build_optimizer(net, name, lr=0.01, weight_decay=0.1))
    torch.testing.assert_close(fused, trained(one_by_one), rtol=1e-10, atol=1e-12)


def test_final_of_one_is_a_constant_rate():
    assert {learning_rate(step, **(SCHEDULE | {"final": 1.0})) for step in range(9, 200)} == {0.4}


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 5), (0, 0), (5, 5), (5, 3)])
def test_schedule_at_its_edges(warmup_steps, total_steps):
    rates = [
        learning_rate(s, peak=1.0, final=0.0, warmup_steps=warmup_steps, total_steps=total_steps)
        for s in range(9)
    ]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[max(0, warmup_steps - 1)] == 1.0


def test_adam_has_the_l2_term_of_the_authors_on_all_parameters():
    net, decay = model(), 0.02
    optimizer = build_optimizer(net, "adam", lr=0.1, weight_decay=decay)
    assert isinstance(optimizer, torch.optim.Adam)
    assert not isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {decay}
    # With a gradient of zero the L2 term is the gradient: Adam's first step is lr against its sign.
    before = [p.detach().clone() for p in net.parameters()]
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for p, was in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), was - 0.1 * was.sign(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_on_matrices_alone(name):
    net = model()
    net[3].bias.requires_grad_(False)
    optimizer = build_optimizer(net, name, lr=0.1, weight_decay=0.02)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    expected = {id(p): 0.02 if p.ndim > 1 else 0.0 for p in net.parameters() if p.requires_grad}
    assert decay == expected
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


@pytest.mark.parametrize(
    ("name", "lr"), [("adamw", 0.1), ("muon", 0.1), ("lars", 1.0), ("sgd", 0.01)]
)
def test_optimizer_lowers_a_quadratic(name, lr):
    torch.manual_seed(0)
    net, target = nn.Linear(4, 3), torch.linspace(-1, 1, 12).view(3, 4)
    optimizer = build_optimizer(net, name, lr=lr, weight_decay=1e-6)
    losses = []
    for _ in range(200):
        loss = (net.weight - target).square().sum() + (net.bias - 1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert torch.isfinite(net.weight).all()


def test_lars_adapts_matrices_alone():
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    optimizer = build_optimizer(net, "lars", lr=0.1, weight_decay=1e-6)
    weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
    net.weight.grad, net.bias.grad = torch.randn(3, 4), torch.randn(3)
    optimizer.step()
    torch.testing.assert_close(net.bias.detach(), bias - 0.1 * net.bias.grad)
    step = (weight - net.weight.detach()).norm()
    assert float(step) == pytest.approx(0.1 * 0.001 * float(weight.norm()), rel=0.01)


def test_lars_adapts_matrices_without_weight_decay_too():
    weight = torch.nn.Linear(4, 4)
    optimizer = build_optimizer(weight, "lars", lr=1.0, weight_decay=0.0)
    before = weight.weight.detach().clone()
    (weight(torch.ones(1, 4)).sum() * 1e6).backward()
    optimizer.step()
    # the step is a thousandth of the weights, however large the gradient
    assert (weight.weight.detach() - before).norm().item() == pytest.approx(
        1e-3 * before.norm().item(), rel=1e-3
    )


@pytest.mark.parametrize(
    ("name", "kwargs", "spared"),
    [
        (
            "vit_tiny_patch16_224",
            "{depth: 1, embed_dim: 16, num_heads: 2, reg_tokens: 2}",
            {"cls_token", "pos_embed", "reg_token"},
        ),
        ("levit_128s", "{depth: [1, 1, 1]}", {"attention_biases"}),
        ("swin_tiny_patch4_window7_224", "{depths: [1]}", {"relative_position_bias_table"}),
        ("resnet10t", "{}", set()),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_what_timm_spares_of_weight_decay_is_spared(name, kwargs, spared, alone):
    """Also if the backbone is a part of what is trained, where names are longer."""
    backbone = create_backbone(name, 224, kwargs=kwargs)
    trained = backbone if alone else Encoder(backbone, 4, 4, 2)
    decayed, not_decayed = build_optimizer(trained, "adamw", lr=1, weight_decay=1).param_groups
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (1, 0)
    name_of = {id(p): n for n, p in trained.named_parameters()}
    matrices = {name_of[id(p)] for p in not_decayed["params"] if p.ndim > 1}
    assert {n.split(".")[-1] for n in matrices} == spared
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(not_decayed["params"]) == len(name_of)


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_norms_have_a_rate_of_their_own_through_the_schedule(name):
    """The official recipe of Barlow Twins: 0.2 for weights, 0.0048 for the rest."""
    optimizer = build_optimizer(model(), name, lr=0.2, weight_decay=1e-6, lr_bias=0.0048)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.0048]
    for part in (1.0, 0.5, 0.0):
        set_learning_rate(optimizer, 0.2 * part)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.2 * part, 0.0048 * part])


def test_without_a_rate_of_their_own_biases_follow_the_schedule_to_the_bit():
    optimizer = build_optimizer(model(), "lars", lr=0.3, weight_decay=1e-6)
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


@pytest.mark.parametrize("name", [*NAMES, "adam"])
def test_each_layer_has_a_part_of_the_rate_of_the_layer_above(name):
    kwargs = "{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}"
    encoder = Encoder(create_backbone("resnet18", 32, kwargs=kwargs), 8, 4, 2)
    optimizer = build_optimizer(
        encoder, name, lr=0.1, weight_decay=1e-3, lr_bias=0.02, layer_decay=0.5
    )
    set_learning_rate(optimizer, 0.05)  # half of the peak
    names = {id(p): n for n, p in encoder.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    decays = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert rates.keys() == dict(encoder.named_parameters()).keys()
    of_weights = [f"backbone.layer{i}.0.conv1.weight" for i in (4, 3, 2, 1)]
    assert [rates[n] for n in of_weights] == pytest.approx([0.05, 0.025, 0.0125, 0.00625])
    assert rates["backbone.conv1.weight"] == pytest.approx(0.003125)
    assert rates["backbone.layer3.0.bn1.weight"] == pytest.approx(0.005)
    assert rates["projector.0.weight"] == rates["projector.3.weight"] == pytest.approx(0.05)
    assert decays["backbone.layer1.0.conv1.weight"] == 1e-3
    assert decays["backbone.layer1.0.bn1.bias"] == (1e-3 if name == "adam" else 0.0)


def test_a_step_of_a_lower_layer_is_as_much_shorter():
    net = create_backbone("resnet18", 32, kwargs="{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}")
    optimizer = build_optimizer(net, "sgd", lr=1.0, weight_decay=0.0, layer_decay=0.5)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    steps = {n: float((before[n] - p).detach().mean()) for n, p in net.named_parameters()}
    for name, step in (("layer4.0.bn2.weight", 1), ("layer2.0.conv1.weight", 0.25)):
        assert steps[name] == pytest.approx(step, rel=1e-5)


def test_layers_that_timm_does_not_know_are_refused():
    with pytest.raises(InputError, match="--layer-decay: timm does not say what the layers"):
        build_optimizer(model(), "sgd", lr=0.1, weight_decay=0.0, layer_decay=0.5)

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from effssl.probe import accuracy, best_linear_probe, encode, fit_linear_probe, knn_accuracy


def clusters(n, classes=4, dim=6, spread=1.5, seed=0):
    """Overlapping Gaussian clusters with their own scale and mean in every dimension."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, classes, (n,), generator=generator)
    h = centres[y] + spread * torch.randn(n, dim, generator=generator)
    return h * torch.logspace(-1, 1, dim) + 2, y


def brute_force_knn(train_h, train_y, eval_h, eval_y, k, temperature):
    def unit(h):
        h = h.double().numpy()
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    similarity = unit(eval_h) @ unit(train_h).T
    hits = 0
    for row, label in zip(similarity, eval_y.tolist(), strict=True):
        votes = np.zeros(int(train_y.max()) + 1)
        for neighbour in np.argsort(-row)[:k]:
            votes[train_y[neighbour]] += np.exp(row[neighbour] / temperature)
        hits += votes.argmax() == label
    return hits / len(eval_y)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (150, 0.02), (1000, 0.5)])
def test_knn_is_brute_force(k, temperature):
    train, evaluated = clusters(200), clusters(300, seed=1)
    actual = knn_accuracy(*train, *evaluated, k=k, temperature=temperature)
    assert actual == brute_force_knn(*train, *evaluated, k, temperature)
    assert 0.2 < actual < 0.99


def test_knn_in_chunks_is_knn_of_the_parts():
    train, (h, y) = clusters(8192), clusters(4200, seed=1)  # more than 2**25 similarities
    parts = [knn_accuracy(*train, h[part], y[part]) * len(y[part]) for part in (slice(3000), slice(3000, None))]
    assert knn_accuracy(*train, h, y) == pytest.approx(sum(parts) / 4200)


def test_knn_temperature_decides_the_vote():
    """One neighbour at similarity 1 against two at 0.8."""
    train_h = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    train_y, eval_h = torch.tensor([0, 1, 1]), torch.tensor([[5.0, 0.0]])
    for temperature, label in [(0.07, 0), (1.0, 1)]:
        assert knn_accuracy(train_h, train_y, eval_h, torch.tensor([label]), k=3, temperature=temperature) == 1


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_linear_probe_is_sklearns(l2):
    (h, y), (eval_h, eval_y) = clusters(300), clusters(300, seed=1)
    probe = fit_linear_probe(h, y, 4, l2)
    scaler = StandardScaler().fit(h.double().numpy())
    reference = LogisticRegression(C=1 / (len(h) * l2), tol=1e-8, max_iter=5000)
    reference.fit(scaler.transform(h.double().numpy()), y.numpy())
    np.testing.assert_allclose(probe.weight.numpy(), reference.coef_, atol=5e-3)
    centred = [b - b.mean() for b in (probe.bias.numpy(), reference.intercept_)]
    np.testing.assert_allclose(*centred, atol=5e-3)
    predicted = reference.predict(scaler.transform(eval_h.double().numpy()))
    assert (probe.logits(eval_h).argmax(1).numpy() == predicted).mean() > 0.99
    assert accuracy(probe, eval_h, eval_y) == pytest.approx((predicted == eval_y.numpy()).mean(), abs=0.01)


def test_linear_probe_does_not_depend_on_its_start():
    h, y = clusters(300)
    start = fit_linear_probe(h, y, 4, 1e-1)
    kept = start.weight.clone()
    warm, cold = fit_linear_probe(h, y, 4, 1e-3, start=start), fit_linear_probe(h, y, 4, 1e-3)
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-2)
    assert torch.equal(start.weight, kept)


def test_linear_probe_takes_a_constant_dimension_and_an_absent_class():
    h, y = clusters(100)
    h = torch.cat([h, torch.full((100, 1), 3.0)], dim=1)
    probe = fit_linear_probe(h, y, 6, 1e-3)
    assert probe.logits(h).isfinite().all()
    assert accuracy(probe, h, y) > 0.5


def test_accuracy_counts_the_largest_logit():
    probe = fit_linear_probe(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), 2, 1e-2)
    h = torch.tensor([[-1.0], [0.0], [2.0], [3.0]])
    assert accuracy(probe, h, torch.tensor([0, 1, 1, 1])) == 0.75


def test_penalty_is_chosen_on_validation():
    """The same training data with two validation sets: other draws want a strong penalty, itself a weak one."""
    train, validation = clusters(100, dim=50, spread=4), clusters(500, dim=50, spread=4, seed=1)
    grid = (1e-5, 0.3)
    for chosen_on, expected in [(validation, 0.3), (train, 1e-5)]:
        probe, reached = best_linear_probe(*train, *chosen_on, 4, grid)
        assert probe.l2 == expected
        assert reached == accuracy(probe, *chosen_on)
        assert reached > min(accuracy(fit_linear_probe(*train, 4, l2), *chosen_on) for l2 in grid)


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
    probe = fit_linear_probe(h, y, 2, 1e-3)
    assert accuracy(probe, h, y) == 1


def test_encode_leaves_frozen_parts_frozen():
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    backbone[1].eval()
    encode(backbone, [torch.zeros(2, 3, 2, 2)])
    assert [m.training for m in backbone] == [True, False, True]

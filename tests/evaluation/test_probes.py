import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from effssl.evaluation import logistic
from effssl.evaluation.probes import (
    L2_GRID,
    accuracy,
    best_linear_probe,
    best_of_grid,
    cross_validated,
    fit_linear_probes,
    is_end,
    knn_accuracy,
    standardisation,
    wilson_interval,
)


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


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (150, 0.02), (1000, 0.5)]
)
def test_knn_is_brute_force(k, temperature):
    train, evaluated = clusters(200), clusters(300, seed=1)
    actual = knn_accuracy(*train, *evaluated, k=k, temperature=temperature)
    assert actual == brute_force_knn(*train, *evaluated, k, temperature)
    assert 0.2 < actual < 0.99


def test_knn_in_chunks_is_knn_of_the_parts():
    train, (h, y) = clusters(8192), clusters(4200, seed=1)  # more than 2**25 similarities
    parts = [
        knn_accuracy(*train, h[part], y[part]) * len(y[part])
        for part in (slice(3000), slice(3000, None))
    ]
    assert knn_accuracy(*train, h, y) == pytest.approx(sum(parts) / 4200)


def test_knn_temperature_decides_the_vote():
    """One neighbour at similarity 1 against two at 0.8."""
    train_h = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    train_y, eval_h = torch.tensor([0, 1, 1]), torch.tensor([[5.0, 0.0]])
    for temperature, label in [(0.07, 0), (1.0, 1)]:
        assert (
            knn_accuracy(
                train_h, train_y, eval_h, torch.tensor([label]), k=3, temperature=temperature
            )
            == 1
        )


def sklearns(h, y, l2, **settings):
    """scikit-learn's solution in float64, and the standardised h that it was fitted on."""
    x = StandardScaler().fit_transform(h.double().numpy())
    return LogisticRegression(C=1 / (len(h) * l2), tol=1e-9, max_iter=10000, **settings).fit(
        x, y.numpy()
    ), x


def objective(weight, bias, x, y, l2):
    """Mean cross-entropy + l2 / 2 |W|^2, by NumPy in float64."""
    logits = x @ np.asarray(weight).T + np.asarray(bias)
    logits = logits - logits.max(1, keepdims=True)
    cross_entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return cross_entropy.mean() + l2 / 2 * (np.asarray(weight) ** 2).sum()


@pytest.mark.parametrize("n", [600, 30])  # more images than dimensions, and fewer
def test_a_grid_of_probes_has_sklearns_minima(n):
    h, y = clusters(n, dim=40, spread=3)
    h[:, 20:] += 5 * h[:, :20]  # correlated dimensions
    for probe in fit_linear_probes(h.double(), y, 4, L2_GRID[1::2], tolerance=1e-5):
        reference, x = sklearns(h, y, probe.l2)
        ours = objective(probe.weight, probe.bias, x, y.numpy(), probe.l2)
        assert ours == pytest.approx(
            objective(reference.coef_, reference.intercept_, x, y.numpy(), probe.l2), abs=1e-9
        )
        if (
            probe.l2 >= 1e-3
        ):  # below, scikit-learn stops where its loss no longer falls, up to 5e-3 away
            np.testing.assert_allclose(probe.weight.numpy(), reference.coef_, atol=2e-5)


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_linear_probe_is_sklearns(l2):
    (h, y), (eval_h, eval_y) = clusters(300), clusters(300, seed=1)
    (probe,) = fit_linear_probes(h, y, 4, (l2,))
    reference, _ = sklearns(h, y, l2)
    np.testing.assert_allclose(probe.weight.numpy(), reference.coef_, atol=5e-3)
    centred = [b - b.mean() for b in (probe.bias.numpy(), reference.intercept_)]
    np.testing.assert_allclose(*centred, atol=5e-3)
    scaler = StandardScaler().fit(h.double().numpy())
    predicted = reference.predict(scaler.transform(eval_h.double().numpy()))
    assert (probe.logits(eval_h).argmax(1).numpy() == predicted).mean() > 0.99
    assert accuracy(probe, eval_h, eval_y) == pytest.approx(
        (predicted == eval_y.numpy()).mean(), abs=0.01
    )


def test_the_chosen_probe_is_as_accurate_as_sklearns_chosen_one():
    """Same grid, same validation split; digits' pixels, and a test split that neither has seen."""
    digits = load_digits()
    h, y = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
    (train_h, val_h, test_h), (train_y, val_y, test_y) = (
        h.split([1000, 297, 500]),
        y.split([1000, 297, 500]),
    )
    probe, reached = best_linear_probe(train_h, train_y, val_h, val_y, 10)
    scaler = StandardScaler().fit(train_h.numpy())
    val_x, test_x = scaler.transform(val_h.numpy()), scaler.transform(test_h.numpy())
    fitted = [sklearns(train_h, train_y, l2)[0] for l2 in sorted(L2_GRID, reverse=True)]
    reference = max(fitted, key=lambda model: model.score(val_x, val_y.numpy()))
    assert reached == pytest.approx(reference.score(val_x, val_y.numpy()), abs=0.004)
    assert accuracy(probe, test_h, test_y) == pytest.approx(
        reference.score(test_x, test_y.numpy()), abs=0.003
    )


def test_a_probe_does_not_depend_on_the_others_of_its_grid(monkeypatch):
    h, y = clusters(300)
    together = fit_linear_probes(h, y, 4, L2_GRID[:5], tolerance=1e-3)
    for probe in together:
        (alone,) = fit_linear_probes(h, y, 4, (probe.l2,), tolerance=1e-3)
        torch.testing.assert_close(alone.weight, probe.weight, rtol=0, atol=1e-2)
    monkeypatch.setattr(logistic, "LOGITS", 400)  # sums over images in parts
    for whole, parts in zip(
        together, fit_linear_probes(h, y, 4, L2_GRID[:5], tolerance=1e-3), strict=True
    ):
        torch.testing.assert_close(parts.weight, whole.weight, rtol=0, atol=1e-2)


def test_a_tolerance_that_rounding_hides_ends_too():
    h, y = clusters(300)
    (probe,) = fit_linear_probes(h, y, 4, (1e-3,), tolerance=0.0)
    reference, _ = sklearns(h, y, 1e-3)
    np.testing.assert_allclose(probe.weight.numpy(), reference.coef_, atol=5e-3)


def test_linear_probe_takes_a_constant_dimension_and_an_absent_class():
    h, y = clusters(100)
    h = torch.cat([h, torch.full((100, 1), 3.0)], dim=1)
    (probe,) = fit_linear_probes(h, y, 6, (1e-3,))
    assert probe.logits(h).isfinite().all()
    assert accuracy(probe, h, y) > 0.5


@pytest.fixture(scope="module")
def pixels():
    """Digits' 64 pixels in [0, 1] and labels, in a fixed random order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(digits.data).float()[order] / 16, torch.from_numpy(digits.target)[order]


def sklearns_accuracy(fitted, evaluated, l2):
    (h, y), (eval_h, eval_y) = fitted, evaluated
    reference, _ = sklearns(h, y, l2, solver="newton-cg")
    x = StandardScaler().fit(h.double().numpy()).transform(eval_h.double().numpy())
    return reference.score(x, eval_y.numpy())


@pytest.mark.parametrize("offset", [0.0, 3.0, 0.1])
def test_what_is_constant_on_the_fitted_images_does_not_drown_the_rest(offset):
    """The dimension is 3 or 0.1 on all fitted images, but for rounding, and varies on others."""
    (h, y), (eval_h, eval_y) = clusters(300, spread=0.3), clusters(300, spread=0.3, seed=1)
    constant = torch.full((300, 1), offset)
    constant[::7] *= 1 + 1e-7
    varied = offset + torch.randn(300, 1, generator=torch.Generator().manual_seed(2))
    (probe,) = fit_linear_probes(torch.cat([h, constant], 1), y, 4, (1e-3,))
    without = accuracy(fit_linear_probes(h, y, 4, (1e-3,))[0], eval_h, eval_y)
    assert without > 0.95
    reached = accuracy(probe, torch.cat([eval_h, varied], 1), eval_y)
    assert reached == pytest.approx(without, abs=0.01)


def test_dimensions_that_are_constant_or_small_have_scikit_learns_scale(pixels):
    h = pixels[0][:100]
    assert (h.std(0) == 0).any()
    mean, std = standardisation(h)
    scaler = StandardScaler().fit(h.double().numpy())
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(std, scaler.scale_, rtol=1e-5)
    small = standardisation(1e-12 * h)[1]
    torch.testing.assert_close(small[h.std(0) > 0], 1e-12 * std[h.std(0) > 0], rtol=1e-5, atol=0)


def test_few_images_with_constant_pixels_are_probed_as_by_scikit_learn(pixels):
    h, y = pixels
    fitted, evaluated = (h[:100], y[:100]), (h[100:], y[100:])
    for probe in fit_linear_probes(*fitted, 10, L2_GRID[:5]):
        expected = sklearns_accuracy(fitted, evaluated, probe.l2)
        assert accuracy(probe, *evaluated) == pytest.approx(expected, abs=0.0025), probe.l2


@pytest.mark.parametrize("count", [60, 1000])  # fewer images than dimensions, and more
def test_weak_penalties_are_solved_too_if_classes_are_separable(pixels, count):
    """A gradient below 1e-4 came long before the minimum: 5 points below scikit-learn's."""
    h, y = pixels
    fitted, evaluated = (h[:count], y[:count]), (h[1000:], y[1000:])
    for probe in fit_linear_probes(*fitted, 10, (1e-3, 1e-5, 1e-6)):
        reference, x = sklearns(*fitted, probe.l2, solver="newton-cg")
        ours = objective(probe.weight.double(), probe.bias, x, y[:count].numpy(), probe.l2)
        best = objective(reference.coef_, reference.intercept_, x, y[:count].numpy(), probe.l2)
        assert ours == pytest.approx(best, rel=2e-3), probe.l2
        expected = sklearns_accuracy(fitted, evaluated, probe.l2)
        assert accuracy(probe, *evaluated) == pytest.approx(expected, abs=0.004), probe.l2


@pytest.mark.parametrize("dear", [logistic.DEAR, 0])  # 0: for all penalties, too
def test_one_block_for_all_classes_finds_the_same_minima(monkeypatch, dear):
    h, y = clusters(300, dim=20)
    apart = fit_linear_probes(h.double(), y, 4, L2_GRID[:4], tolerance=1e-4)
    monkeypatch.setattr(logistic, "BLOCKS", 0)
    monkeypatch.setattr(logistic, "DEAR", dear)
    shared = fit_linear_probes(h.double(), y, 4, L2_GRID[:4], tolerance=1e-4)
    for one, other in zip(apart, shared, strict=True):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-4)


def test_a_single_class_ends():
    (probe,) = fit_linear_probes(torch.randn(20, 3), torch.zeros(20, dtype=torch.int64), 2, (1e-3,))
    assert (probe.logits(torch.randn(5, 3)).argmax(1) == 0).all()


def test_the_best_of_a_grid_is_an_end_only_where_that_is_better():
    nan = float("nan")
    assert best_of_grid([0.9, 0.8, 0.8]) == 0
    assert best_of_grid([0.9, 0.9, 0.8, 0.9]) == 1
    assert best_of_grid([0.7, 0.8, 0.8, 0.9]) == 3
    assert best_of_grid([0.5, 0.5]) == 0
    assert best_of_grid([0.5, nan, 0.6, nan]) == 2
    assert is_end(1.0) and is_end(1e-6) and not is_end(1e-3)
    assert not is_end(1e-3, (1e-3,))  # one penalty is no choice


def test_cross_validation_counts_what_was_not_fitted_on():
    h, y = clusters(60, dim=10)
    fold = torch.arange(60) % 3
    hits = [0, 0]
    for number in range(3):
        rest = fold != number
        for i, probe in enumerate(fit_linear_probes(h[rest], y[rest], 4, (1.0, 1e-2))):
            hits[i] += accuracy(probe, h[~rest], y[~rest]) * int((~rest).sum())
    reached = cross_validated(h, y, 4, (1.0, 1e-2), fold)
    assert reached == pytest.approx([hit / 60 for hit in hits], abs=0.02)


def test_knn_of_a_representation_of_length_0_is_a_number():
    """A cosine with 0 is 0 by torch's normalize: such an image is near to none, and counts."""
    h, y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 2])
    assert knn_accuracy(h, y, h[1:], y[1:], k=1) == 1
    assert knn_accuracy(h, y, 1e-6 * h[1:], y[1:], k=1) == 1
    assert 0 <= knn_accuracy(h, y, h[:1], y[:1]) <= 1


def test_accuracy_counts_the_largest_logit():
    (probe,) = fit_linear_probes(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), 2, (1e-2,))
    h = torch.tensor([[-1.0], [0.0], [2.0], [3.0]])
    assert accuracy(probe, h, torch.tensor([0, 1, 1, 1])) == 0.75


def test_penalty_is_chosen_on_validation():
    """Two validation sets: other draws want a strong penalty, the training data a weak one."""
    train, validation = clusters(100, dim=50, spread=4), clusters(500, dim=50, spread=4, seed=1)
    grid = (1e-5, 0.3)
    for chosen_on, expected in [(validation, 0.3), (train, 1e-5)]:
        probe, reached = best_linear_probe(*train, *chosen_on, 4, grid)
        assert probe.l2 == expected
        assert reached == accuracy(probe, *chosen_on)
        assert reached > min(
            accuracy(each, *chosen_on) for each in fit_linear_probes(*train, 4, grid)
        )


def test_top_5_counts_the_five_largest_logits():
    h, y = clusters(400, classes=8)
    (probe,) = fit_linear_probes(h, y, 8, (1e-2,))
    order = (-probe.logits(h)).argsort(1).tolist()
    for top in (1, 5, 8, 20):
        assert (
            accuracy(probe, h, y, top=top)
            == sum(label in row[:top] for row, label in zip(order, y.tolist(), strict=True)) / 400
        )
    assert accuracy(probe, h, y) < accuracy(probe, h, y, top=5) < 1


def test_wilson_interval_is_the_published_one():
    """Newcombe, Statistics in Medicine 17 (1998), table I, and SciPy."""
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    for correct, n in [(0, 10), (3, 10), (5802, 10000), (10, 10)]:
        expected = binomtest(correct, n).proportion_ci(method="wilson")
        assert wilson_interval(correct / n, n) == pytest.approx(
            (expected.low, expected.high), abs=1e-6
        )

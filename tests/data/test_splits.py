import numpy as np
import pytest

from effssl.data.splits import (
    HELD_OUT,
    batch_ends,
    class_balanced,
    epoch_order,
    folds,
    of_all,
    own_part,
    per_class,
    train_and_validation,
)

SIZES = {0: 100, 1: 40, 2: 7}


def labels(unlabelled=0):
    y = np.repeat([*SIZES, -1], [*SIZES.values(), unlabelled])
    return np.random.default_rng(0).permutation(y)


def counts(y):
    return dict(zip(*(part.tolist() for part in np.unique(y, return_counts=True)), strict=True))


def assert_sorted_positions(positions, n):
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()
    assert ((positions >= 0) & (positions < n)).all()


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.0, {}),
        (0.1, {0: 10, 1: 4, 2: 1}),
        (0.5, {0: 50, 1: 20, 2: 4}),
        (0.62, {0: 62, 1: 25, 2: 4}),
        (1.0, SIZES),
    ],
)
def test_class_balanced_takes_the_same_part_of_every_class(fraction, expected):
    y = labels()
    positions = class_balanced(y, fraction, seed=1)
    assert counts(y[positions]) == expected
    assert_sorted_positions(positions, len(y))


def test_class_balanced_takes_unlabelled_as_a_class():
    y = labels(unlabelled=50)
    assert counts(y[class_balanced(y, 0.2, seed=1)]) == {-1: 10, 0: 20, 1: 8, 2: 1}


@pytest.mark.parametrize(
    ("count", "expected"), [(0, {}), (5, {0: 5, 1: 5, 2: 5}), (20, {0: 20, 1: 20, 2: 7})]
)
def test_per_class_takes_as_many_of_every_class(count, expected):
    y = labels(unlabelled=50)
    positions = per_class(y, count, seed=1)
    assert counts(y[positions]) == expected
    assert_sorted_positions(positions, len(y))


@pytest.mark.parametrize(
    "split", [lambda y, seed: class_balanced(y, 0.3, seed), lambda y, seed: per_class(y, 5, seed)]
)
def test_choice_is_by_seed_alone(split):
    y = labels()
    np.random.seed(0)
    first = split(y, 1)
    np.random.seed(1)
    np.testing.assert_array_equal(split(y, 1), first)
    assert not np.array_equal(split(y, 2), first)


def test_choice_is_random_within_a_class():
    y = np.zeros(1000, dtype=np.int64)
    positions = class_balanced(y, 0.5, seed=0)
    assert 450 < positions.mean() < 550
    assert 200 < (positions < 500).sum() < 300


@pytest.mark.parametrize("unlabelled", [0, 50])
def test_validation_is_the_same_for_every_fraction(unlabelled):
    y = labels(unlabelled)
    whole, validation = train_and_validation(y, 0.1, 1.0, seed=5)
    assert counts(y[validation]) == {0: 10, 1: 4, 2: 1}
    np.testing.assert_array_equal(np.sort(np.concatenate([whole, validation])), np.arange(len(y)))
    for fraction in (0.25, 0.5):
        train, again = train_and_validation(y, 0.1, fraction, seed=5)
        np.testing.assert_array_equal(again, validation)
        assert not np.intersect1d(train, validation).size
        expected = {label: round(fraction * count) for label, count in counts(y[whole]).items()}
        assert counts(y[train]) == expected
        assert_sorted_positions(train, len(y))


def test_split_is_by_seed_alone():
    y = labels(unlabelled=50)
    first, other = (
        train_and_validation(y, 0.2, 0.5, seed=0),
        train_and_validation(y, 0.2, 0.5, seed=1),
    )
    for a, b, c in zip(first, train_and_validation(y, 0.2, 0.5, seed=0), other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    without = [train_and_validation(y, 0.0, 0.5, seed)[0] for seed in (0, 1)]
    assert not np.array_equal(*without)


def test_of_nothing_labelled_some_images_are_held_out_and_never_many():
    train, validation = train_and_validation(np.full(40, -1), 0.2, 0.5, seed=0)
    assert (len(train), len(validation)) == (16, 8)
    assert not np.intersect1d(train, validation).size
    assert_sorted_positions(validation, 40)
    train, validation = train_and_validation(np.full(100 * HELD_OUT, -1), 0.2, 1.0, seed=0)
    assert (len(train), len(validation)) == (99 * HELD_OUT, HELD_OUT)
    assert len(per_class(np.full(40, -1), 5, seed=0)) == 0


def test_epoch_order_is_a_permutation_by_seed_and_epoch():
    positions = np.arange(100, 400, 3)
    orders = {
        (seed, epoch): epoch_order(positions, seed, epoch)
        for seed in range(3)
        for epoch in range(3)
    }
    assert len({tuple(order) for order in orders.values()}) == 9
    for key, order in orders.items():
        np.testing.assert_array_equal(np.sort(order), positions)
        np.testing.assert_array_equal(epoch_order(positions, *key), order)
    np.testing.assert_array_equal(positions, np.arange(100, 400, 3))


@pytest.mark.parametrize("first_step", [0, 2])
def test_processes_see_disjoint_parts_of_every_batch(first_step):
    order = epoch_order(np.arange(100, 147), seed=0, epoch=3)
    ends = batch_ends(47, 12, drop_last=True, fewest=4)
    parts = [own_part(order, ends, first_step, rank, 4).reshape(-1, 3) for rank in range(4)]
    for step in range(3 - first_step):
        batch = order[12 * (first_step + step) :][:12]
        assert sorted(np.concatenate([part[step] for part in parts])) == sorted(batch)
    assert all(len(part) == 3 - first_step for part in parts)  # the last 11 make no whole batch
    assert own_part(order, ends, 1, 0, 1).tolist() == order[12:36].tolist()


def test_the_last_smaller_batch_is_kept_if_it_can_be_trained_on():
    order = epoch_order(np.arange(47), seed=0, epoch=3)
    ends = batch_ends(47, 12, drop_last=False, fewest=4)
    assert ends.tolist() == [12, 24, 36, 47]
    parts = [own_part(order, ends, 1, rank, 4) for rank in range(4)]
    assert [len(part) for part in parts] == [9, 9, 9, 8]
    assert sorted(np.concatenate(parts)) == sorted(order[12:])
    too_small = {(48, 2): [12, 24, 36, 48], (49, 2): [12, 24, 36, 48], (51, 4): [12, 24, 36, 48]}
    for (num_images, fewest), expected in too_small.items():
        assert batch_ends(num_images, 12, False, fewest).tolist() == expected


def test_all_images_are_as_many_of_every_class():
    labels = np.repeat([0, 1, -1], [40, 60, 10])
    np.testing.assert_array_equal(of_all(labels, 1.0, seed=0), np.arange(110))
    half = of_all(labels, 0.5, seed=0)
    assert np.bincount(labels[half] + 1).tolist() == [5, 20, 30]
    assert not np.array_equal(half, of_all(labels, 0.5, seed=1))


@pytest.mark.parametrize("count", [2, 5])
def test_folds_are_even_in_all_and_in_every_class(count):
    y = labels()
    fold = folds(y, count, seed=0)
    assert set(fold.tolist()) == set(range(count))
    for part in (fold, *(fold[y == label] for label in SIZES)):
        sizes = np.bincount(part, minlength=count)
        assert sizes.max() - sizes.min() <= 1
    assert (folds(y, count, seed=0) == fold).all() and (folds(y, count, seed=1) != fold).any()

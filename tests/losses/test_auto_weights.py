import math

import pytest

from effssl.config import Loss
from effssl.losses import redundancy_weight
from effssl.losses.auto_weights import decorrelation_weight, resolve


def test_redundancy_weight_follows_the_published_ones():
    published = {
        64: 0.04,
        128: 0.04,
        256: 0.02,
        512: 0.01,
        1024: 0.001,
        2048: 0.001,
        4096: 0.0004,
        8192: 0.0008,
    }
    errors = [math.log(redundancy_weight(dim) / weight) for dim, weight in published.items()]
    assert abs(sum(errors) / len(errors)) < 0.2
    assert max(map(abs, errors)) < math.log(3.5)
    assert redundancy_weight(512) == pytest.approx(redundancy_weight(256) / 2)


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (Loss(method="vicreg"), (25, 40 * 25 / 64, 3.4 / 64)),
        (Loss(method="vicreg", inv_weight=2.0, var_weight=3), (3, 40 * 2 / 64, 3.4 / 64)),
        (Loss(method="barlow_twins"), (0, 40 * 25 / 64, 3.4 / 64)),
        (Loss(var_weight=0.5, cov_weight=0.25, redundancy_weight=2), (0.5, 0.25, 2)),
    ],
)
def test_auto_becomes_the_rule_and_numbers_stay(loss, weights):
    resolved = resolve(loss, 64)
    assert (resolved.var_weight, resolved.cov_weight, resolved.redundancy_weight) == weights
    assert resolve(resolved, 128) == resolved


@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        (Loss(method="vicreg"), 40 / 64),
        (Loss(method="vicreg", inv_weight=2.0, cov_weight=3), 1.5),
        (Loss(method="vicreg", inv_weight=0.0), None),
        (Loss(method="barlow_twins"), 3.4 / 64),
        (Loss(method="barlow_twins", redundancy_weight=0.1), 0.1),
        (Loss(method="simclr"), None),
        (Loss(method="entropy_reconstruction"), None),
    ],
)
def test_the_weight_of_decorrelation_is_that_against_the_invariance(loss, weight):
    assert decorrelation_weight(loss, 64) == weight


@pytest.mark.parametrize(
    ("method", "views", "part", "dim", "weight"),
    [
        ("barlow_twins", 2, 1.0, 256, 0.02),
        ("barlow_twins", 2, 1.0, 8192, 0.0008),
        ("barlow_twins", 4, 1.0, 256, 0.01),
        ("barlow_twins", 8, 0.25, 256, 0.006),
        ("vicreg", 2, 1.0, 256, 25 / 25),
        ("vicreg", 2, 1.0, 8192, 25 / 800),
        ("vicreg", 4, 0.5, 256, 25 / 5),
    ],
)
def test_authors_are_the_published_weights_by_views_part_and_width(
    method, views, part, dim, weight
):
    loss = Loss(method=method, cov_weight="authors" if method == "vicreg" else "auto")
    if method == "barlow_twins":
        loss = Loss(method=method, redundancy_weight="authors")
    resolved = resolve(loss, dim, views=views, part=part)
    name = "cov_weight" if method == "vicreg" else "redundancy_weight"
    assert getattr(resolved, name) == pytest.approx(weight)


def test_a_weight_that_the_method_does_not_have_is_not_looked_up():
    loss = Loss(method="vicreg", redundancy_weight="authors")
    assert resolve(loss, 100, views=16).cov_weight == pytest.approx(40 * 25 / 100)
    assert resolve(Loss(method="barlow_twins", cov_weight="authors"), 100, views=16)


def test_what_the_authors_do_not_give_is_an_error_that_lists_what_they_do():
    with pytest.raises(ValueError, match=r"for 16 views, 100% .* width 256; .*4 views, 50%"):
        resolve(Loss(method="barlow_twins", redundancy_weight="authors"), 256, views=16)

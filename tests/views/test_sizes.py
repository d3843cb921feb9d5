"""Views of several sizes: the schedule of growing views, and how small views are made."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

import pytest

from effssl.image_config import Augment, Sizes
from effssl.views.sizes import growing_sizes, size_at, small_group, with_shorter_side


@pytest.mark.parametrize(
    ("image_size", "sizes", "expected"),
    [
        (32, Sizes(), [32]),
        (32, Sizes(first_size=16), [16, 20, 24, 28, 32]),
        (32, Sizes(first_size=16, grow_by=8), [16, 24, 32]),
        (32, Sizes(first_size=20, grow_by=8), [20, 28, 32]),
        (224, Sizes(first_size=128, grow_by=32), [128, 160, 192, 224]),
        (8, Sizes(first_size=8), [8]),
        ((24, 40), Sizes(first_size=12, grow_by=6), [(12, 20), (18, 30), (24, 40)]),
        ((40, 24), Sizes(first_size=9, grow_by=15), [(15, 9), (40, 24)]),
    ],
)
def test_sizes_grow_from_the_first_to_that_of_the_views(image_size, sizes, expected):
    assert growing_sizes(image_size, sizes) == expected


@pytest.mark.parametrize("total_steps", [10, 1000])
def test_each_size_but_the_last_has_as_many_steps(total_steps):
    sizes = [size_at(step, total_steps, [16, 20, 24, 28, 32], 0.8) for step in range(total_steps)]
    assert sizes == sorted(sizes)
    assert Counter(sizes) == dict.fromkeys([16, 20, 24, 28, 32], total_steps // 5)


def test_without_growth_all_steps_have_one_size():
    assert {size_at(step, 7, [32], 0.5) for step in range(7)} == {32}


def test_growth_over_all_steps_never_has_the_last_size():
    assert [size_at(step, 4, [16, 24, 32], 1.0) for step in range(4)] == [16, 16, 24, 24]


def test_small_views_are_made_as_the_others_but_for_size_and_crops():
    augment = Augment(views=3, image_size=(24, 40), hue=0.3)
    small = small_group(augment, Sizes(small_views=5, small_size=9, small_crop_scale=(0.1, 0.2)))
    assert small == replace(augment, views=5, image_size=(9, 15), crop_scale=(0.1, 0.2))
    changed = {k for k, v in asdict(small).items() if v != asdict(augment)[k]}
    assert changed == {"views", "image_size", "crop_scale"}


def test_a_small_view_has_half_the_side_if_none_is_given_and_8_px_at_least():
    of = {side: small_group(Augment(image_size=side), Sizes(small_views=1)) for side in (8, 12, 96)}
    assert {side: small.image_size for side, small in of.items()} == {8: 8, 12: 8, 96: 48}
    assert small_group(Augment(), Sizes()) is None


def test_a_size_keeps_its_shape():
    assert with_shorter_side(32, 20) == 20
    assert with_shorter_side((48, 32), 16) == (24, 16)

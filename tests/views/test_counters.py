import numba
import numpy as np
import pytest
import torch
from scipy import stats

from effssl.views import counters
from effssl.views.counters import NUM_SLOTS, uniform
from effssl.views.decode_crops import view_key


def max_correlation(columns):
    """Largest absolute correlation between two different rows."""
    correlation = np.corrcoef(columns)
    return np.abs(correlation - np.eye(len(columns))).max()


def test_uniform_is_uniform():
    u = uniform(torch.arange(20_000), num_views=2, seed=0, epoch=0)
    assert u.shape == (2, 20_000, NUM_SLOTS)
    assert 0 <= u.min() < u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_uniform_is_independent_across_all_that_it_depends_on():
    parts = [
        uniform(torch.arange(first, first + 4_000), num_views=3, seed=seed, epoch=epoch)
        for first in (0, 1)
        for seed in range(3)
        for epoch in range(3)
    ]
    columns = (
        torch.stack(parts).transpose(-1, -2).flatten(0, 2)
    )  # [first seed epoch view slot, index]
    assert max_correlation(columns.numpy()) < 6 / 4_000**0.5


@pytest.mark.parametrize(
    ("seed", "epoch", "index"), [(0, 0, 0), (1, 2, 3), (2**31, 999, 2**40), (-5, 0, 1)]
)
def test_uniform_is_chained_splitmix64(seed, epoch, index):
    def mix(x):
        x %= 1 << 64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
        x = (x ^ x >> 27) * 0x94D049BB133111EB % (1 << 64)
        return x ^ x >> 31

    golden = 0x9E3779B97F4A7C15
    sample = mix(mix(mix(seed) + epoch * golden) + index * golden)
    slots = range(1, NUM_SLOTS + 1)
    expected = [
        [(mix(mix(sample + v * golden) + s * golden) >> 40) / 2**24 for s in slots] for v in (1, 2)
    ]
    u = uniform(torch.tensor([index]), num_views=2, seed=seed, epoch=epoch)
    assert u[:, 0].tolist() == expected


@numba.njit
def compiled_uniform(seed, epoch, index, view, slot):
    key = view_key(seed, epoch, index, view)
    return np.float32(counters.upper_24_bits(counters.next_key(key, slot + 1))) * np.float32(
        counters.UNIT
    )


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (3, 7), (2**63 - 1, 10**6)])
def test_numba_draws_the_same_numbers(seed, epoch):
    expected = uniform(torch.arange(5), num_views=3, seed=seed, epoch=epoch)
    for index, view, slot in np.ndindex(5, 3, NUM_SLOTS):
        assert (
            compiled_uniform(seed, epoch, index, view, slot) == expected[view, index, slot].item()
        )


def test_every_slot_decides_one_thing():
    others = {"NUM_SLOTS", "CROP_ATTEMPTS", "UNIT"}
    slots = [
        value
        for name, value in vars(counters).items()
        if name[0].isalpha() and name.isupper() and name not in others
    ]
    assert len(set(slots)) == len(slots)
    of_attempts = 2 * counters.CROP_ATTEMPTS
    assert sorted(slot for slot in slots if slot >= of_attempts) == list(
        range(of_attempts, NUM_SLOTS)
    )

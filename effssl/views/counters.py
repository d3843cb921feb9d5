"""The random numbers of every view, as a function of (seed, epoch, sample, view, slot) alone.

A chain of splitmix64 finalisers (Steele, Lea and Flood, OOPSLA 2014) over these five counters: the
numbers depend neither on the device, nor on the batch, nor on the number of workers. The functions
of the chain stand here once and are used twice: on int64 tensors (draws.py), and compiled by numba
where JPEGs are decoded (decode_crops.py). Both wrap around at 64 bits, as the generator wants.
"""

from __future__ import annotations

import torch
from numba.extending import register_jitable
from torch import Tensor

CROP_ATTEMPTS = 10  # at a random crop that fits, as in torchvision

# The slots: what each number of a view decides.
CROP_AREA, CROP_RATIO = 0, 1  # of the first attempt; those of attempt a lie 2 a further
CROP_TOP = 2 * CROP_ATTEMPTS
CROP_LEFT = CROP_TOP + 1
FLIP = CROP_TOP + 2
JITTER = CROP_TOP + 3  # whether colours change at all; by how much, the next four
BRIGHTNESS = CROP_TOP + 4
CONTRAST = CROP_TOP + 5
SATURATION = CROP_TOP + 6
HUE = CROP_TOP + 7
GRAY = CROP_TOP + 8
BLUR = CROP_TOP + 9
BLUR_SIGMA = CROP_TOP + 10
SOLARIZE = CROP_TOP + 11
VFLIP = CROP_TOP + 12
QUARTERS = CROP_TOP + 13
ANGLE = CROP_TOP + 14
AFFINE_SCALE = CROP_TOP + 15
SHEAR_X = CROP_TOP + 16
SHEAR_Y = CROP_TOP + 17
ERASE = CROP_TOP + 18  # whether, and what, the next four
ERASE_AREA = CROP_TOP + 19
ERASE_RATIO = CROP_TOP + 20
ERASE_TOP = CROP_TOP + 21
ERASE_LEFT = CROP_TOP + 22
NUM_SLOTS = CROP_TOP + 23

UNIT = 2.0**-24  # the upper 24 bits of a key, times this, are a number in [0, 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >= 1 << 63 else bits


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


@register_jitable
def mix(x):
    """Apply splitmix64's finaliser to int64 x."""
    x = (x ^ shift_right(x, 30)) * _MIX_1
    x = (x ^ shift_right(x, 27)) * _MIX_2
    return x ^ shift_right(x, 31)


@register_jitable
def next_key(key, counter):
    """Return the key one link further down the chain, for one value of the next counter."""
    return mix(key + counter * _GOLDEN)


@register_jitable
def upper_24_bits(key):
    """Return the bits of a key that become a random number."""
    return shift_right(key, 40)


@register_jitable
def shift_right(x, bits):
    """Shift int64 x as if it were unsigned, where `>>` copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(indices: Tensor, *, num_views: int, seed: int, epoch: int, further: int = 0) -> Tensor:
    """Return numbers in [0, 1), float32 [num_views, batch, NUM_SLOTS + further], on the device of
    `indices`.

    indices: int64 [batch], the samples' positions in the stored set. further: numbers that only
    some runs need, behind those of the slots.
    """
    device = indices.device
    # A number, not a tensor: to copy a tensor to a GPU would wait for it.
    key_of_epoch = int(next_key(mix(_int64(seed)), _int64(epoch)))
    key_of_sample = next_key(key_of_epoch, indices)  # [batch]
    views = torch.arange(1, num_views + 1, device=device)
    key_of_view = next_key(key_of_sample, views[:, None])  # [num_views, batch]
    slots = torch.arange(1, NUM_SLOTS + further + 1, device=device)
    return upper_24_bits(next_key(key_of_view[..., None], slots)).float() * UNIT


def _int64(number: int) -> Tensor:
    return torch.tensor(number, dtype=torch.int64)

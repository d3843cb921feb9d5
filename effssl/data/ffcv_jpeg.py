"""FFCV's decoder of JPEGs as a function that compiled code calls by name.

Every process binds the name to its own address; code with an address in it numba would not keep.
"""

from __future__ import annotations

import ctypes

import llvmlite.binding
from numba import types

from effssl.data.ffcv_setup import WHY_NOT

_NAME = "effssl_imdecode"
# C's two flags come last, as whole words of which it reads the lowest byte.
_ARGUMENTS = [types.uintp, types.uint64, *(2 * [types.uint32]), types.uintp, *(8 * [types.uint32])]


@ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_size_t, ctypes.c_uint64, *(2 * [ctypes.c_uint32])),
    *(ctypes.c_size_t, *(8 * [ctypes.c_uint32])),
)
def _decode_nothing(*_: int) -> int:
    """Fail. Without FFCV the name stands for this; what reads then decodes JPEGs beforehand."""
    return -1


def _bound() -> types.ExternalFunction:
    if WHY_NOT is None:
        from ffcv.libffcv import ctypes_imdecode as decode
    else:
        decode = _decode_nothing
    llvmlite.binding.add_symbol(_NAME, ctypes.cast(decode, ctypes.c_void_p).value)
    return types.ExternalFunction(_NAME, types.int32(*_ARGUMENTS))


imdecode = _bound()

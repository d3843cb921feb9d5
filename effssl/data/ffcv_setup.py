"""FFCV imported, where it can be, without what it does to the rest of the process.

The package `effssl.data` imports this module before anything else.
"""

from __future__ import annotations

import types

import numba.typed
import torch

# FFCV starts numba's threads when it is imported. If TBB is there (OpenCV brings it) numba takes
# it, and its layer leaks 7 KB at every parallel loop.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # type: ignore[attr-defined]


def _import_ffcv() -> None:
    # FFCV sets torch's thread count, to 1 when it is imported and to the loader's workers later:
    # training would run on one core, and its results would depend on --workers.
    num_threads = torch.get_num_threads()
    # FFCV keeps two numbers in a numba dictionary, which takes seconds to compile.
    numbas_dict, numba.typed.Dict = numba.typed.Dict, dict
    try:
        import ffcv.loader.epoch_iterator
        import ffcv.memory_managers.os_cache
        import ffcv.pipeline.compiler
    finally:
        numba.typed.Dict = numbas_dict
        torch.set_num_threads(num_threads)
    ffcv.pipeline.compiler.ch = types.SimpleNamespace(set_num_threads=lambda count: None)
    # Our pipelines end on the CPU; FFCV would take memory and streams on the first GPU all the
    # same.
    ffcv.loader.epoch_iterator.IS_CUDA = False
    # FFCV makes numba's own type of byte arrays read-only, for all that is compiled afterwards.
    parts = [numba.types.Array(numba.uint8, 1, "C", readonly=True), *(2 * [numba.uint64[::1]])]
    of_file = property(lambda manager: numba.types.Tuple(parts))
    ffcv.memory_managers.os_cache.OSCacheManager.state_type = of_file


def _reason() -> str | None:
    try:
        _import_ffcv()
    except Exception as error:  # its library does not load, or numba has changed: it may be any
        return " ".join(str(error).split()) or type(error).__name__
    return None


WHY_NOT = _reason()  # FFCV cannot be had here; None if it can

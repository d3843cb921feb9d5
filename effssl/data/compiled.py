"""Machine code that numba made, kept on disk: what one process has compiled, the next one loads."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock
from numba.core.caching import FunctionCache

_SOURCES = Path(__file__).parents[1]  # of all that is compiled
_LOCKED_AT_MOST_S = 10.0

# Compiles a function that compiled code calls, as a part of which it is kept on disk.
part_of_compiled = numba.njit(nogil=True, error_model="numpy")


def compiled(function: Callable, *, parallel: bool = True) -> Callable:
    """Compile a function of a module with numba, and keep that on disk.

    parallel: divide its `prange` over numba's threads; a function that has none is compiled
    without.

    All it uses has to come in its arguments, or be constant: numba keeps no code with addresses in
    it. Machine code is kept by types of arguments and processor, in numba's NUMBA_CACHE_DIR or else
    in the user's folder for caches; code of another version is never taken. Where that folder
    cannot be used, every process compiles for itself.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", parallel=parallel)(function)
    with suppress(Exception):  # whatever is wrong with the folder: code can be compiled
        kept = _kept(function, _folder())
        dispatcher._cache = dispatcher._cache if kept is None else kept
    return _one_at_a_time(dispatcher) if parallel and not _is_threadsafe() else dispatcher


_ONE = threading.Lock()


def _one_at_a_time(function: Callable) -> Callable:
    @functools.wraps(function)
    def alone(*arguments: Any) -> Any:
        with _ONE:
            return function(*arguments)

    return alone


@functools.cache
def _is_threadsafe() -> bool:
    """Say whether parallel loops may run in two threads at once, for which numba would else end the
    process: not with its own layer, all that its packages bring for macOS."""
    asked = numba.config.THREADING_LAYER  # type: ignore[attr-defined]
    if asked == "workqueue":
        return False
    for layer in ("omppool", "tbbpool"):
        with suppress(ImportError):
            importlib.import_module(f"numba.np.ufunc.{layer}")
            return True
    return False


def _kept(function: Callable, folder: Path) -> _Kept | None:
    """Return the cache of a function; None if numba would keep it outside of `folder`."""
    config = numba.config
    before = config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
        kept = _Kept(function)
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]
    return kept if folder in Path(kept.cache_path).parents else None


class _Kept(FunctionCache):
    """numba's cache of one function, which raises nothing and is written by one process at a time.

    Two that compile for different types would else give both codes the same file.
    """

    def load_overload(self, sig, target_context):
        """Return what is kept for these types of arguments, or None; part of numba's interface."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # of a damaged file, which is written anew
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig, data):
        """Keep what was compiled, if that can be written; part of numba's interface."""
        lock = FileLock(Path(self.cache_path) / "lock", timeout=_LOCKED_AT_MOST_S)
        with suppress(Exception), lock:
            super().save_overload(sig, data)


def _folder() -> Path:
    """Return where machine code of this version of everything is kept.

    numba looks at the file of the function alone, though what that calls is compiled into it.
    """
    version = hashlib.sha256(numba.__version__.encode())
    for file in sorted(p for part in ("data", "views") for p in (_SOURCES / part).glob("*.py")):
        version.update(file.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(numba.config.CACHE_DIR or caches / "effssl")  # type: ignore[attr-defined]
    return root / f"effssl-{version.hexdigest()[:16]}"

"""`--transform`: a function of the user's own, which makes views of views."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from effssl import InputError
from effssl.image_config import Augment
from effssl.ranges import height_width
from effssl.views import ops

OwnTransform = Callable[[Tensor], Tensor]


@functools.cache
def load_transform(name: str) -> OwnTransform:
    """Import what MODULE:FUNCTION or FILE.py:FUNCTION names; modules are looked for in the working
    folder first. Raises InputError if it is not there, or its module does not run."""
    where, _, function = name.rpartition(":")
    if not where or not function.isidentifier():
        raise InputError(f"--transform {name}: must be MODULE:FUNCTION or FILE.py:FUNCTION")
    try:
        module = _of_file(Path(where).expanduser()) if where.endswith(".py") else _of_name(where)
    except Exception as error:
        raise InputError(f"--transform {name}: {_told(error)}") from error
    own = getattr(module, function, None)
    if not callable(own):
        raise InputError(f"--transform {name}: {where} has no function {function}")
    return own


def check_transform(augment: Augment, device: torch.device) -> None:
    """Let the user's function make views of noise, so that its errors come before all else. Raises
    InputError as `transformed` does."""
    shape = augment.views, 2, augment.channels, *height_width(augment.image_size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    transformed(ops.normalize(noise, augment.mean, augment.std).to(device), augment, seed=0)


def transformed(views: Tensor, augment: Augment, seed: int) -> Tensor:
    """Give views to the user's function, `augment.transform`, and take what it makes of them.

    It gets float32 [n, c, h, w] in [0, 1] on the device and returns as many images of that size;
    what it draws from torch's generators repeats with `seed`, and moves no other draw.
    views: float32 [views, batch, c, h, w], normalised, as those returned. Raises InputError for
    its own errors, with their line, and if it returns anything else or what is not finite.
    """
    assert augment.transform is not None
    own = load_transform(augment.transform)
    given = ops.unnormalize(views.flatten(0, 1), augment.mean, augment.std)
    shape = given.shape
    devices = [views.device] if views.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        try:
            made: Any = own(given)
        except Exception as error:
            raise InputError(f"--transform {augment.transform}: {_told(error)}") from error
    problem = _problem(made, shape)
    if problem:
        raise InputError(f"--transform {augment.transform}: the function returned {problem}")
    return ops.normalize(made.float(), augment.mean, augment.std).view_as(views)


def _problem(made: Any, shape: torch.Size) -> str | None:
    """Say what is wrong with what a function made of images of that shape."""
    if not isinstance(made, Tensor):
        return f"a {type(made).__name__}, not a tensor"
    if made.shape != shape:
        return f"{list(made.shape)} for {list(shape)}"
    if not made.is_floating_point():
        return f"{made.dtype}, not floats in [0, 1]"
    return None if bool(made.isfinite().all()) else "values that are not finite"


def _of_name(module: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())  # the console command has its own folder there
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(os.getcwd())


def _of_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _told(error: Exception) -> str:
    """Return an error in one line, with the line of code that it comes from."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    # The last line of the user's own, where a package that it calls raises deeper down.
    passed = (__file__, "site-packages", "importlib", "<frozen")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in passed)]
    return f"{said} ({own[-1].filename}, line {own[-1].lineno})" if own else said

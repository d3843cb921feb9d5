"""Atomic save and exact restore of a run's state."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effssl import InputError
from effssl.run.device import random_state, set_random_state
from effssl.run.files import FileError, atomic


def capture(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    """Return all that moves the weights from here on, but for the position in the data.

    That is weights and buffers, the optimizer's state, and torch's random numbers (dropout, drop
    path).
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random_state(device),
    }


def restore(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    """Put back what `capture` took, strictly.

    On another kind of device its random numbers go on from its seed, and the optimizer stays fused,
    or not, as it was built. Raises InputError if the optimizer's groups are others.
    """
    model.load_state_dict(state["model"])
    saved = state["optimizer"]
    fused = [{"fused": own["fused"]} if "fused" in own else {} for own in optimizer.param_groups]
    groups = [group | own for group, own in zip(saved["param_groups"], fused, strict=True)]
    try:
        optimizer.load_state_dict({**saved, "param_groups": groups})
    except ValueError:  # its groups have other sizes
        message = (
            "the checkpoint is of another version, which gave weight decay to other parameters"
        )
        raise InputError(f"{message}; start a new run") from None
    set_random_state(state["random"], device)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, tensors and plain values, so that `path` is whole even after a crash.

    Raises InputError if it cannot be written; an older one is then left as it was.
    """
    with atomic(path, sync=True) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch puts an error of its own, about positions, over that of the full disk.
            raise _cause(error) or error from None


def _cause(error: BaseException) -> OSError | None:
    """Return the system's error in whose handling this one was raised, if there is one."""
    below = error.__context__
    return below if below is None or isinstance(below, OSError) else _cause(below)


@contextlib.contextmanager
def told_of_in_errors(run: Path) -> Iterator[None]:
    """Add to an error about a file, which ends a run, what there is to go on from.

    Other errors are of settings, which --resume does not change.
    """
    try:
        yield
    except (FileError, OSError) as error:
        whole = (
            f"the last checkpoint is whole: go on with --resume {run}"
            if (run / "checkpoint.pt").is_file()
            else "no checkpoint was written yet"
        )
        raise InputError(f"{error}; {whole}") from None


def load(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU, without running any code in it.

    Raises InputError for a missing or damaged file. torch does not look at the checksums that it
    writes, so a bit that flipped on the disk would be a wrong weight.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if name := file.testzip():
                raise InputError(f"{path} is damaged: the checksum of {name} is another")
        return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises many types for damaged files
        raise InputError(
            f"{path} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from None

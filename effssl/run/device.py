"""Where a model runs, and in what precision."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

import torch

from effssl import InputError

# Of glibc's malloc.h: parameters of mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Runtime:
    """Where and in what precision models run, and whether torch.compile compiles them."""

    device: torch.device
    autocast_dtype: torch.dtype | None = None  # None: float32 throughout
    compile: bool = False

    def autocast(self) -> torch.autocast:
        """Return a context for forward passes."""
        return torch.autocast(
            self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        )

    def wait(self) -> None:
        """Wait until the device has done all that it was given, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def open_runtime(device: str, precision: str = "fp32", compile: str = "false") -> Runtime:
    """Read `--device`, `--precision` and `--compile`.

    Their `auto` means CUDA, bfloat16 and compilation if there is CUDA, else the CPU in float32. A
    line on stderr says if bfloat16 is asked of a CPU without instructions for it. Under torchrun
    each process has a GPU of its own, which becomes torch's current one. On a CPU the process keeps
    the memory that it frees. Raises InputError for a device that is not there.
    """
    where = _device(device)
    on_gpu = where.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(where)
    else:
        _keep_freed_memory()
    is_bf16 = on_gpu if precision == "auto" else precision == "bf16"
    if is_bf16 and not on_gpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(
            "--precision bf16: this processor has no instructions for it and is about ten times "
            "slower than with fp32",
            file=sys.stderr,
        )
    is_compiled = on_gpu if compile == "auto" else compile == "true"
    return Runtime(where, torch.bfloat16 if is_bf16 else None, is_compiled)


def _keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors, up to 256 MiB each, for the next ones.

    Else it gives much of it back, and the system clears the pages anew, in every step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl, nor on macOS
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**28)  # above it memory is mapped, and unmapped
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: no such device; auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported; auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices")
    return device

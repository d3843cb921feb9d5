"""Where a model runs, and in what precision."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from effssl import InputError

# Of glibc's malloc.h: parameters of mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_COMPILED = 64  # shapes of what one function takes, with and without gradients


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

    def scaler(self) -> torch.amp.GradScaler:
        """Return what scales losses so that float16 holds their gradients; else it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype == torch.float16)

    def wait(self) -> None:
        """Wait until the device has done all that it was given, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random numbers, which dropout and drop path draw from, by kind of device."""
    random = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    return random


def set_random_state(random: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `random_state` took; another kind of device keeps its own."""
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda" and "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], device)


def open_runtime(device: str, precision: str = "fp32", compile: str = "false") -> Runtime:
    """Read `--device`, `--precision` and `--compile`.

    Their `auto` means CUDA, bfloat16 (float16 on cards without it) and compilation if there is
    CUDA, else the CPU in float32. A line on stderr says if bfloat16 is asked of a CPU without
    instructions for it. Under torchrun each process has a GPU of its own, which becomes torch's
    current one. On a CPU the process keeps the memory that it frees. Where there is compilation,
    torch is told to compile as many shapes as views have here. Raises InputError for a device that
    is not there.
    """
    where = _device(device)
    on_gpu = where.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(where)
    else:
        _keep_freed_memory()
    if precision == "auto":
        precision = _fast_precision(where)
    if precision == "bf16" and not on_gpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(
            "--precision bf16: this processor has no instructions for it and is about ten times "
            "slower than with fp32",
            file=sys.stderr,
        )
    is_compiled = on_gpu if compile == "auto" else compile == "true"
    if is_compiled:
        # From the ninth shape on torch would compile no more, and run the function as it is. The
        # name is recompile_limit in new versions, which know the old one too.
        config = torch._dynamo.config
        config.cache_size_limit = max(config.cache_size_limit, _COMPILED)
    dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Runtime(where, dtypes[precision], is_compiled)


def choose_algorithms(device: torch.device, *, deterministic: bool) -> None:
    """Let torch take the fastest convolutions, as all steps are of one shape, or else algorithms
    that repeat bit for bit alone: what has none raises RuntimeError."""
    torch.use_deterministic_algorithms(deterministic)
    # Nothing here reads memory before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    if deterministic:  # cuBLAS reads it before its first product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _fast_precision(where: torch.device) -> str:
    """Return bf16 for cards that have it (from compute capability 8.0 on), fp16 for other cards."""
    if where.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(where) >= (8, 0) else "fp16"


def _keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors, up to 256 MiB each, for the next ones.

    Else it gives much of it back, and the system clears the pages anew, in every step.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl
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

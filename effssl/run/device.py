"""The process that trains: the device it uses, the processes beside it, and the signals it obeys."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import sys
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from effssl import InputError

STOPPING = (signal.SIGINT, signal.SIGTERM)


def where_it_runs(name: str, precision: str, compiled: str) -> tuple[torch.device, bool, bool]:
    """(device, bf16 autocast, torch.compile) for `--device`, `--precision` and `--compile`; their auto means CUDA, bf16
    and compilation where there is CUDA, else the CPU in float32. Under torchrun each process has a GPU of its own.
    Raises InputError for a device that is not there."""
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
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    return (
        device,
        on_gpu if precision == "auto" else precision == "bf16",
        on_gpu if compiled == "auto" else compiled == "true",
    )


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Under torchrun, all its processes as torch's default group; else nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # All wait for the first one's probes, which may take long on a large set; when one dies torchrun ends the others.
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=2))
    yield
    dist.destroy_process_group()  # not after an error: others may be waiting for this one


def listen() -> list[int]:
    """Signals that asked to stop, as they come in; a second one ends the process at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        for each in STOPPING:
            signal.signal(each, signal.SIG_DFL)

    for number in STOPPING:
        signal.signal(number, note)
    return received


def stop_listening() -> None:
    """Back to Python's own: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Until `listen`, SIGTERM ends the process as an exception does, so that half-written files are removed; at the end
    the handlers are what they were."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(work: Callable[[], None]) -> int:
    """Do a command's work in an `orderly` way, its errors as the command line shows them; returns 0, 2 for bad input
    and files that cannot be written, 130 for Ctrl-C (SIGTERM leaves with 143 by SystemExit)."""
    try:
        with orderly():
            work()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0

"""FFCV's worker processes, watched while they write a .beton, and their progress."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ffcv.writer
from tqdm import tqdm

from effssl import InputError
from effssl.data.storing import progress

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def workers_watched() -> Iterator[None]:
    """Raise InputError in the main thread if one of FFCV's worker processes dies, for which FFCV
    would wait, and OSError if the disk is full.

    On any error no worker process is left behind.
    """
    processes: list[multiprocessing.Process] = []
    queues: list[multiprocessing.queues.Queue] = []

    def new_process(target: Callable, args: tuple) -> multiprocessing.Process:
        work = (os.getpid(), target, args)
        processes.append(Worker(target=_work_for, args=work, daemon=True))
        return processes[-1]

    def new_queue() -> multiprocessing.queues.Queue:
        queues.append(multiprocessing.Queue())
        return queues[-1]

    def raise_for_the_dead(number: int, frame: object) -> None:
        codes = [p.exitcode for p in processes if p.pid is not None and p.exitcode]
        if codes and codes[0] in _DISK_IS_FULL:
            raise OSError(codes[0], os.strerror(codes[0]))
        if codes:
            raise InputError(
                f"a process that writes the .beton died (exit code {codes[0]}; out of memory? "
                "Fewer --workers take less)"
            )

    # FFCV keeps no hold of its processes and queues.
    ffcv.writer.Process, ffcv.writer.Queue = new_process, new_queue
    ffcv.writer.tqdm = progress
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_main_thread:  # signals are handled nowhere else
        handler_before = signal.signal(signal.SIGALRM, raise_for_the_dead)
        # Again and again: an exception that is raised while Python runs a finaliser is lost.
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    except BaseException:
        for queue in queues:
            # Or Python would wait at its end for somebody to read the work that is left.
            queue.cancel_join_thread()
        raise
    finally:
        if is_main_thread:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler_before)
        ffcv.writer.Process, ffcv.writer.Queue = multiprocessing.Process, multiprocessing.Queue
        ffcv.writer.tqdm = tqdm
        for process in processes:
            if process.is_alive():
                process.join(timeout=1)  # FFCV has what it wrote; it is about to end
                process.kill()
                process.join()  # or it might still open its file, and so make it anew


class Worker(multiprocessing.Process):
    """A process that does not hear Ctrl-C, which a terminal sends to all: the writer ends it."""

    def start(self) -> None:
        with _signals_held_back():
            super().start()


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back; a process that is forked meanwhile never hears them.

    Raised amid a fork, KeyboardInterrupt would be lost in one of Python's hooks, or the new process
    would be in nobody's hands. The mask, which the new process inherits, does not help against
    that: another thread may take the signal, and Python runs the handler in the main thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    received: list[int] = []
    handlers_before = {}
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            handlers_before[number] = signal.signal(number, lambda n, frame: received.append(n))
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        for blocked in received:
            signal.raise_signal(blocked)


def _work_for(parent: int, target: Callable, args: tuple[Any, ...]) -> None:
    """Do FFCV's work in a worker process, whose exit code tells of a disk that is full.

    It dies with the writer, for which it would wait for ever otherwise.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    try:
        target(*args)
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            os._exit(error.errno)
        raise

"""How a command ends: by itself, by a signal, by the clock, or with one line about bad input."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

import torch

from effssl import InputError
from effssl.run import distributed
from effssl.run.log import Clock

_STOPPING = (signal.SIGINT, signal.SIGTERM)
DIVERGED = 3
INTERRUPTED = 130  # what shells give for Ctrl-C


class StopSwitch:
    """Tells when training is to end: on Ctrl-C or SIGTERM in any process, or after `max_seconds`.

    While it is entered, a first signal is noted for the loop to see, which then saves and leaves; a
    second one ends the process at once. All processes of a group see the switch set at the same
    step.
    """

    def __init__(self, clock: Clock, max_seconds: float | None):
        self.signalled = False  # in any process
        self.out_of_time = False  # in any process
        self._clock, self._max_seconds = clock, max_seconds
        self._received: int | None = None  # by this process

    def __enter__(self) -> StopSwitch:
        for number in _STOPPING:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Go back to Python's own: Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def is_set(self) -> bool:
        """Look at signals and clock, together with all processes."""
        # Only the first process pauses its clock for probes, for which the others wait.
        limit = self._max_seconds if distributed.is_first() else None
        is_late = limit is not None and self._clock.seconds >= limit
        self.signalled, self.out_of_time = distributed.in_any(self._received is not None, is_late)
        return self.signalled or self.out_of_time

    @property
    def exit_code(self) -> int:
        """Return what shells give for the signal that was received."""
        return 128 + (self._received or signal.SIGTERM)

    def _note(self, number: int, frame: object) -> None:
        self._received = number
        for each in _STOPPING:
            signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Let SIGTERM end the process as an exception does, so that half-written files are removed.

    At the end the handlers are what they were.
    """
    before = {number: signal.getsignal(number) for number in _STOPPING}
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(
    work: Callable[[], int | None],
    *,
    interrupted: str = "interrupted; nothing half-written is left",
) -> int:
    """Do a command's work in an `orderly` way, and show its errors as a command line does.

    Returns what the work returns (None counts as 0); 2 for bad input, for files that cannot be
    written, for names that are not UTF-8 where a library wants it and for a device whose memory is
    full, and 3 for FloatingPointError, a training that diverged, each said in one line by every
    process that has the error, behind its number if it is not the first; 130 for Ctrl-C, with the
    line `interrupted`. SIGTERM leaves with 143, by SystemExit.
    """
    try:
        with orderly():
            return work() or 0
    except (InputError, OSError, UnicodeError, FloatingPointError) as error:
        what = "a name that is not UTF-8: " if isinstance(error, UnicodeError) else ""
        _say(f"{what}{error}")
        return DIVERGED if isinstance(error, FloatingPointError) else 2
    except torch.cuda.OutOfMemoryError as error:  # that of a training step is an InputError already
        reason = str(error).partition(". ")[0]
        _say(f"the memory of the device is full; free it, or take smaller batches ({reason})")
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def _say(reason: str) -> None:
    """Print the error of this process, which may be the only one that has it."""
    rank = os.environ.get("RANK", "0")  # of torchrun; the group may not be there any more
    who = "" if rank == "0" else f"[rank {rank}] "
    print(f"{who}error: {reason}", file=sys.stderr)

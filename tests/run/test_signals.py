from __future__ import annotations

import os
import signal

import pytest
import torch

from effssl import InputError
from effssl.run import signals
from effssl.run.log import Clock
from effssl.run.signals import StopSwitch


def test_before_training_sigterm_is_an_exception_so_that_clean_up_runs():
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []
    with pytest.raises(SystemExit) as caught, signals.orderly():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)
    assert (caught.value.code, cleaned) == (128 + signal.SIGTERM, [True])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_training_a_first_signal_is_noted_and_a_second_is_not_caught(number):
    with signals.orderly(), StopSwitch(Clock(0.0, lambda: None), None) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set() and stop.signalled and not stop.out_of_time
        assert stop.exit_code == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL


def test_after_training_ctrl_c_is_an_exception_again():
    with signals.orderly():
        with StopSwitch(Clock(0.0, lambda: None), None):
            pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_switch_is_set_when_the_seconds_are_used_up():
    clock = Clock(5.0, lambda: None)
    with signals.orderly(), StopSwitch(clock, 1000.0) as early, StopSwitch(clock, 4.9) as late:
        assert not early.is_set()
        assert late.is_set() and late.out_of_time and not late.signalled


def ending(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 143, 143, ""),
        (ending(InputError("--views 1: no")), 2, "error: --views 1: no\n"),
        (
            ending(PermissionError(13, "Permission denied", "x")),
            2,
            "error: [Errno 13] Permission denied: 'x'\n",
        ),
        (
            ending(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate. ...")),
            2,
            "error: the memory of the device is full; free it, or take smaller batches "
            "(CUDA out of memory)\n",
        ),
        (ending(FloatingPointError("the loss is nan")), 3, "error: the loss is nan\n"),
        (ending(KeyboardInterrupt()), 130, "stopped by hand\n"),
    ],
)
def test_a_command_ends_with_a_code_and_one_line(work, code, line, capsys):
    assert signals.exit_code(work, interrupted="stopped by hand") == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("rank", "who"), [("0", ""), ("3", "[rank 3] ")])
def test_an_error_of_any_process_is_told(monkeypatch, capsys, rank, who):
    monkeypatch.setenv("RANK", rank)
    assert signals.exit_code(ending(InputError("no image there"))) == 2
    assert capsys.readouterr().err == f"{who}error: no image there\n"

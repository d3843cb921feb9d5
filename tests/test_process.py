from __future__ import annotations

import os
import signal

import pytest
import torch

from effssl import InputError
from effssl.run import device as process


def test_before_training_sigterm_is_an_exception_so_that_clean_up_runs():
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []
    with pytest.raises(SystemExit) as caught, process.orderly():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)
    assert (caught.value.code, cleaned) == (128 + signal.SIGTERM, [True])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", process.STOPPING)
def test_while_training_a_first_signal_is_noted_and_a_second_is_not_caught(number):
    with process.orderly():
        stops = process.listen()
        os.kill(os.getpid(), number)
        assert stops == [number]
        assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("precision", "compiled", "expected"), [("auto", "auto", (False, False)), ("bf16", "true", (True, True))]
)
def test_auto_on_the_cpu_is_float32_and_not_compiled(precision, compiled, expected):
    device, *found = process.where_it_runs("cpu", precision, compiled)
    assert (device.type, tuple(found)) == ("cpu", expected)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
@pytest.mark.parametrize("local_rank", [None, 1])
def test_a_gpu_is_named_by_its_number(name, local_rank, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))  # torch's wants a number
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    number = 1 if name == "cuda:1" or local_rank else 0
    assert process.where_it_runs(name, "auto", "auto") == (torch.device("cuda", number), True, True)
    assert chosen == [number]


@pytest.mark.parametrize("name", ["meta", "abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_an_input_error(name):
    with pytest.raises(InputError, match=f"--device {name}"):
        process.where_it_runs(name, "auto", "auto")

from __future__ import annotations

import pytest
import torch

from effssl import InputError
from effssl.run.device import Runtime, open_runtime


@pytest.mark.parametrize(
    ("precision", "compiled", "expected"),
    [("auto", "auto", (None, False)), ("bf16", "true", (torch.bfloat16, True))],
)
def test_auto_on_the_cpu_is_float32_and_not_compiled(precision, compiled, expected):
    runtime = open_runtime("cpu", precision, compiled)
    assert runtime == Runtime(torch.device("cpu"), *expected)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bfloat16_on_a_processor_without_it_is_a_line(has_instructions, monkeypatch, capfd):
    supported = "_is_mkldnn_bf16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, supported, lambda: has_instructions, raising=False)
    open_runtime("cpu", "bf16")
    assert ("has no instructions for it" in capfd.readouterr().err) == (not has_instructions)
    open_runtime("cpu", "fp32")
    assert not capfd.readouterr().err


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
@pytest.mark.parametrize("local_rank", [None, 1])
def test_a_gpu_is_named_by_its_number(name, local_rank, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append(device.index)
    )  # torch's wants a number
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    number = 1 if name == "cuda:1" or local_rank else 0
    assert open_runtime(name, "auto", "auto") == Runtime(
        torch.device("cuda", number), torch.bfloat16, True
    )
    assert chosen == [number]


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)  # a T4; an A100
def test_auto_is_what_the_card_can_do(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert open_runtime("cuda:0", "auto", "auto").autocast_dtype == dtype


def test_more_sizes_are_compiled_than_torch_would(monkeypatch):
    """With and without gradients, as --micro-batch has it: from the ninth on torch would compile
    none."""
    monkeypatch.setattr(torch._dynamo.config, "cache_size_limit", 8)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    open_runtime("cpu", "fp32", "true")
    torch._dynamo.reset()
    try:
        layer = torch.compile(torch.nn.Conv2d(3, 1, 1), backend=backend, dynamic=False)
        for size in range(8, 16):
            for with_gradients in (False, True):
                with torch.set_grad_enabled(with_gradients):
                    layer(torch.zeros(1, 3, size, size))
    finally:
        torch._dynamo.reset()
    assert len(compiled) == 16


def test_only_float16_scales_its_loss():
    dtypes = (None, torch.bfloat16, torch.float16)
    scalers = [Runtime(torch.device("cpu"), dtype).scaler() for dtype in dtypes]
    assert [scaler.is_enabled() for scaler in scalers] == [False, False, True]


@pytest.mark.parametrize("name", ["meta", "abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_an_input_error(name):
    with pytest.raises(InputError, match=f"--device {name}"):
        open_runtime(name, "auto", "auto")


@pytest.mark.parametrize(
    ("dtype", "expected"), [(None, torch.float32), (torch.bfloat16, torch.bfloat16)]
)
def test_the_forward_pass_has_the_precision_asked_for(dtype, expected):
    with Runtime(torch.device("cpu"), dtype).autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected

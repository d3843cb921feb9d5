"""BatchNorm over processes on this machine (gloo): that of one process on the whole batch."""

import copy
import datetime
import tempfile
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import nn

from effssl.models.shared_batch_norm import SharedBatchNorm, share_batch_norms

pytestmark = pytest.mark.slow

SIZES = [5, 3, 2]  # rows of each process
LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "2d": (lambda: nn.BatchNorm2d(4), (4, 5, 3)),
    "act": (lambda: BatchNormAct2d(4), (4, 5, 3)),
    "plain": (lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False), (4, 5, 3)),
    "mean": (lambda: nn.BatchNorm1d(4, momentum=None), (4,)),
}
CASES = [(name, dtype) for name in LAYERS for dtype in (torch.float64, torch.float32)]


def layer_of(name, dtype):
    layer = LAYERS[name][0]().to(dtype)
    generator = torch.Generator().manual_seed(1)
    for p in layer.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
    return layer


def batches(name, dtype):
    generator = torch.Generator().manual_seed(2)
    shape = (2, sum(SIZES), *LAYERS[name][1])
    return (3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 2).to(dtype)


def stepped(layer, inputs, weights):
    """Return outputs and gradients of two batches, the gradients of parameters, and buffers."""
    found = []
    for batch, weight in zip(inputs, weights, strict=True):
        x = batch.clone().requires_grad_()
        y = layer(x)
        (y * weight).sum().backward()
        found += [y.detach(), x.grad]
    buffers = [b.clone() for b in layer.buffers()]
    return found, [p.grad.clone() for p in layer.parameters()], buffers


def in_one_process(rank, folder):
    torch.set_num_threads(1)
    here = {"init_method": f"file://{folder}/store", "timeout": datetime.timedelta(seconds=150)}
    dist.init_process_group("gloo", rank=rank, world_size=len(SIZES), **here)
    rows = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    results = {}
    for name, dtype in CASES:
        inputs, layer = batches(name, dtype), SharedBatchNorm(layer_of(name, dtype))
        results[name, dtype] = stepped(layer, inputs[:, rows], inputs.flip(0).square()[:, rows])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_processes():
    with tempfile.TemporaryDirectory() as folder:
        deadline = time.monotonic() + 250
        started = mp.spawn(in_one_process, (folder,), len(SIZES), join=False, daemon=True)
        try:
            while not started.join(timeout=max(deadline - time.monotonic(), 0)):
                assert time.monotonic() < deadline
        finally:
            for process in started.processes:
                process.kill()
                process.join()
        return [torch.load(f"{folder}/{rank}.pt") for rank in range(len(SIZES))]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_it_is_the_layer_in_one_process_on_the_whole_batch(name, dtype, of_processes):
    inputs = batches(name, dtype)
    found, gradients, buffers = stepped(layer_of(name, dtype), inputs, inputs.flip(0).square())
    of_each = [results[name, dtype] for results in of_processes]
    near = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-3}
    for i, expected in enumerate(found):
        together = torch.cat([each[0][i] for each in of_each])
        torch.testing.assert_close(together, expected, **near)
    for i, expected in enumerate(gradients):
        torch.testing.assert_close(sum(each[1][i] for each in of_each), expected, **near)
    for _, _, own in of_each:
        torch.testing.assert_close(own, buffers, **near)


@pytest.mark.parametrize("name", LAYERS)
def test_alone_and_judging_it_is_the_layer_it_stands_for(name):
    layer = layer_of(name, torch.float32)
    model = nn.Sequential(nn.Identity(), copy.deepcopy(layer))
    share_batch_norms(model)
    assert isinstance(model[1], SharedBatchNorm)
    assert {*model[1].state_dict()} == {*layer.state_dict()}
    x = batches(name, torch.float32)[0]
    for is_training in (True, False, True):
        model.train(is_training)
        layer.train(is_training)
        torch.testing.assert_close(model(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model[1].state_dict(), layer.state_dict())


def test_bfloat16_stays_bfloat16_and_loses_no_statistics():
    layer = layer_of("2d", torch.float32)
    x = batches("2d", torch.float32)[0].bfloat16()
    y = SharedBatchNorm(copy.deepcopy(layer))(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x.float()), rtol=0.01, atol=0.01)

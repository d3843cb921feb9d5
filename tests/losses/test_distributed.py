"""Losses in process groups on this machine (gloo), each process with its part of one batch."""

import datetime
import itertools
import tempfile
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from effssl.losses import sums_over_images
from tests.losses.oracles import TERMS, embeddings

pytestmark = pytest.mark.slow

BATCH = 16
SHARDS = {  # of processes: how many images each has
    2: {"even": [8, 8], "uneven": [3, 13]},
    4: {"even": [4, 4, 4, 4], "uneven": [1, 7, 3, 5]},
}
# The first DistributedDataParallel takes each process seconds of imports, so few have one.
WITH_MODEL = 2
WIDE = 20_000  # several blocks of dimensions
CASES = {
    f"{name}, K = {views}, dim {dim}, {str(dtype)[6:]}": (name, views, dim, dtype)
    for name, views, dim, dtype in [
        # every way to the matrix products
        *itertools.product(TERMS, [2, 4], [60, 8, 3], [torch.float64]),
        *itertools.product(["vicreg", "barlow all"], [4], [WIDE], [torch.float64]),
        *itertools.product(TERMS, [4], [60], [torch.float32]),
    ]
}
RTOL = {torch.float64: 1e-9, torch.float32: 1e-5}
each_sharding = pytest.mark.parametrize("sharding", ["even", "uneven"])


def with_gradient(name, z):
    terms = TERMS[name](z)
    (gradient,) = torch.autograd.grad(terms.loss, z)
    return torch.stack(terms).detach(), gradient


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 8)).double()


def gradient_of_parameters(name, model, images):
    TERMS[name](model(images)).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def in_one_process(rank, folder):
    """Be one of four processes first, then, with another, of two: the imports take seconds."""
    torch.set_num_threads(1)
    for count in sorted(SHARDS, reverse=True):
        if rank < count:
            torch.save(in_group(rank, count, folder), f"{folder}/{rank} of {count}.pt")


def in_group(rank, count, folder):
    store = f"file://{folder}/store-of-{count}"
    here = {"init_method": store, "timeout": datetime.timedelta(seconds=150)}
    dist.init_process_group("gloo", rank=rank, world_size=count, **here)
    results = {}
    for sharding, sizes in SHARDS[count].items():
        rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        for case, (name, views, dim, dtype) in CASES.items():
            z = embeddings(views, BATCH, dim, dtype).detach()[:, rows].clone().requires_grad_()
            results[sharding, case] = with_gradient(name, z)
        for name in TERMS if count == WITH_MODEL else []:
            model, images = DistributedDataParallel(small_model()), embeddings(4, BATCH, 10)
            results[sharding, name] = gradient_of_parameters(name, model, images.detach()[:, rows])
    dist.destroy_process_group()
    return results


@pytest.fixture(scope="module")
def computed():
    """What each process computed, by number of processes and rank. None of them is left behind."""
    with tempfile.TemporaryDirectory() as folder:
        deadline = time.monotonic() + 250
        started = mp.spawn(in_one_process, (folder,), max(SHARDS), join=False, daemon=True)
        try:
            while not started.join(timeout=max(deadline - time.monotonic(), 0)):
                assert time.monotonic() < deadline, "the processes took more than 250 s"
        finally:
            for process in started.processes:
                process.kill()
                process.join()
        return {
            count: [torch.load(f"{folder}/{rank} of {count}.pt") for rank in range(count)]
            for count in SHARDS
        }


@pytest.fixture(params=SHARDS, ids="{} processes".format)
def of_processes(request, computed):
    return computed[request.param]


@each_sharding
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_one_process_on_the_whole_batch(
    of_processes, sharding, case
):
    name, views, dim, dtype = CASES[case]
    expected, gradient = with_gradient(name, embeddings(views, BATCH, dim, dtype))
    of_each = [results[sharding, case] for results in of_processes]
    for terms, _ in of_each:
        torch.testing.assert_close(terms, expected, rtol=RTOL[dtype], atol=0)
    of_all = torch.cat([part for _, part in of_each], 1) / len(of_each)
    tolerance = RTOL[dtype] * float(gradient.abs().max())
    torch.testing.assert_close(of_all, gradient, rtol=0, atol=tolerance)


@each_sharding
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("of_processes", [WITH_MODEL], indirect=True)
def test_parameters_get_the_gradient_of_one_process_on_the_whole_batch(
    of_processes, sharding, name
):
    expected = gradient_of_parameters(name, small_model(), embeddings(4, BATCH, 10).detach())
    for results in of_processes:
        tolerance = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(results[sharding, name], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("sizes", [shards["uneven"] for shards in SHARDS.values()], ids=str)
def test_every_process_goes_through_the_same_blocks(sizes):
    blocks_of_each = [sums_over_images._blocks(sizes, torch.empty(4, n, WIDE)) for n in sizes]
    widths = [[block.shape[2] for (block,) in blocks] for blocks in blocks_of_each]
    assert len(widths[0]) > 1
    assert all(others == widths[0] for others in widths)

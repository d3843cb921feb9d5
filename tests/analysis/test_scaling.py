from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from analysis import scaling
from analysis.harness import communication
from analysis.harness.communication import Link, Sent
from effssl.run import distributed


def test_what_is_counted_is_what_the_losses_formulas_say():
    """Matrices [K, d, d] forward and backward where the batch is larger than d, and z of all
    images where it is not."""
    views, each, processes = 3, 10, 4
    small = communication.of_loss(scaling.loss_of("vicreg", 8), (views, each, 8), processes)
    assert small.gathers == 0
    assert small.reduced == pytest.approx(4 * 2 * views * 8 * 8, rel=0.35)
    wide = communication.of_loss(scaling.loss_of("vicreg", 64), (views, each, 64), processes)
    assert wide.gathers == 2
    assert wide.gathered == 2 * 4 * views * each * processes * 64


@pytest.mark.parametrize("method", scaling.METHODS)
def test_nothing_is_left_of_it(method):
    before = distributed.dist
    communication.of_loss(scaling.loss_of(method, 8), (2, 4, 8), 512)
    assert distributed.dist is before and distributed.world_size() == 1


def test_gradients_and_batch_norm():
    model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.Linear(20, 5))
    assert communication.of_gradients(model).reduced == 4 * (220 + 40 + 105)
    norm = communication.of_batch_norm(model, 8)
    assert (norm.reduced, norm.gathered, norm.messages) == (4 * 40, 4 * 8 * 41, 2)


def test_bytes_round_a_ring():
    assert Sent(reduced=100).on_the_wire(2) == 100
    assert Sent(reduced=100, gathered=100).on_the_wire(4) == pytest.approx(150 + 75)
    assert Sent(1, 2, 3, 4) + Sent(1, 1, 1, 1) == Sent(2, 3, 4, 5)


def test_a_planted_link_is_found():
    sizes = [4.0**n for n in range(5, 14)]
    link = communication.fitted(sizes, [3e-5 + n / 2e9 for n in sizes])
    assert link == pytest.approx(Link(3e-5, 2e9), rel=1e-6)
    assert link.seconds(10, 1e9) == pytest.approx(0.5003, rel=1e-6)
    assert communication.fitted([1.0, 1e6], [1e-9, 1.0]).latency_s >= 0


CASES = [(method, shape) for method in scaling.METHODS for shape in ((2, 6, 40), (4, 30, 10))]


def _counted_for_real(rank, folder):
    """Run each loss in a real group whose exchanges are counted by torch's own names."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    total = {"reduced": 0, "gathered": 0}
    reduce, gather = dist.all_reduce, dist.all_gather

    def all_reduce(x, *rest):
        total["reduced"] += x.nbytes
        return reduce(x, *rest)

    def all_gather(everyone, x):
        total["gathered"] += sum(each.nbytes for each in everyone)
        return gather(everyone, x)

    dist.all_reduce, dist.all_gather = all_reduce, all_gather
    totals = []
    for method, shape in CASES:
        total.update(reduced=0, gathered=0)
        scaling.loss_of(method, shape[2])(torch.randn(*shape).requires_grad_()).backward()
        totals.append((total["reduced"], total["gathered"]))
    torch.save(totals, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Return what each of two processes has sent in each of CASES: one start for all of them."""
    folder = tmp_path_factory.mktemp("sent")
    mp.spawn(_counted_for_real, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "shape"), CASES)
def test_two_processes_send_what_is_counted(sent, method, shape):
    counted = communication.of_loss(scaling.loss_of(method, shape[2]), shape, 2)
    for totals in sent:
        assert totals[CASES.index((method, shape))] == (counted.reduced, counted.gathered)


@pytest.mark.slow
def test_the_command_writes_tables_and_a_picture(tmp_path, capsys):
    assert scaling.main(["--quick", "--out", str(tmp_path / "out")]) == 0
    assert "Two processes on this machine: sums" in capsys.readouterr().out
    counted = pd.read_csv(tmp_path / "out" / "counted.csv")
    assert set(counted["gpus"]) == {8, 16} and len(counted) == 4
    assert (counted["all_ms"] > 0).all()
    assert len(pd.read_csv(tmp_path / "out" / "measured.csv")) == 2
    assert (tmp_path / "out" / "scaling.png").is_file()
    with pytest.raises(SystemExit) as caught:
        scaling.main(["--images-each", "0"])
    assert caught.value.code == 2

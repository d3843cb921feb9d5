"""Muon in a CUDA graph: EFFSSL_TEST_DEVICE=cuda pytest tests/test_device_muon.py."""

from __future__ import annotations

import os

import pytest
import torch

from effssl import cli, optim
from effssl.run import checkpoint
from effssl.run.device import open_runtime
from effssl.train import loop as train
from tests.test_device import flags, train_losses

NAME = os.environ.get("EFFSSL_TEST_DEVICE", "")
pytestmark = pytest.mark.skipif(NAME in ("", "cpu"), reason="for a GPU: EFFSSL_TEST_DEVICE=cuda")


@pytest.fixture(scope="module")
def device() -> torch.device:
    return open_runtime(NAME, "auto", "auto").device


def test_muon_in_a_graph_is_timms_muon(device):
    """Also as the rate changes, a layer is freed, and after a checkpoint."""
    moved = []
    for in_a_graph in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 2), torch.nn.BatchNorm2d(6), torch.nn.Linear(6, 40)
        ).to(device, memory_format=torch.channels_last)
        optimizer = optim.build_optimizer(
            net, "muon", lr=0.1, weight_decay=0.1, in_a_graph=in_a_graph
        )
        assert type(optimizer).__name__ == ("GraphedMuon" if in_a_graph else "Muon")
        for step in range(12):
            if step == 8:
                saved = checkpoint.capture(net, optimizer, device)
                checkpoint.restore(saved, net, optimizer, device)
            optim.set_learning_rate(optimizer, 0.1 / (1 + step))
            for i, p in enumerate(net.parameters()):
                gradient = torch.randn(p.shape, device=device)
                p.grad = None if i == 0 and step < 4 else gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert all(group["lr"] == 0.1 / 12 for group in optimizer.param_groups)
        moved.append([*map(torch.clone, net.parameters())])
    # One bit of bfloat16 in a step of 0.1.
    torch.testing.assert_close(*moved, rtol=0.0, atol=1e-3)


def test_muon_in_a_graph_goes_on_from_a_cpus_checkpoint_and_the_other_way(device, tmp_path):
    def built(where, *, in_a_graph):
        net = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Linear(40, 6)).to(where)
        return net, optim.build_optimizer(
            net, "muon", lr=0.1, weight_decay=0.0, in_a_graph=in_a_graph
        )

    def stepped(net, optimizer, count):
        for step in range(count):
            for p in net.parameters():
                generator = torch.Generator().manual_seed(step)
                p.grad = torch.randn(p.shape, generator=generator).to(p.device)
            optimizer.step()
        return [p.detach().cpu() for p in net.parameters()]

    def moved(some, others, of, to):
        file = tmp_path / "checkpoint.pt"
        checkpoint.save(file, checkpoint.capture(*some, of))
        checkpoint.restore(checkpoint.load(file), *others, to)

    cpu = torch.device("cpu")
    here, there = built(cpu, in_a_graph=False), built(device, in_a_graph=True)
    stepped(*here, 3)
    moved(here, there, cpu, device)
    expected = stepped(*here, 4)
    torch.testing.assert_close(stepped(*there, 4), expected, rtol=0.0, atol=1e-2)  # bfloat16
    moved(there, here, device, cpu)
    expected = stepped(*there, 4)
    torch.testing.assert_close(stepped(*here, 4), expected, rtol=0.0, atol=1e-2)


@pytest.mark.parametrize("is_compiled", ["false", "true"])
def test_training_with_muon_in_a_graph_is_training_without(
    is_compiled, digits_dir, device, tmp_path
):
    """Over forty steps, in float32: what is wrong once in a while shows too."""
    losses = []
    for in_a_graph in ("--no-graph-muon", "--graph-muon"):
        run = tmp_path / in_a_graph
        more = ("--compile", is_compiled, in_a_graph, "--precision", "fp32")
        assert train.main(cli.parse(flags(digits_dir, run, *more, "--epochs", "8"))) == 0
        losses.append(train_losses(run))
    assert losses[0][-1] < 0.9 * losses[0][0]
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.0)  # Muon is in bfloat16

"""Averaged weights: what they are, and that they are judged, kept and gone on with."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from effssl import cli
from effssl.models import AVERAGED, load_backbone
from effssl.optim import weight_average
from effssl.run.log import read_metrics
from effssl.train import loop as train
from tests.conftest import QUICK, WITH_TABLE


def test_an_average_forgets_its_start_and_then_decays_as_asked():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average, expected = weight_average(model, 0.5), 0.0
    for step in range(30):
        with torch.no_grad():
            model[0].weight.fill_(float(step))
            model[1].running_mean.fill_(float(-step))
            model[1].num_batches_tracked.fill_(step)
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = float(step) if step == 0 else decay * expected + (1 - decay) * step
        assert average.module[0].weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.module[1].running_mean.item() == pytest.approx(-expected, rel=1e-5)
        assert average.module[1].num_batches_tracked.item() == step


class NothingMoved(TorchDispatchMode):
    """Lets no number go from one device to another."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_no_gpu_is_waited_for():
    """A tensor of the device meta has nothing that could be read."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to("meta")
    average = weight_average(model, 0.5)
    with NothingMoved():
        for _ in range(3):
            average.update_parameters(model)
    assert average.n_averaged == 3


@pytest.mark.slow
def test_averaged_weights_are_a_row_and_go_on_with_a_run(digits_dir, tmp_path):
    flags = [*map(str, [*QUICK, "--data-dir", digits_dir, "--epochs", 2, "--ema", 0.9])]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main(cli.parse([*flags, "--out", str(whole), *WITH_TABLE])) == 0
    stopped = ["--max-seconds", "1e-6"]
    assert train.main(cli.parse([*flags, "--out", str(halves), *stopped])) == 0
    assert train.main(cli.parse(["--resume", str(halves), "--max-seconds", "1000"])) == 0
    for file in ("backbone.safetensors", AVERAGED):
        assert (whole / file).read_bytes() == (halves / file).read_bytes()
    last, averaged = (load_backbone(f)[0].state_dict() for f in (whole, whole / AVERAGED))
    assert not torch.equal(last["conv1.weight"], averaged["conv1.weight"])
    rows = json.loads((whole / "result.json").read_text())["final"]["rows"]
    assert list(rows) == ["trained", "averaged", "untrained", "pixels"]
    probes = [r for r in read_metrics(whole) if r["kind"] == "probe"]
    assert probes[0]["averaged/linear"] == probes[0]["linear"]  # before the first step
    assert all(0 < r["averaged/knn"] <= 1 for r in probes)
    assert rows["averaged"]["effective_rank"] != rows["trained"]["effective_rank"]

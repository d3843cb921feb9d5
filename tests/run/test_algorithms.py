"""`--deterministic`: what torch is told."""

from __future__ import annotations

import os

import pytest
import torch

from effssl import cli
from effssl.run.device import choose_algorithms


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    choose_algorithms(torch.device("cpu"), deterministic=False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_algorithms_are_the_fastest_or_those_that_repeat(device):
    choose_algorithms(torch.device(device), deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    choose_algorithms(torch.device(device), deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == (device == "cuda")


def test_a_run_may_go_on_with_or_without(tmp_path):
    cfg = cli.parse(["--deterministic", "--out", str(tmp_path)])
    assert cfg.run.deterministic
    (tmp_path / "config.yaml").write_text(cli.dump(cfg))
    again = cli.parse(["--resume", str(tmp_path), "--no-deterministic"])
    assert not again.run.deterministic

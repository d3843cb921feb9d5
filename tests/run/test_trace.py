"""A trace is of the steps after warm-up, is whole, and is told of."""

from __future__ import annotations

import json

import pytest
import torch

from effssl import cli
from effssl.run.log import Clock
from effssl.run.trace import WARM_UP, tracing
from effssl.train import loop
from tests.conftest import QUICK, dots_for_pictures


def traced(num_steps, steps, file):
    """What was said of `steps` steps, each with one product of matrices."""
    said = []
    with tracing(num_steps, file, Clock(0.0, lambda: None), said.append) as trace:
        for _ in range(steps):
            torch.ones(8, 8) @ torch.ones(8, 8)
            trace.step()
    return said


def products(file):
    return sum(e.get("name") == "aten::mm" for e in json.loads(file.read_text())["traceEvents"])


@pytest.mark.parametrize(("steps", "expected"), [(WARM_UP + 6, 3), (WARM_UP + 2, 2)])
def test_the_steps_after_warm_up_are_traced(tmp_path, steps, expected):
    (text,) = traced(3, steps, tmp_path / "trace.json")
    assert products(tmp_path / "trace.json") == expected
    assert f"trace.json: {expected} steps" in text and "aten::mm" in text
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]


def test_too_few_steps_are_told_of(tmp_path):
    (text,) = traced(3, WARM_UP, tmp_path / "trace.json")
    assert text.startswith("--profile 3: no trace")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_traced_unless_asked(tmp_path):
    assert traced(0, WARM_UP + 3, tmp_path / "trace.json") == []
    assert list(tmp_path.iterdir()) == []


@dots_for_pictures()
def test_a_training_traces_its_steps(digits_dir, tmp_path):
    out = tmp_path / "run"
    flags = [*QUICK, "--data-dir", digits_dir, "--out", out, "--final-images", 0, "--profile", 2]
    assert loop.main(cli.parse([*map(str, flags), "--epochs", "2", "--probe-every", "0"])) == 0
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert sum(name == "Optimizer.step#Muon.step" for name in names) == 2


@pytest.mark.parametrize(
    ("flags", "steps"), [([], 0), (["--profile"], 20), (["--profile", "--views", "3"], 20)]
)
def test_a_flag_alone_asks_for_20_steps(flags, steps):
    assert cli.parse(flags).run.profile == steps
    assert cli.parse(["--profile", "7"]).run.profile == cli.parse(["--profile=7"]).run.profile == 7

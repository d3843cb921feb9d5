"""--go-on: the same command begins a run, goes on with it, and says when it is finished."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from effssl import InputError, cli
from effssl.run.log import read_metrics
from effssl.train import loop as train
from tests.conftest import QUICK, command


def flags(digits_dir, run, *more) -> list[str]:
    own = ("--data-dir", digits_dir, "--out", run, "--epochs", 4, "--probe-every", 0)
    own = (*own, "--val-fraction", 0.1, "--save-every-s", 0, "--precision", "fp32", *more)
    return [str(flag) for flag in (*QUICK, *own)]


def weights(run) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["model"]


def test_one_command_begins_goes_on_and_ends(digits_dir, tmp_path, capsys):
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train.main(cli.parse(flags(digits_dir, whole))) == 0
    again = flags(digits_dir, run, "--go-on")
    assert train.main(cli.parse([*again, "--max-seconds", "1e-6"])) == 0
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 20
    assert train.main(cli.parse([*again, "--max-seconds", "1e6"])) == 0
    capsys.readouterr()
    assert train.main(cli.parse([*again, "--max-seconds", "1e6"])) == 0
    assert "is finished" in capsys.readouterr().out
    steps = [r["step"] for r in read_metrics(run) if r["kind"] == "train"]
    assert steps == list(range(1, 21))
    expected, found = weights(whole), weights(run)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not cli.parse(["--config", str(run / "config.yaml")]).run.go_on


def test_other_settings_are_those_of_another_run(digits_dir, tmp_path):
    run = tmp_path / "run"
    assert train.main(cli.parse(flags(digits_dir, run, "--max-seconds", "1e-6"))) == 0
    with pytest.raises(InputError, match=r"the settings differ from the run's: --lr .* -> 0\.5"):
        cli.parse(flags(digits_dir, run, "--go-on", "--lr", "0.5"))
    with pytest.raises(InputError, match="--go-on needs --out"):
        cli.parse(["--go-on"])
    (tmp_path / "own.yaml").write_text("go_on: true\n")
    with pytest.raises(InputError, match="unknown key go_on"):
        cli.parse(["--config", str(tmp_path / "own.yaml")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("init", "runs/other"),
        ("init", "resnet18=weights.pth"),
        ("teacher", "~/other"),
        ("paired", "vectors.npz"),
        ("lr", "auto"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_a_path_or_rate_given_again_is_the_one_that_the_run_has(
    tmp_path, monkeypatch, name, value, in_file
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(f"{name}: {value}\n")
    asked = ["--config", "own.yaml"] if in_file else [f"--{name}", value]
    asked += ["--optimizer", "muon", "--out", "run", "--go-on"]
    begun(asked)
    cfg = cli.parse(asked)
    assert cfg.run.resume == cfg.run.out == Path("run")
    other = {"init": "timm", "lr": "0.5"}.get(name, "x")
    with pytest.raises(InputError, match=rf"--{name} \S+ -> "):
        cli.parse([*asked, f"--{name}", other])


def begun(asked: list[str]) -> None:
    """Write the settings of a run that a command has begun."""
    out = (cfg := cli.parse(asked)).run.out
    out.mkdir()
    (out / "config.yaml").write_text(cli.dump(cfg))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_starts_a_killed_process_again_and_nothing_is_lost(digits_dir, tmp_path):
    """In two processes, of which each is killed once: the run ends where an undisturbed one ends,
    bit for bit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def begun(run) -> subprocess.Popen:
        python, *rest = command(flags(digits_dir, run, "--go-on"))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.Popen(
            [python, *torchrun, "--max-restarts", "2", "--monitor-interval", "0.1", *rest],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ended(process) -> None:
        said, _ = process.communicate(timeout=280)
        assert process.returncode == 0, said

    whole, run = tmp_path / "whole", tmp_path / "run"
    ended(begun(whole))
    disturbed = begun(run)
    killed = []
    for rank, after in ((0, 2), (1, 7)):
        deadline = time.monotonic() + 280
        while (
            sum(r["kind"] == "train" for r in read_metrics(run)) < after
            or len(workers := workers_of(disturbed.pid)) < 2
            or not {*killed}.isdisjoint(workers)  # those of before, which torchrun is yet to end
        ):
            assert disturbed.poll() is None, disturbed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(workers[rank], signal.SIGKILL)
        killed += workers
    ended(disturbed)
    assert [r["step"] for r in read_metrics(run) if r["kind"] == "train"] == list(range(1, 21))
    expected, found = weights(whole), weights(run)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def workers_of(agent: int) -> list[int]:
    """Return torchrun's processes, by rank."""
    # Without any, as between an end and a new start, ps ends with 1.
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(agent)], capture_output=True, text=True, check=False
    ).stdout.split()
    workers = {}
    for pid in map(int, children):
        with contextlib.suppress(OSError):  # it ended just now
            content = Path(f"/proc/{pid}/environ").read_bytes()
            variables = dict(v.split(b"=", 1) for v in content.split(b"\0") if b"=" in v)
            if b"RANK" in variables:
                workers[int(variables[b"RANK"])] = pid
    return [workers[rank] for rank in sorted(workers)]

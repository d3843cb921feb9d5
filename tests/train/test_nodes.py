"""Two machines, each with a torchrun of its own: two network namespaces joined by a cable.

Making namespaces needs root; without it both are on one address.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from effssl.run.log import read_metrics
from tests.conftest import QUICK, command
from tests.train.test_go_on import weights, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 60


class Nodes:
    """Two machines: the commands that run something there, their addresses and networks."""

    def __init__(self, prefixes: list[list[str]], addresses: list[str], networks: list[str]):
        self.prefixes, self.addresses, self.networks = prefixes, addresses, networks
        self.started: list[subprocess.Popen] = []

    def torchrun(
        self, node: int, nodes: str, port: int, flags: list, log: Path
    ) -> subprocess.Popen:
        """Start the agent of one node, which waits for the others."""
        python, *rest = command(flags)
        agent = ["-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1"]
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{self.addresses[0]}:{port}"]
        meet += ["--local-addr", self.addresses[node]]
        meet += ["--rdzv-id", "effssl", "--max-restarts", "5", "--monitor-interval", "0.1"]
        conf = f"is_host={int(node == 0)},last_call_timeout=3,join_timeout=250"
        meet += ["--rdzv-conf", f"{conf},keep_alive_interval=3"]
        network = {"GLOO_SOCKET_IFNAME": self.networks[node]}
        # Else an agent that comes back waits for an address that nobody says again.
        network |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.started.append(
            subprocess.Popen(
                [*self.prefixes[node], python, *agent, *meet, *rest],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | network,
                stdout=log.open("a"),
                stderr=subprocess.STDOUT,
            )
        )
        return self.started[-1]


def end(agent: subprocess.Popen) -> None:
    """Kill all that runs on a machine."""
    if agent.poll() is None:
        for process in (*workers_of(agent.pid), agent.pid):
            os.kill(process, signal.SIGKILL)
        agent.wait()


@contextlib.contextmanager
def running() -> Iterator[Nodes]:
    """Two machines, on which nothing runs in the end."""
    with _two_nodes() as two:
        try:
            yield two
        finally:
            for agent in two.started:
                end(agent)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with running() as two:
        yield two


@pytest.fixture(scope="module")
def whole(digits_dir, tmp_path_factory) -> Path:
    """An undisturbed run of two machines."""
    folder = tmp_path_factory.mktemp("whole")
    log, run = folder / "log", folder / "run"
    with running() as two:
        ended([two.torchrun(i, "2", 29_510, flags(digits_dir, run), log) for i in range(2)], log)
    return run


def _run(step: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(step, capture_output=True, check=False)


@contextlib.contextmanager
def _two_nodes() -> Iterator[Nodes]:
    names = [f"effssl-{os.getpid()}-{i}" for i in range(2)]
    ends = [f"e{os.getpid() % 100_000}-{i}" for i in range(2)]
    addresses = ["10.213.0.1", "10.213.0.2"]
    cable = ["ip", "link", "add", ends[0], "netns", names[0], "type", "veth"]
    steps = [["ip", "netns", "add", name] for name in names]
    steps.append([*cable, "peer", "name", ends[1], "netns", names[1]])
    for name, end, address in zip(names, ends, addresses, strict=True):
        inside = ["ip", "-n", name]
        steps.append([*inside, "address", "add", f"{address}/24", "dev", end])
        steps += [[*inside, "link", "set", each, "up"] for each in (end, "lo")]
    try:
        for step in steps:
            if not shutil.which("ip") or _run(step).returncode:
                yield Nodes([[], []], 2 * ["127.0.0.1"], ["lo", "lo"])
                return
        yield Nodes([["ip", "netns", "exec", name] for name in names], addresses, ends)
    finally:
        for name in names:
            if shutil.which("ip"):
                _run(["ip", "netns", "delete", name])


def flags(digits_dir: Path, run: Path) -> list:
    own = ["--data-dir", digits_dir, "--out", run, "--epochs", STEPS // 5, "--probe-every", 0]
    return [*QUICK, *own, "--save-every-s", 0, "--precision", "fp32", "--go-on"]


def num_steps(run: Path) -> int:
    return sum(record["kind"] == "train" for record in read_metrics(run))


def wait_for(run: Path, steps: int, agents: list[subprocess.Popen], log: Path) -> None:
    deadline = time.monotonic() + 280
    while num_steps(run) < steps:
        assert all(agent.poll() is None for agent in agents), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def ended(agents: list[subprocess.Popen], log: Path) -> None:
    for agent in agents:
        assert agent.wait(timeout=280) == 0, log.read_text()


def test_a_node_that_dies_and_comes_back_loses_nothing(nodes, digits_dir, tmp_path, whole):
    """The run ends where an undisturbed one of two nodes ends, bit for bit."""
    log, run = tmp_path / "log", tmp_path / "run"

    def begun(node: int) -> subprocess.Popen:
        return nodes.torchrun(node, "2", 29_520, flags(digits_dir, run), log)

    first, second = begun(0), begun(1)
    wait_for(run, 5, [first, second], log)
    end(second)
    assert num_steps(run) < STEPS
    time.sleep(1)
    ended([first, begun(1)], log)
    steps = [r["step"] for r in read_metrics(run) if r["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    expected, found = weights(whole), weights(run)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_goes_on_with_the_nodes_that_are_left(nodes, digits_dir, tmp_path, whole):
    """Under --nnodes 1:2: to the end of its steps, with the losses of two to rounding."""
    log, run = tmp_path / "log", tmp_path / "run"
    first, second = (
        nodes.torchrun(i, "1:2", 29_540, flags(digits_dir, run), log) for i in range(2)
    )
    wait_for(run, 5, [first, second], log)
    end(second)
    assert num_steps(run) < STEPS
    ended([first], log)
    one, two = (
        [r["loss"] for r in read_metrics(each) if r["kind"] == "train"] for each in (run, whole)
    )
    assert len(one) == len(two) == STEPS
    assert one == pytest.approx(two, rel=2e-2)  # torch's own BatchNorm rounds more

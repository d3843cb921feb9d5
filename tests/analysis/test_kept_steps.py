"""Costs of steps that are kept, and when they are measured anew."""

import pytest
import torch

from analysis.benchmarks import kept_steps, step
from effssl import cli
from tests.analysis.made_runs import TINY

CONFIGS = {"a": cli.parse([*TINY, "--views", "2"])}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return a function that gives the costs, of which `ms` is how often they were measured."""
    calls = []

    def measure(configs, *, threads):
        calls.append(threads)
        return {name: {"loader": len(calls)} for name in configs}

    monkeypatch.setattr(step, "measure", measure)

    def cost_of(record=None, *, threads=1, here=True):
        file = tmp_path / "cost.json"
        return kept_steps.kept_or_measured(CONFIGS, file, record, threads=threads, here=here)

    return cost_of


def ms(cost) -> int:
    return cost["ms"]["a"]["loader"]


def test_costs_note_the_threads_that_they_were_measured_with(kept):
    cost = kept(threads=torch.get_num_threads() + 1)
    assert cost["threads"] == cost["hardware"]["threads"] == torch.get_num_threads() + 1


def test_costs_of_this_machine_are_measured_once_for_so_many_threads(kept):
    assert [ms(kept()), ms(kept())] == [1, 1]
    assert [ms(kept(threads=2, here=False)), ms(kept(threads=2)), ms(kept(threads=2))] == [1, 2, 2]


@pytest.mark.parametrize("other", [{"cpu": "another"}, {"cpu_vectors": None}, {"gpu": "one"}, {}])
def test_costs_of_another_machine_are_for_runs_of_another_machine(other, kept, tmp_path):
    of_here = kept()
    (tmp_path / "cost.json").unlink()
    record = {"kind": "step_cost"} | of_here | {"hardware": of_here["hardware"] | other}
    if not other:
        del record["threads"]  # as before they were noted
    assert ms(kept(record, here=False)) == 1
    assert ms(kept(record)) == 2

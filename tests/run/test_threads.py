"""How many threads load, and how torch's wait."""

from __future__ import annotations

import os
import sys

import pytest

from effssl.run import threads


@pytest.mark.parametrize(
    ("num_cores", "num_processes", "on_a_gpu", "on_a_cpu"),
    [
        (1, None, 1, 1),
        (2, None, 2, 1),
        (6, None, 6, 1),
        (16, None, 8, 4),
        (64, None, 8, 8),
        (16, "4", 4, 1),
    ],
)
def test_images_are_loaded_by_all_cores_of_a_process_or_by_a_quarter_of_them(
    monkeypatch, num_cores, num_processes, on_a_gpu, on_a_cpu
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if num_processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", num_processes)
    assert threads.loading_threads("cuda") == threads.own_cores() == on_a_gpu
    assert threads.loading_threads("cpu") == on_a_cpu


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_wait_awake_unless_the_user_says_how(monkeypatch, own):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    monkeypatch.setattr(os, "environ", dict(own))
    monkeypatch.setattr(sys, "platform", "linux")
    threads.keep_threads_awake()
    assert os.environ == (own or dict(zip(names, ("active", "300000"), strict=True)))


def test_threads_wait_as_they_do_elsewhere(monkeypatch):
    """torch's OpenMP is another one there, which would wait awake for ever."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(sys, "platform", "darwin")
    threads.keep_threads_awake()
    assert os.environ == {}

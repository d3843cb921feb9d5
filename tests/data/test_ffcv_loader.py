from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from effssl.data.beton import ensure_beton
from effssl.data.ffcv_loader import batches, open_loader
from effssl.data.sources import open_source
from tests.conftest import STORE, growth_mb

CPU = torch.device("cpu")


def test_a_failure_in_ffcvs_thread_surfaces_within_seconds(digits_dir):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", **STORE)
    loader = open_loader(beton.path, 64, 1, None)
    code, outputs = loader.code

    def fail(**arguments):
        raise OSError("the disk is gone")

    loader.code = ([(fail, defined) for _, defined in code], outputs)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(batches(loader, np.arange(256), CPU))
    assert time.monotonic() - began < 5


def test_early_stops_leave_no_thread(digits_dir):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", **STORE)
    loader = open_loader(beton.path, 64, 1, None)
    before = threading.active_count()
    for _ in range(5):
        for _images, _positions in batches(loader, np.arange(1024), CPU):
            break
    assert threading.active_count() == before


def test_memory_does_not_grow_over_200_epochs(digits_dir):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", **STORE)
    assert growth_mb(open_loader, beton.path, 64, 2, None, count=640) < 8  # a batch kept of each pass: 10


@pytest.mark.parametrize("module", ["effssl.data.ffcv_loader", "effssl.data.beton", "effssl.evaluation.encode"])
def test_importing_ffcv_leaves_torchs_threads_alone(module):
    script = f"import torch; torch.set_num_threads(2); import {module}; print(torch.get_num_threads())"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.split()[-1] == "2"


@pytest.mark.parametrize("workers", [1, 2])
def test_loading_leaves_torchs_threads_alone(digits_dir, workers):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", **STORE)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    list(batches(open_loader(beton.path, 64, workers, None), np.arange(128), CPU))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)


def test_more_workers_than_cores_that_the_process_may_use(digits_dir):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", **STORE)
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import numpy, torch;"
        "from effssl.data.loader import batches, open_loader;"
        "print(sum(len(x) for x, _ in batches(open_loader(sys.argv[1], 64, 8, None), numpy.arange(100), "
        "torch.device('cpu'))))"
    )
    said = subprocess.run([sys.executable, "-c", script, str(beton.path)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["100"]

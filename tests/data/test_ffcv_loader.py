from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from effssl.data.beton import ensure_beton
from effssl.data.ffcv_decoders import WholeImageDecoder
from effssl.data.ffcv_loader import open_loader, read_batches
from effssl.data.sources import open_source
from tests.conftest import STORE, growth_mb

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(digits_dir) -> Path:
    """The .beton of the digits."""
    source = open_source("digits", digits_dir, "train")
    return ensure_beton(source, digits_dir / "beton", "digits-train", STORE).path


def open_digits(digits: Path, workers: int):
    return open_loader(digits, 64, workers, WholeImageDecoder())


def test_a_failure_in_ffcvs_thread_surfaces_within_seconds(digits):
    loader = open_digits(digits, 1)
    code, outputs = loader.code

    def fail(**arguments):
        raise OSError("the disk is gone")

    loader.code = ([(fail, defined) for _, defined in code], outputs)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(read_batches(loader, np.arange(256), CPU))
    assert time.monotonic() - began < 5


def test_early_stops_leave_no_thread(digits):
    loader = open_digits(digits, 1)
    before = threading.active_count()
    for _ in range(5):
        for _images, _positions in read_batches(loader, np.arange(1024), CPU):
            break
    assert threading.active_count() == before


def test_memory_does_not_grow_over_200_epochs(digits):
    assert growth_mb(open_digits, digits, 2, count=640) < 8  # a batch kept of each pass: 10


@pytest.mark.parametrize(
    "module", ["effssl.data.ffcv_loader", "effssl.data.beton", "effssl.evaluation.encode"]
)
def test_importing_ffcv_leaves_torchs_threads_alone(module):
    script = (
        f"import torch; torch.set_num_threads(2); import {module}; print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "2"


@pytest.mark.parametrize("workers", [1, 2])
def test_loading_leaves_torchs_threads_alone(digits, workers):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    list(read_batches(open_digits(digits, workers), np.arange(128), CPU))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)


def test_more_workers_than_cores_that_the_process_may_use(digits):
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "import numpy, torch;"
        "from effssl.data.ffcv_loader import open_loader, read_batches;"
        "from effssl.data.ffcv_decoders import WholeImageDecoder;"
        "loader = open_loader(sys.argv[1], 64, 8, WholeImageDecoder());"
        "batches = read_batches(loader, numpy.arange(100), torch.device('cpu'));"
        "print(sum(len(images) for images, _ in batches))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(digits)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["100"]

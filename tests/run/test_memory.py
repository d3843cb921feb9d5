"""The memory of a process that trains on a CPU."""

import ctypes
import subprocess
import sys

import pytest

CHILD = """
import resource, torch
from effssl.run.device import open_runtime

def pages_cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**14, 1024)  # pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

open_runtime("cpu")
print(*(pages_cleared() for _ in range(20)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc only")
def test_a_freed_tensor_leaves_its_memory_to_the_next():
    child = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True
    )
    first, *_, last = map(int, child.stdout.split())  # gaps between what else is there fill up
    assert first > 2**13 > 100 * last

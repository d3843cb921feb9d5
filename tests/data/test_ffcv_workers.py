from __future__ import annotations

import subprocess
import sys

import pytest

INTERRUPTED_AMID_A_FORK = """
import os, signal, threading, time
from effssl.data.ffcv_workers import Worker

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # it may take the signal
os.register_at_fork(after_in_parent=interrupt)
worker = Worker(target=time.sleep, args=(60,), daemon=True)
try:
    worker.start()
except KeyboardInterrupt:
    print("heard", worker.is_alive())
    os.kill(worker.pid, signal.SIGINT)
    worker.join(timeout=0.5)
    print(worker.is_alive())
    worker.kill()
"""


@pytest.mark.slow
def test_ctrl_c_amid_the_start_of_a_worker_is_heard_once_the_worker_is_known():
    command = [sys.executable, "-c", INTERRUPTED_AMID_A_FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.split() == ["heard", "True", "True"], done.stderr

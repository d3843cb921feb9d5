"""Machines where FFCV cannot be had: every job runs, and says in one line what reads the images.

Modules that are None in sys.modules cannot be imported; those of POSIX are so on Windows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK, varied_sizes, write_class_folders

pytestmark = pytest.mark.slow

MISSING = ("ffcv", "cv2", "fcntl", "resource", "pwd", "grp", "termios")
START = (
    f"import sys; sys.modules.update(dict.fromkeys({MISSING}));"
    "import signal;"
    "[delattr(signal, name) for name in ('SIGALRM', 'SIGUSR1', 'setitimer', 'pthread_sigmask')];"
    "from effssl.__main__ import main; sys.exit(main(sys.argv[1:]))"
)
REASON = "No module named 'ffcv.loader'; 'ffcv' is not a package"
SAID = f"FFCV cannot be imported ({REASON}): threads read the images"


def effssl(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    # Without fcntl, filelock warns on Linux.
    command = [sys.executable, "-W", "ignore", "-c", START, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False
    )


def test_every_job_runs(tmp_path):
    flags = varied_sizes(tmp_path)
    train = ["train", *QUICK, *flags, "--epochs", 2, "--out", "run"]
    done = effssl(*train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(SAID) == 1
    data = flags[:4]
    for job in (
        ["prepare", *data],
        ["evaluate", "run"],
        ["export", "run", "--to", "exported"],
        ["embed", "run", *data, "--to", "embedded.npz"],
        ["train", *QUICK, *flags, "--epochs", 3, "--resume", "run"],
    ):
        done = effssl(*job, cwd=tmp_path)
        assert done.returncode == 0, (job, done.stdout, done.stderr)


def test_what_ffcv_has_written_is_read_and_the_run_ends_as_with_it(tmp_path):
    """Of images that are stored raw, as small ones of one size are."""
    images = write_class_folders(tmp_path / "set", per_class=20, side=20)
    flags = ["--data", "folder", "--data-dir", images, "--batch-size", 16]
    train = ["train", *QUICK, *flags, "--epochs", 2, "--probe-every", 0]
    with_ffcv = subprocess.run(
        [sys.executable, "-m", "effssl", *map(str, train), "--out", "with"],
        cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert with_ffcv.returncode == 0, with_ffcv.stderr
    without = effssl(*train, "--out", "without", cwd=tmp_path)
    assert without.returncode == 0, without.stderr
    assert "writing" not in without.stdout
    ours, theirs = (tmp_path / run / "backbone.safetensors" for run in ("without", "with"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_asking_for_ffcv_is_an_error_in_one_line(tmp_path):
    done = effssl("train", *QUICK, "--loader", "ffcv", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--loader ffcv: FFCV cannot be imported" in done.stderr
    assert "--loader threads does without" in done.stderr
    assert not (tmp_path / "run").exists()

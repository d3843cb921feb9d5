"""Machines where FFCV cannot be had: every job runs, and says in one line what reads the images.

Modules that are None in sys.modules cannot be imported; those of POSIX are so on Windows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from effssl.__main__ import main
from tests.conftest import QUICK, dots_for_pictures, varied_sizes, write_class_folders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MISSING = ("ffcv", "cv2", "fcntl", "resource", "pwd", "grp", "termios")
# Does jobs one after the other, as starting each takes seconds, and says how each of them ended.
DO = f"""
import contextlib, io, json, signal, sys
sys.modules.update(dict.fromkeys({MISSING}))
for name in ("SIGALRM", "SIGUSR1", "setitimer", "pthread_sigmask"):
    delattr(signal, name)
from effssl.__main__ import main
for job in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(job)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
REASON = "No module named 'ffcv.loader'; 'ffcv' is not a package"
SAID = f"FFCV cannot be imported ({REASON}): threads read the images"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Done(NamedTuple):
    folder: Path
    jobs: list[Ended]  # train, prepare, evaluate, export, embed, train on
    read: Ended  # a training on what FFCV has written, in without/ as that with FFCV in with/
    asked: Ended  # a training that asks for FFCV


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("without-ffcv")
    flags = [*QUICK, *varied_sizes(folder)]
    data = flags[len(QUICK) :][:4]
    # Images that are stored raw, as small ones of one size are
    raw = write_class_folders(folder / "raw", per_class=20, side=20)
    of_raw = ["train", *QUICK, "--data", "folder", "--data-dir", str(raw), "--batch-size", "16"]
    of_raw += ["--epochs", "2", "--probe-every", "0"]
    with dots_for_pictures():
        assert main([*of_raw, "--out", str(folder / "with")]) == 0
    jobs = [
        ["train", *flags, "--epochs", "2", "--out", "run"],
        ["prepare", *data],
        ["evaluate", "run"],
        ["export", "run", "--to", "exported"],
        ["embed", "run", *data, "--to", "embedded.npz"],
        ["train", *flags, "--epochs", "3", "--resume", "run"],
        [*of_raw, "--out", "without"],
        ["train", *QUICK, "--loader", "ffcv", "--out", "refused"],
    ]
    # Without fcntl, filelock warns on Linux.
    command = [sys.executable, "-W", "ignore", "-c", DO, json.dumps(jobs)]
    process = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=800, check=False
    )
    assert process.returncode == 0, process.stderr
    *ended, read, asked = (Ended(*json.loads(line)) for line in process.stdout.splitlines())
    return Done(folder, ended, read, asked)


def test_every_job_runs(done):
    assert len(done.jobs) == 6
    assert [each for each in done.jobs if each.code] == []
    assert done.jobs[0].out.count(SAID) == 1
    assert (done.folder / "exported").is_dir() and (done.folder / "embedded.npz").is_file()
    assert json.loads((done.folder / "run" / "result.json").read_text())["steps"] == 6


def test_what_ffcv_has_written_is_read_and_the_run_ends_as_with_it(done):
    assert done.read.code == 0, done.read
    assert "writing" not in done.read.out
    ours, theirs = (done.folder / run / "backbone.safetensors" for run in ("without", "with"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_asking_for_ffcv_is_an_error_in_one_line(done):
    assert done.asked.code == 2
    assert done.asked.err.count("\n") == 1
    assert "--loader ffcv: FFCV cannot be imported" in done.asked.err
    assert "--loader threads does without" in done.asked.err
    assert not (done.folder / "refused").exists()

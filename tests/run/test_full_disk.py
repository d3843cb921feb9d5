"""A disk that fills up at any file that a run writes: one line, and nothing half-written stays.

The limit on the size of files, which the system enforces as a quota, stands for the disk.
"""

from __future__ import annotations

import contextlib
import resource
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from effssl import InputError, cli
from effssl.models import BackboneSpec, save_backbone
from effssl.run import checkpoint
from effssl.run.files import append_line, write_json
from effssl.run.log import RunLog, read_metrics
from effssl.train import loop as train
from tests.conftest import QUICK, command, dots_for_pictures
from tests.run.test_records import record


@contextlib.contextmanager
def files_of_at_most(num_bytes: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def weights(file: Path) -> None:
    spec = BackboneSpec("resnet18", 8, "auto", "{}", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    save_backbone(torch.nn.Linear(300, 300), file, spec)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: checkpoint.save(file, {"a": torch.ones(30000), "b": torch.ones(30000)}),
        lambda file: checkpoint.save(file, {"step": 1, "weights": torch.ones(3000)}),
        lambda file: write_json(file, {"a": "x" * 50_000}),
        weights,
    ],
)
def test_a_file_is_whole_or_the_one_before_and_the_error_names_it(tmp_path, write):
    file = tmp_path / "file"
    file.write_text("the one before")
    with files_of_at_most(10_000), pytest.raises(InputError) as caught:
        write(file)
    assert str(caught.value) == f"{file} cannot be written: File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "the one before"


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append_line(file, "a" * 99)
    with files_of_at_most(150), pytest.raises(InputError, match=r"metrics.jsonl cannot be written"):
        append_line(file, "b" * 99)
    assert file.read_text() == "a" * 99 + "\n"


def test_tensorboard_is_named_without_a_traceback_of_its_thread(tmp_path, capsys):
    log = RunLog(tmp_path, start=record(0), total_steps=10)
    log.train(record(1, loss=1.0))
    (events,) = (tmp_path / "tensorboard").iterdir()
    (tmp_path / "metrics.jsonl").write_text("")
    limit = events.stat().st_size + 20
    with files_of_at_most(limit), pytest.raises(InputError) as caught:
        log.probe(record(2, linear=0.5))
    assert str(caught.value) == f"{tmp_path / 'tensorboard'} cannot be written: File too large"
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(InputError, match=r"tensorboard cannot be written"):
        log.train(record(3, loss=1.0))  # its thread has ended: nothing waits for it


@pytest.mark.slow
@dots_for_pictures()
def test_a_run_ends_with_one_line_and_goes_on_from_its_last_checkpoint(
    digits_dir, tmp_path, capsys
):
    run = tmp_path / "run"
    flags = [*QUICK, "--data-dir", digits_dir, "--out", run, "--epochs", 2, "--final-images", 0]
    flags += ["--probe-every", 1]
    assert train.main(cli.parse([*map(str, flags), "--max-seconds", "1e-6"])) == 0
    kept = (run / "checkpoint.pt").read_bytes()
    on = ["--resume", str(run), "--max-seconds", "1000"]
    (run / "result.json").unlink()
    capsys.readouterr()
    with files_of_at_most(50_000):
        assert train.main(cli.parse(on)) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == (
        f"error: {run / 'checkpoint.pt'} cannot be written: File too large; the last checkpoint "
        f"is whole: go on with --resume {run}"
    )
    assert "Traceback" not in err
    assert (run / "checkpoint.pt").read_bytes() == kept
    assert not [path for path in run.iterdir() if path.suffix == ".tmp"]
    assert train.main(cli.parse(on)) == 0
    assert [r["step"] for r in read_metrics(run) if r["kind"] == "train"] == list(range(1, 11))


@pytest.mark.slow
@dots_for_pictures()
def test_a_run_without_room_for_its_first_checkpoint_can_begin_later(digits_dir, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*QUICK, "--data-dir", digits_dir, "--out", run, "--epochs", 1, "--final-images", 0]
    with files_of_at_most(50_000):
        assert train.main(cli.parse([*map(str, flags)])) == 2
    assert "File too large; no checkpoint was written yet" in capsys.readouterr().err
    assert train.main(cli.parse(["--resume", str(run)])) == 0


@pytest.mark.slow
def test_a_disk_that_is_full_at_what_a_teacher_says_is_one_line(digits_dir, finished, tmp_path):
    """A real one, of 40 kB: on it, but not beyond a limit, a file may have holes where it is full.

    Its 1,437 rows of 16 numbers of float16 take 46 kB.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=40k tmpfs {shlex.quote(str(disk))}"
    if not shutil.which("unshare") or subprocess.run([*own, mount], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    flags = [*QUICK, "--data-dir", digits_dir, "--out", disk / "run", "--teacher", finished]
    listed = f"{mount} && {shlex.join(command(flags))}; echo code $?; ls -A {disk / 'run'}"
    done = subprocess.run([*own, listed], capture_output=True, text=True, timeout=240, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"error: {disk / 'run' / 'teacher.npy'} cannot be written: No space left on device; no "
        "checkpoint was written yet"
    )
    _, after = done.stdout.split("code 2\n")
    assert "config.yaml" in after and "teacher" not in after

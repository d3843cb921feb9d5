"""What a training would take, from some of its steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from effssl import cli
from effssl.data.stored import SAMPLED, open_sample
from effssl.image_config import Images
from effssl.run import distributed
from effssl.train import loop as train
from effssl.train import plan
from tests.conftest import QUICK, varied_sizes, write_class_folders

pytestmark = pytest.mark.slow


def test_a_plan_says_what_a_training_takes_and_leaves_nothing(
    digits_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(plan, "AT_LEAST_S", 0.2)
    monkeypatch.chdir(tmp_path)
    flags = [*QUICK, "--data-dir", digits_dir, "--first-size", 8, "--image-size", 16, "--plan"]
    assert train.main(cli.parse([*map(str, flags), "--grow-by", "8", "--epochs", "3"])) == 0
    assert list(tmp_path.iterdir()) == []
    images, what, first, last, memory, time, disk = capsys.readouterr().out.splitlines()
    assert images.startswith("digits: 1437 training images, 1295 of them to pretrain on; stored")
    assert "2 views (of 8 px at first, 16 px at last), proj-dim 16, resnet18: 0.0 M" in what
    assert re.match(r"12 steps of 512 views of 8 px: \d+ ms a step, \d+ views/s", first)
    assert re.match(r"3 steps of 512 views of 16 px: \d+ ms a step, \d+ views/s", last)
    gib = re.match(r"memory at its peak: ([\d.]+) GiB of the process", memory)
    assert 0.2 < float(gib[1]) < 8
    seconds = [
        int(m[1]) * int(m[2]) / 1000
        for m in (re.match(r"(\d+) steps .*: (\d+) ms", line) for line in (first, last))
    ]
    minutes = re.match(r"3 epochs, 15 steps: ([\d.]+) minutes, probes apart", time)
    assert float(minutes[1]) == pytest.approx(sum(seconds) / 60, abs=0.1)
    sizes = re.match(r"disk: checkpoint.pt ([\d.]+) MB \(twice .*\), backbone.* ([\d.]+) MB", disk)
    assert 10 > float(sizes[1]) > float(sizes[2]) > 0  # the checkpoint has the backbone in it


def test_a_plan_for_more_images_than_there_are(tmp_path, monkeypatch, capsys):
    """As for a set that lies elsewhere: the steps are those of its number of images."""
    monkeypatch.setattr(plan, "AT_LEAST_S", 0.2)
    flags = [*QUICK, *varied_sizes(tmp_path), "--batch-size", "512", "--plan", "100000"]
    assert train.main(cli.parse(flags)) == 0
    said = capsys.readouterr().out
    assert "folder: 100000 training images, 90000 of them to pretrain on" in said
    assert "17500 steps of 1024 views" in said  # 100 epochs of 175
    assert not (tmp_path / "set" / "beton").exists()


# Each process times steps for as short as a test needs.
PLANS = """
import sys
from effssl.__main__ import main
from effssl.train import plan
plan.AT_LEAST_S = 0.2
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_several_processes_plan_together_and_one_talks(digits_dir, finished, tmp_path):
    """They take as many steps, or they would wait for each other, and share what the teacher
    made."""
    (script := tmp_path / "plans.py").write_text(PLANS)
    flags = [*QUICK, "--data-dir", digits_dir, "--teacher", finished, "--plan"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    (folder := tmp_path / "folder").mkdir()
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), *map(str, flags)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    images, *_, disk = done.stdout.splitlines()
    assert images.startswith("digits: 1437 training images") and disk.startswith("disk: ")
    assert done.stdout.count("steps of 512 views of 8 px") == 1
    assert done.stdout.count("disk: ") == 1
    assert list(folder.iterdir()) == []


def test_of_several_processes_one_looks(digits_dir, tmp_path, monkeypatch, capsys):
    file = tmp_path / "look.png"
    cfg = cli.parse(["--data-dir", str(digits_dir), "--look", str(file)])
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "is_first", lambda: False)
        assert train.main(cfg) == 0
    assert not file.exists() and capsys.readouterr().out == ""
    assert train.main(cfg) == 0
    assert file.exists() and capsys.readouterr().out.count("repeated: ") == 1


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_sample_stands_for_all_images(tmp_path, suffix):
    """In bytes as in positions: to each image that trains belongs one of the sample."""
    side = 12 if suffix == "png" else 40
    root = write_class_folders(tmp_path / "set", per_class=30, side=side, suffix=suffix)
    images = Images(data="folder", data_dir=root, val_fraction=0.2)
    whole = open_sample(images, tmp_path / "few")
    assert whole.num_images == 60 and len(whole.data.pretrain_positions) == 48
    assert whole.data.val_positions.max() < 60 <= SAMPLED
    more = open_sample(images, tmp_path / "few", 600)
    assert more.num_bytes == pytest.approx(10 * whole.num_bytes, rel=0.01)
    assert len(more.data.pretrain_positions) == 480
    assert more.data.pretrain_positions.max() < 60
    if suffix == "png":
        assert whole.num_bytes == 60 * 12 * 12 * 3


def test_a_duration_is_in_hours_or_minutes():
    assert [plan._duration(s) for s in (90, 3600, 86400)] == [
        "1.5 minutes",
        "1.0 hours",
        "24.0 hours",
    ]

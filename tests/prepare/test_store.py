from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import ffcv.reader
import ffcv.types
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from effssl import InputError
from effssl.data import beton, ffcv_writer, storing
from effssl.data.stored import open_data, open_split
from effssl.image_config import Images, Storage
from effssl.prepare.store import main
from tests.conftest import read_all, write_class_folders

pytestmark = pytest.mark.slow


def storage_of(root: Path, **others) -> Storage:
    return Storage(data="folder", data_dir=root, **others)


def images_of(root: Path, **others) -> Images:
    return Images(data="folder", data_dir=root, val_fraction=0.5, **others)


def names_in(folder: Path) -> list[str]:
    """All but locks, which stay on purpose."""
    return sorted(p.name for p in folder.glob("*") if p.suffix != ".lock")


def write_varied(root: Path, count: int = 30) -> Path:
    """Two classes of `count` images of varied size each.

    The shade of image i of class c is 100 c + 3 i.
    """
    for c in range(2):
        (root / f"class-{c}").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20 + i, 24), (100 * c + 3 * i,) * 3).save(
                root / f"class-{c}" / f"{i:02}.png"
            )
    return root


def damage(*files: Path) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:40])


def test_every_split_is_stored_once_read_back_and_used_by_train(tmp_path, capsys):
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "val", per_class=3)
    assert main(storage_of(tmp_path)) == 0
    first = capsys.readouterr().out
    stored = {p: p.stat().st_mtime_ns for p in (tmp_path / "beton").iterdir()}
    path = next(p for p in stored if p.name.startswith("folder-train-") and p.suffix == ".beton")
    classes = "2 classes (class-0, class-1)"
    assert f"train: 12 images in {classes}, {path.stat().st_size:,} bytes, " in first
    assert f"12 read back: {path}" in first
    assert "test: 6 images" in first
    assert main(storage_of(tmp_path)) == 0
    assert "all was there; nothing was written" in capsys.readouterr().out
    data = open_data(images_of(tmp_path))
    assert (data.train.path, "writing" in capsys.readouterr().out) == (path, False)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "beton").iterdir()} == stored


def test_damaged_images_are_all_named_and_nothing_is_stored(tmp_path, capsys):
    root = write_varied(tmp_path / "train")
    damage(*(root / "class-0").iterdir())
    assert main(storage_of(tmp_path)) == 2
    output = capsys.readouterr().err
    assert "error: 30 of 60 images cannot be stored; --skip-corrupt leaves them out:\n" in output
    assert [f"class-0/{i:02}.png does not decode" in output for i in range(30)] == [True] * 20 + [
        False
    ] * 10
    assert "\n  and 10 more\n" in output
    assert names_in(tmp_path / "beton") == []
    damage(*(root / "class-1").iterdir())
    assert main(storage_of(tmp_path, skip_corrupt=True)) == 2
    assert "error: 60 of 60 images cannot be stored:\n" in capsys.readouterr().err


def test_damaged_images_are_left_out_and_labels_stay_with_their_images(tmp_path, capsys):
    root = write_varied(tmp_path / "train")
    gone = [root / "class-0" / "00.png", root / "class-0" / "17.png", root / "class-1" / "29.png"]
    damage(*gone)
    assert main(storage_of(tmp_path, skip_corrupt=True)) == 0
    output = capsys.readouterr().out
    assert "leaves out 3 of 60 images" in output
    assert "train: 57 images in 2 classes" in output
    note = json.loads(next((tmp_path / "beton").glob("*.json")).read_text())
    assert (note["images"], note["stored"], [position for position, _ in note["skipped"]]) == (
        60,
        57,
        [0, 17, 59],
    )
    assert all(str(file) in why for file, (_, why) in zip(gone, note["skipped"], strict=True))

    data = open_data(images_of(tmp_path, skip_corrupt=True))
    assert not data.train.is_new
    shades = np.delete(np.add.outer([0, 100], 3 * np.arange(30)).ravel(), [0, 17, 59])
    order, images, _ = read_all(data.train.path, 57, square=16)
    assert np.abs(images[:, 8, 8, 0].numpy().astype(int) - shades[order]).max() <= 1
    assert np.array_equal(data.train.labels, shades >= 100)
    with pytest.raises(
        InputError, match=r"3 of 60 images .*--skip-corrupt"
    ):  # the file is there, but is not all
        open_data(images_of(tmp_path))


def test_leaving_out_keeps_the_pixels_of_small_squares_and_changes_the_identity(tmp_path):
    root = write_class_folders(tmp_path / "train")
    whole = open_split(storage_of(tmp_path, skip_corrupt=True), "train")[1]
    assert whole == open_split(storage_of(tmp_path), "train")[1]._replace(
        is_new=True, **arrays_of(whole)
    )
    file = root / "class-0" / "4.png"
    file.write_bytes(b"x" * file.stat().st_size)
    source, stored = open_split(storage_of(tmp_path, skip_corrupt=True), "train")
    order, images, _ = read_all(stored.path, 11)
    assert (stored.side, stored.positions.tolist()) == (12, [0, 1, 2, 3, *range(5, 12)])
    assert np.array_equal(
        images.numpy(), np.stack([source.images[i] for i in stored.positions[order]])
    )
    assert stored.identity not in (source.identity, whole.identity)


def arrays_of(stored: beton.Beton) -> dict:
    return {name: getattr(stored, name) for name in ("labels", "positions", "files")}


@pytest.mark.parametrize("what", ["pixel", "label", "jpeg"])
def test_reading_back_notices_what_changed_in_the_file(tmp_path, capsys, what):
    if what == "jpeg":
        write_varied(tmp_path / "train", count=5)
    else:
        write_class_folders(tmp_path / "train")
    _, stored = open_split(storage_of(tmp_path), "train")
    reader = ffcv.reader.Reader(str(stored.path))
    images, labels = reader.metadata.dtype.names
    row = (
        ffcv.types.HeaderType.itemsize
        + reader.field_descriptors.nbytes
        + 7 * reader.metadata.dtype.itemsize
    )
    at = {
        "pixel": int(reader.metadata[images]["data_ptr"][7]) + 100,
        "label": row + reader.metadata.dtype.fields[labels][1],
        "jpeg": int(reader.metadata[images]["data_ptr"][7]),
    }[what]
    content = bytearray(stored.path.read_bytes())
    content[at] ^= 1
    stored.path.write_bytes(content)
    assert main(storage_of(tmp_path)) == 2
    output = capsys.readouterr().err
    assert f"{stored.path} is damaged (" in output
    assert "delete it to have it rewritten" in output


def test_progress_is_told_in_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(storing, "LINE_EVERY_S", 0.0)
    assert main(Storage(data="digits", data_dir=tmp_path)) == 0
    assert "  1437 of 1437 images, " in capsys.readouterr().out


def in_fork(storage: Storage) -> multiprocessing.Process:
    """`main` in a process of its own and its own group, without the seconds of its imports."""

    def alone() -> None:
        os.setsid()
        sys.exit(main(storage))

    process = multiprocessing.get_context("fork").Process(target=alone)
    process.start()
    return process


def test_after_a_kill_at_any_moment_the_next_call_makes_it_right(tmp_path):
    write_varied(tmp_path / "train", count=30)
    write_class_folders(tmp_path / "val")
    moments = random.Random(0)
    for _ in range(12):
        killed = in_fork(storage_of(tmp_path))
        time.sleep(moments.uniform(0, 0.5))
        killed.kill()
        killed.join()
        if moments.random() < 0.5:
            (
                tmp_path / "train" / "class-0" / "00.png"
            ).touch()  # from now on the file has another name
    last = in_fork(storage_of(tmp_path))
    last.join()
    assert last.exitcode == 0
    assert not list((tmp_path / "beton").glob(".*"))
    for path in (tmp_path / "beton").glob("*.beton"):
        assert path.stat().st_size == json.loads(path.with_suffix(".json").read_text())["bytes"]


def test_only_what_no_living_process_writes_is_removed(tmp_path):
    write_class_folders(tmp_path / "train")
    (tmp_path / "beton").mkdir()
    living, dead = (
        tmp_path / "beton" / f".folder-train-{digest}-abc.tmp"
        for digest in ("0123456789", "9876543210")
    )
    for file in (living, dead, Path(f"{dead}.tmp")):
        file.write_bytes(b"half")
    with FileLock(tmp_path / "beton" / "folder-train-0123456789.lock"):
        assert main(storage_of(tmp_path)) == 0
        assert list((tmp_path / "beton").glob(".*")) == [living]
    assert main(storage_of(tmp_path)) == 0
    assert list((tmp_path / "beton").glob(".*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_and_says_so(tmp_path, capfd, number):
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.effect_noise((2000, 2000), 50).save(tmp_path / "large.png")
    for i in range(400):
        (tmp_path / "train" / "a" / f"{i}.png").symlink_to(tmp_path / "large.png")
    writer = in_fork(storage_of(tmp_path))
    deadline = time.monotonic() + 100
    while not [p for p in tmp_path.glob("beton/.*.tmp") if p.stat().st_size]:
        assert writer.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(writer.pid, number)  # a terminal sends it to all of them
    writer.join(timeout=100)
    assert writer.exitcode == 128 + number
    output = capfd.readouterr().err  # numba's finalisers may have said something too
    assert ("interrupted; nothing half-written is left\n" in output) == (number == signal.SIGINT)
    assert "KeyboardInterrupt" not in output
    assert "SystemExit" not in output
    assert names_in(tmp_path / "beton") == []


def test_a_full_disk_is_an_error_that_says_so(tmp_path, capfd):
    write_varied(tmp_path / "train")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        sys.exit(main(storage_of(tmp_path)))

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join()
    output = capfd.readouterr().err
    assert process.exitcode == 2
    assert "error: cannot write " in output
    assert "File too large; --beton-dir" in output
    assert names_in(tmp_path / "beton") == []


def test_a_writer_that_is_killed_is_one_line(tmp_path, capfd, monkeypatch):
    """As where memory is short."""
    write_varied(tmp_path / "train")

    def killed(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ffcv_writer, "storable", killed)
    assert main(storage_of(tmp_path)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: a process that writes the .beton died (exit code -9; out of mem")
    assert names_in(tmp_path / "beton") == []


def test_a_folder_for_betons_that_is_a_file_is_an_error(tmp_path, capsys):
    write_class_folders(tmp_path / "train")
    shutil.copy(__file__, tmp_path / "file")
    assert main(storage_of(tmp_path, beton_dir=tmp_path / "file")) == 2
    assert "--beton-dir names another folder" in capsys.readouterr().err

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effssl import InputError
from effssl.data.beton import ensure_beton
from effssl.data.sources import Source, open_source
from tests.conftest import STORE, read_all, write_class_folders

pytestmark = pytest.mark.slow


def test_digits_survive_storing_bit_for_bit(digits_dir):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", STORE)
    order, images, positions = read_all(beton.path, len(source.images), batch_size=100)
    assert torch.equal(positions, torch.from_numpy(order))
    assert np.array_equal(images.numpy(), source.images[order])
    assert np.bincount(source.labels).min() > 130


@pytest.mark.parametrize("workers", [1, 2])
def test_small_lossless_files_survive_bit_for_bit_for_any_workers(tmp_path, workers):
    write_class_folders(tmp_path / "train")
    source = open_source("folder", tmp_path, "train")
    assert source.side == 12
    beton = ensure_beton(source, tmp_path, "x", replace(STORE, workers=workers))
    order, images, _ = read_all(beton.path, len(source.images), workers=workers)
    assert np.array_equal(images.numpy(), np.stack([source.images[i] for i in order]))


def test_images_of_varied_size_are_decoded_to_their_central_square(tmp_path):
    ramp = np.linspace(0, 255, 90, dtype=np.uint8)
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(np.broadcast_to(ramp[:, None], (60, 90, 3)).copy()).save(folder / "wide.png")
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(folder / "square.png")
    source = open_source("folder", tmp_path, "train")
    assert source.side is None
    beton = ensure_beton(source, tmp_path, "x", STORE)
    order, images, _ = read_all(beton.path, 2, square=30)
    stored = [p.name for p in source.images.paths].index("wide.png")
    wide = images[list(order).index(stored)]
    assert images.shape == (2, 30, 30, 3)
    # the central 60 of 90 columns; JPEG and resizing move a gray level by a few
    assert abs(wide[15, 0, 0].item() - int(ramp[15])) < 12
    assert abs(wide[15, 29, 0].item() - int(ramp[74])) < 12


def test_an_image_that_does_not_decode_is_named_and_nothing_is_left(tmp_path):
    root = write_class_folders(tmp_path / "train")
    (root / "class-1" / "3.png").write_bytes(b"\x89PNG but not really")
    (root / "class-0" / "2.png").write_bytes((root / "class-0" / "2.png").read_bytes()[:60])
    source = open_source("folder", tmp_path, "train")
    with pytest.raises(
        InputError, match=r"(?s)class-0/2\.png does not decode.*class-1/3\.png does not decode"
    ):
        ensure_beton(source, tmp_path / "beton", "x", STORE)
    assert [p.suffix for p in (tmp_path / "beton").iterdir()] in ([], [".lock"])


def test_an_image_of_another_size_in_a_set_of_one_size_is_named(tmp_path):
    write_class_folders(tmp_path / "train", side=32)
    Image.new("RGB", (31, 32)).save(tmp_path / "train" / "class-0" / "odd.png")
    source = open_source("cifar10", tmp_path, "train")
    with pytest.raises(InputError, match=r"odd\.png is 31x32, not 32x32"):
        ensure_beton(source, tmp_path, "x", STORE)


def test_a_beton_is_written_once_and_a_new_one_when_its_source_changes(tmp_path):
    root = write_class_folders(tmp_path / "train")
    first = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE).path
    written = first.stat().st_mtime_ns
    assert (
        ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE).path == first
    )
    assert first.stat().st_mtime_ns == written
    Image.new("RGB", (12, 12)).save(root / "class-0" / "new.png")
    second = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE).path
    assert second != first  # a job that reads the first goes on undisturbed
    assert first.stat().st_mtime_ns == written
    assert json.loads(second.with_suffix(".json").read_text())["images"] == 13


@pytest.mark.parametrize("left", [0, 100, 4000])
def test_a_truncated_beton_is_an_error_that_names_it(tmp_path, left):
    write_class_folders(tmp_path / "train")
    path = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE).path
    with path.open("r+b") as file:
        file.truncate(left)
    with pytest.raises(InputError, match=rf"{path.name} is damaged"):
        ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE)


def test_a_half_written_beton_is_not_used(tmp_path):
    write_class_folders(tmp_path / "train")
    path = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE).path
    path.write_bytes(b"half")
    path.with_suffix(".json").unlink()  # no note beside it: whoever wrote it did not finish
    (tmp_path / f".{path.stem}-killed.tmp").write_bytes(b"half")
    ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", STORE)
    assert len(read_all(path, 12)[1]) == 12
    assert not list(tmp_path.glob(".*.tmp"))


# Without the seconds of a process's imports.
FORK = multiprocessing.get_context("fork")


def test_processes_that_need_the_same_beton_write_it_once(tmp_path, capfd):
    write_class_folders(tmp_path / "train", per_class=40)
    source = open_source("folder", tmp_path, "train")
    both = [
        FORK.Process(target=ensure_beton, args=(source, tmp_path, "x", replace(STORE, workers=1)))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=280)
    assert [process.exitcode for process in both] == [0, 0]
    assert capfd.readouterr().out.count("writing") == 1


def test_a_dead_writer_process_is_an_error_not_a_hang(tmp_path):
    class Deadly:
        def __len__(self):
            return 50

        def __getitem__(self, position):
            os._exit(9)

    source = open_source("digits", tmp_path, "test")._replace(
        images=Deadly(), labels=np.zeros(50, np.int64)
    )
    began = time.monotonic()
    with pytest.raises(InputError, match="died"):
        ensure_beton(source, tmp_path, "x", STORE)
    assert time.monotonic() - began < 100
    assert {p.suffix for p in tmp_path.iterdir()} <= {".lock"}


class _Slow:
    def __len__(self):
        return 20_000

    def __getitem__(self, position):
        time.sleep(0.02)
        return np.zeros((400, 400, 3), np.uint8)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_writer_ends_and_leaves_no_process_and_no_beton(tmp_path, number):
    source = Source(_Slow(), np.zeros(20_000, np.int64), [], "f", "i", 400)
    storage = replace(STORE, workers=2)
    writer = FORK.Process(target=ensure_beton, args=(source, tmp_path, "x", storage))
    writer.start()
    children = Path(f"/proc/{writer.pid}/task/{writer.pid}/children")
    deadline = time.monotonic() + 100
    while not (list(tmp_path.glob(".x-*.tmp")) and len(children.read_text().split()) >= 2):
        assert writer.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1)
    workers = children.read_text().split()
    os.kill(writer.pid, number)
    writer.join(timeout=100)
    assert writer.exitcode not in (None, 0)
    deadline = time.monotonic() + 100
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a process outlives its writer"
        time.sleep(0.05)
    assert list(tmp_path.glob("*.beton")) == []
    assert number == signal.SIGKILL or list(tmp_path.glob(".*.tmp")) == []

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_class_folders
from PIL import Image

from effssl import InputError
from effssl.data import open_data
from effssl.data.beton import ensure_beton
from effssl.data.datasets import ImageFiles, open_source
from effssl.data.loader import batches, open_loader

CPU = torch.device("cpu")
STORE = {"max_side": 500, "jpeg_quality": 90, "workers": 2}
OPEN = {"beton_dir": None, "val_fraction": 0.2, "fraction": 1.0, "split_seed": 0, **STORE}


def read_all(path, count, *, workers=2, batch_size=5, canvas=None):
    loader = open_loader(path, batch_size, workers, canvas)
    order = np.random.default_rng(1).permutation(count)
    parts = list(batches(loader, order, CPU))
    return order, torch.cat([x for x, _ in parts]), torch.cat([p for _, p in parts])


def test_digits_survive_storing_bit_for_bit(digits_dir):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", **STORE)
    order, images, positions = read_all(beton.path, len(source.images), batch_size=100)
    assert torch.equal(positions, torch.from_numpy(order))
    assert np.array_equal(images.numpy(), source.images[order])
    assert np.bincount(source.labels).min() > 130


@pytest.mark.parametrize("workers", [1, 2])
def test_small_lossless_files_survive_bit_for_bit_for_any_workers(tmp_path, workers):
    write_class_folders(tmp_path / "train")
    source = open_source("folder", tmp_path, "train")
    assert source.side == 12
    beton = ensure_beton(source, tmp_path, "x", **(STORE | {"workers": workers}))
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
    beton = ensure_beton(source, tmp_path, "x", **STORE)
    order, images, _ = read_all(beton.path, 2, canvas=30)
    stored = [p.name for p in source.images.paths].index("wide.png")
    wide = images[list(order).index(stored)]
    assert images.shape == (2, 30, 30, 3)
    # the central 60 of 90 columns; JPEG and resizing move a gray level by a few
    assert abs(wide[15, 0, 0].item() - int(ramp[15])) < 12
    assert abs(wide[15, 29, 0].item() - int(ramp[74])) < 12


def test_odd_images_come_out_as_upright_rgb(tmp_path):
    base = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    variants = {"gray.png": base.convert("L"), "palette.gif": base.convert("P"), "cmyk.jpg": base.convert("CMYK")}
    variants["deep.png"] = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    for name, image in variants.items():
        image.save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    tall = Image.fromarray(np.zeros((8, 4, 3), np.uint8))
    tall.save(tmp_path / "turned.jpg", exif=exif)
    images = ImageFiles([*(tmp_path / name for name in variants), tmp_path / "turned.jpg"])
    assert [images[i].shape for i in range(5)] == [(4, 4, 3)] * 4 + [(4, 8, 3)]
    assert abs(int(images[3][0, 0, 0]) - 40_000 // 256) <= 1


def test_an_image_that_does_not_decode_is_named_and_nothing_is_left(tmp_path):
    root = write_class_folders(tmp_path / "train")
    (root / "class-1" / "3.png").write_bytes(b"\x89PNG but not really")
    (root / "class-0" / "2.png").write_bytes((root / "class-0" / "2.png").read_bytes()[:60])
    source = open_source("folder", tmp_path, "train")
    with pytest.raises(InputError, match=r"class-0/2\.png does not decode.*class-1/3\.png does not decode"):
        ensure_beton(source, tmp_path / "beton", "x", **STORE)
    assert [p.suffix for p in (tmp_path / "beton").iterdir()] in ([], [".lock"])


def test_an_image_of_another_size_in_a_set_of_one_size_is_named(tmp_path):
    write_class_folders(tmp_path / "train", side=32)
    Image.new("RGB", (31, 32)).save(tmp_path / "train" / "class-0" / "odd.png")
    source = open_source("cifar10", tmp_path, "train")
    with pytest.raises(InputError, match=r"odd\.png is 31x32, not 32x32"):
        ensure_beton(source, tmp_path, "x", **STORE)


def test_a_beton_is_written_once_and_a_new_one_when_its_source_changes(tmp_path):
    root = write_class_folders(tmp_path / "train")
    first = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE).path
    written = first.stat().st_mtime_ns
    assert ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE).path == first
    assert first.stat().st_mtime_ns == written
    Image.new("RGB", (12, 12)).save(root / "class-0" / "new.png")
    second = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE).path
    assert second != first  # a job that reads the first goes on undisturbed
    assert first.stat().st_mtime_ns == written
    assert json.loads(second.with_suffix(".json").read_text())["images"] == 13


@pytest.mark.parametrize("left", [0, 100, 4000])
def test_a_truncated_beton_is_an_error_that_names_it(tmp_path, left):
    write_class_folders(tmp_path / "train")
    path = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE).path
    with path.open("r+b") as file:
        file.truncate(left)
    with pytest.raises(InputError, match=rf"{path.name} is damaged"):
        ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE)


def test_a_half_written_beton_is_not_used(tmp_path):
    write_class_folders(tmp_path / "train")
    path = ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE).path
    path.write_bytes(b"half")
    path.with_suffix(".json").unlink()  # no note beside it: whoever wrote it did not finish
    (tmp_path / f".{path.stem}-killed.tmp").write_bytes(b"half")
    ensure_beton(open_source("folder", tmp_path, "train"), tmp_path, "x", **STORE)
    assert len(read_all(path, 12)[1]) == 12
    assert not list(tmp_path.glob(".*.tmp"))


WRITE = """
import sys, pathlib
from effssl.data.beton import ensure_beton
from effssl.data.datasets import open_source
root = pathlib.Path(sys.argv[1])
ensure_beton(open_source("folder", root, "train"), root, "x", max_side=500, jpeg_quality=90, workers=1)
"""


def test_processes_that_need_the_same_beton_write_it_once(tmp_path):
    write_class_folders(tmp_path / "train", per_class=40)
    both = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sum("writing" in text for text in said) == 1


def test_a_dead_writer_process_is_an_error_not_a_hang(tmp_path):
    class Deadly:
        def __len__(self):
            return 50

        def __getitem__(self, position):
            import os

            os._exit(9)

    source = open_source("digits", tmp_path, "test")._replace(images=Deadly(), labels=np.zeros(50, np.int64))
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="died"):
        ensure_beton(source, tmp_path, "x", **STORE)
    assert time.monotonic() - began < 20
    assert {p.suffix for p in tmp_path.iterdir()} <= {".lock"}


SLOW = """
import sys, time, pathlib, numpy as np
from effssl.data.beton import ensure_beton
from effssl.data.datasets import Source
class Slow:
    def __len__(self):
        return 20_000
    def __getitem__(self, position):
        time.sleep(0.02)
        return np.zeros((400, 400, 3), np.uint8)
source = Source(Slow(), np.zeros(20_000, np.int64), [], "f", "i", 400)
ensure_beton(source, pathlib.Path(sys.argv[1]), "x", max_side=500, jpeg_quality=90, workers=2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_writer_ends_and_leaves_no_process_and_no_beton(tmp_path, number):
    writer = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children = Path(f"/proc/{writer.pid}/task/{writer.pid}/children")
    deadline = time.monotonic() + 60
    while not (list(tmp_path.glob(".x-*.tmp")) and len(children.read_text().split()) >= 3):  # two, and a tracker
        assert writer.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1)
    workers = children.read_text().split()
    writer.send_signal(number)
    assert writer.wait(timeout=20) != 0
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a process outlives its writer"
        time.sleep(0.05)
    assert list(tmp_path.glob("*.beton")) == []
    assert number == signal.SIGKILL or list(tmp_path.glob(".*.tmp")) == []


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


@pytest.mark.parametrize("module", ["effssl.data.loader", "effssl.data.beton", "effssl.evaluate"])
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


def test_torchvisions_own_cifar_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        with (folder / name).open("wb") as file:
            pickle.dump({"data": pixels, "labels": list(range(10)) * 2}, file)
    with (folder / "batches.meta").open("wb") as file:
        pickle.dump({"label_names": [f"c{i}" for i in range(10)]}, file)
    with pytest.raises(InputError, match="torchvision cannot read CIFAR10 there"):  # the checksums are not those
        open_source("cifar10", tmp_path, "train")
    import torchvision

    # torchvision checks checksums on opening; what lies behind that is read as it is
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
        patch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
        source = open_source("cifar10", tmp_path, "train")
    assert (len(source.images), source.side, len(source.classes)) == (100, 32, 10)
    assert np.array_equal(source.images[0], pixels[0].reshape(3, 32, 32).transpose(1, 2, 0))


def test_torchvisions_own_stl10_files(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {"train": 10, "test": 10, "unlabeled": 5}
    for split, count in pixels.items():
        data = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        data.tofile(folder / f"{split}_X.bin")
        if split != "unlabeled":
            np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{split}_y.bin")
        if split == "train":
            first = data[0]
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    import torchvision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
        train, test = (open_source("stl10", tmp_path, split) for split in ("train", "test"))
    assert (len(train.images), len(test.images), train.side) == (15, 10, 96)
    assert sorted(train.labels) == [-1] * 5 + list(range(10))
    # an image is stored column by column
    assert np.array_equal(train.images[0], first.transpose(2, 1, 0))


def test_a_download_that_fails_says_where_it_looked_and_the_ways_out(tmp_path, monkeypatch):
    import torchvision

    def fail(root, download):
        (root / "half.tar.gz").write_bytes(b"half")
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(InputError, match=r"no cifar10 images in .*no route to host.*cifar-10-batches-py.*--data-dir"):
        open_source("cifar10", tmp_path / "here", "train")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: (root / "train").mkdir(parents=True), "no images in"),
        (lambda root: (write_class_folders(root / "train"), write_class_folders(root / "val", classes=3)), "class-2"),
    ],
    ids=["missing", "empty", "classes differ"],
)
def test_folders_that_cannot_be_used(tmp_path, make, message):
    root = tmp_path / "set"
    make(root)
    with pytest.raises(InputError, match=message):
        open_data("folder", root, **OPEN)


def test_loose_images_beside_a_test_folder_do_not_train_on_it(tmp_path):
    write_class_folders(tmp_path, classes=2, per_class=5)
    write_class_folders(tmp_path / "test", classes=2, per_class=3)
    train, test = (open_source("folder", tmp_path, split) for split in ("train", "test"))
    assert (len(train.images), len(test.images)) == (10, 6)
    assert not any("test" in str(p.relative_to(tmp_path)) for p in train.images.paths)


def test_test_labels_are_numbered_as_train_labels_are(tmp_path):
    write_class_folders(tmp_path / "train", classes=3)
    write_class_folders(tmp_path / "test", classes=3)
    for file in (tmp_path / "test" / "class-0").iterdir():
        file.unlink()
    assert set(open_source("folder", tmp_path, "test").labels) == {1, 2}
    for file in (tmp_path / "train" / "class-1").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="lacks: class-1"):
        open_source("folder", tmp_path, "test")


def test_linked_class_folders_are_followed(tmp_path):
    write_class_folders(tmp_path / "elsewhere", classes=3)
    (tmp_path / "set" / "train").mkdir(parents=True)
    for c in range(3):
        (tmp_path / "set" / "train" / f"class-{c}").symlink_to(tmp_path / "elsewhere" / f"class-{c}")
    source = open_source("folder", tmp_path / "set", "train")
    assert (len(source.images), len(source.classes)) == (18, 3)


def test_identity_stays_when_files_are_touched_and_changes_when_they_change(tmp_path):
    root = write_class_folders(tmp_path / "train")
    before = open_source("folder", tmp_path, "train")
    file = root / "class-0" / "0.png"
    file.touch()
    touched = open_source("folder", tmp_path, "train")
    assert (touched.identity, touched.fingerprint != before.fingerprint) == (before.identity, True)
    file.write_bytes(file.read_bytes() + b" ")
    assert open_source("folder", tmp_path, "train").identity != before.identity


def test_small_classes_are_validated_and_single_images_are_not_probed(tmp_path):
    write_class_folders(tmp_path / "few" / "train", classes=3, per_class=4)
    few = open_data("folder", tmp_path / "few", **(OPEN | {"val_fraction": 0.05}))
    assert np.bincount(few.train.labels[few.val_positions]).tolist() == [1, 1, 1]
    write_class_folders(tmp_path / "one" / "train", classes=5, per_class=1)
    one = open_data("folder", tmp_path / "one", **OPEN)
    assert (len(one.train_positions), len(one.val_positions)) == (5, 0)


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


def test_a_folder_without_labels_or_test_images(tmp_path):
    write_class_folders(tmp_path / "loose", classes=1)
    data = open_data("folder", tmp_path / "loose" / "class-0", **OPEN)
    assert (len(data.train_positions), len(data.val_positions), data.test) == (6, 0, None)
    assert set(data.train.labels) == {-1}


def test_a_folder_of_classes_is_split(tmp_path):
    write_class_folders(tmp_path / "train", per_class=10)
    write_class_folders(tmp_path / "val", per_class=3)
    data = open_data("folder", tmp_path, **OPEN)
    assert (len(data.train_positions), len(data.val_positions), len(data.test.labels)) == (16, 4, 6)
    assert np.bincount(data.train.labels[data.val_positions]).tolist() == [2, 2]
    half = open_data("folder", tmp_path, **(OPEN | {"fraction": 0.5}))
    assert np.array_equal(half.val_positions, data.val_positions)
    assert len(half.train_positions) == 8

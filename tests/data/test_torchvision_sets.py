"""The files of CIFAR and STL-10 as torchvision leaves them, and its downloads."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from filelock import FileLock

from effssl import InputError
from effssl.data.sources import open_source
from effssl.data.stored import reopen_data
from effssl.data.torchvision_sets import LOCK
from effssl.data.torchvision_sets import download as download_set
from effssl.image_config import Images


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
    with pytest.raises(
        InputError, match="torchvision cannot read CIFAR10 there"
    ):  # the checksums are not those
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
    counts = {"train": 10, "test": 10, "unlabeled": 5}
    stored = {
        split: rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for split, n in counts.items()
    }
    for split, count in counts.items():
        stored[split].tofile(folder / f"{split}_X.bin")
        if split != "unlabeled":
            np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    train, test = (open_source("stl10", tmp_path, split) for split in ("train", "test"))
    assert (len(train.images), len(test.images), train.side, train.classes[1]) == (15, 10, 96, "c1")
    assert train.labels.tolist() == [*range(10), -1, -1, -1, -1, -1]
    # an image is stored column by column
    assert np.array_equal(train.images[0], stored["train"][0].transpose(2, 1, 0))
    assert np.array_equal(train.images[9], stored["train"][9].transpose(2, 1, 0))
    assert np.array_equal(train.images[10], stored["unlabeled"][0].transpose(2, 1, 0))
    assert np.array_equal(train.images[14], stored["unlabeled"][4].transpose(2, 1, 0))
    assert np.array_equal(test.images[9], stored["test"][9].transpose(2, 1, 0))
    with (folder / "test_X.bin").open("r+b") as file:
        file.truncate(9 * 3 * 96 * 96)
    with pytest.raises(InputError, match=r"test_X\.bin and test_y\.bin do not fit"):
        open_source("stl10", tmp_path, "test")
    with (folder / "unlabeled_X.bin").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match="STL10 cannot be read there"):
        open_source("stl10", tmp_path, "train")


def test_what_a_killed_download_left_is_removed_and_a_living_one_is_not(tmp_path, monkeypatch):
    import torchvision

    def download(root, download):
        in_use = {".download.lock", ".download-living", root.name}
        assert {p.name for p in tmp_path.iterdir()} == in_use
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    for name in ("living", "killed"):
        (tmp_path / f".download-{name}" / "x").mkdir(parents=True)
    with (
        FileLock(tmp_path / ".download-living" / LOCK),
        pytest.raises(InputError, match="no route to host"),
    ):
        open_source("cifar10", tmp_path, "train")
    assert [p.name for p in tmp_path.iterdir()] == [".download-living"]


def test_of_processes_that_download_at_once_one_does(tmp_path, monkeypatch):
    import torchvision

    begun = []

    def download(root, download):
        begun.append(root)
        time.sleep(0.3)
        (root / "cifar-10-batches-py").mkdir()
        (root / "cifar-10-batches-py" / "test_batch").write_bytes(b"x")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(download_set, "cifar10", tmp_path / "sets") for _ in range(3)]:
            done.result()
    assert len(begun) == 1
    left = sorted(path.name for path in (tmp_path / "sets").rglob("*"))
    assert left == ["cifar-10-batches-py", "test_batch"]


def test_a_download_that_fails_says_where_it_looked_and_the_ways_out(tmp_path, monkeypatch):
    import torchvision

    def fail(root, download):
        (root / "half.tar.gz").write_bytes(b"half")
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(
        InputError,
        match=r"no cifar10 images in .*no route to host.*cifar-10-batches-py.*--data-dir",
    ):
        open_source("cifar10", tmp_path / "~" / "sets" / "here", "train")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "sets").mkdir()  # was there before
    with pytest.raises(InputError):
        open_source("cifar10", tmp_path / "sets" / "here", "train")
    assert [path.name for path in tmp_path.rglob("*")] == ["sets"]


def test_the_images_of_a_run_are_looked_for_and_not_downloaded(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda *a, **k: pytest.fail("downloads"))
    for name in ("cifar10", "folder", "imagenet100"):
        for folder in (tmp_path / "absent", *([tmp_path] if name == "cifar10" else [])):
            with pytest.raises(InputError) as caught:
                reopen_data(Images(data=name, data_dir=folder))
            assert str(caught.value) == (
                f"the run's images ({name}) are not in {folder}; --data-dir names where they are"
            )
    assert list(tmp_path.iterdir()) == []

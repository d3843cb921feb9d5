from __future__ import annotations

import fcntl
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from effssl import InputError
from effssl.data import open_data
from effssl.data.sources import IMAGENET100_CLASSES, open_source, stl10_folds
from tests.conftest import STORE, write_class_folders

OPEN = {"beton_dir": None, "val_fraction": 0.2, "fraction": 1.0, "split_seed": 0, **STORE}


def test_damaged_images_and_links_to_nowhere_do_not_hide_the_size_that_is_common(tmp_path):
    root = write_class_folders(tmp_path / "train")
    (root / "class-0" / "0.png").write_bytes(b"")
    (root / "class-1" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    source = open_source("folder", tmp_path, "train")
    assert (source.side, len(source.images)) == (12, 13)


def test_imagenet100_takes_its_100_classes_from_all_of_imagenet(tmp_path):
    listed = IMAGENET100_CLASSES.read_text().split()
    assert (len(listed), listed) == (100, sorted(set(listed)))
    for name in [*listed, "n99999999", "n00000000"]:
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 8)).save(tmp_path / split / name / "0.png")
    train, test = (open_source("imagenet100", tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == listed
    assert train.labels.tolist() == test.labels.tolist() == list(range(100))
    assert len(open_source("imagenet", tmp_path, "train").images) == 102
    (tmp_path / "train" / listed[7] / "0.png").unlink()
    with pytest.raises(InputError, match=rf"no images of 1 of the 100 classes of imagenet100: {listed[7]}"):
        open_source("imagenet100", tmp_path, "train")


def test_stl10s_own_folds(tmp_path):
    (tmp_path / "stl10_binary").mkdir()
    expected = np.stack([np.random.default_rng(i).permutation(50)[:10] for i in range(10)])
    file = tmp_path / "stl10_binary" / "fold_indices.txt"
    file.write_text("".join(" ".join(map(str, fold)) + " \n" for fold in expected))
    folds = stl10_folds(tmp_path)
    assert folds.dtype == np.int64
    assert np.array_equal(folds, expected)
    for broken in ["", "1 2\n" * 9, "1 1\n" * 10, "1 2\n" * 9 + "1\n", "1 x\n" * 10, "1 -2\n" * 10]:
        file.write_text(broken)
        with pytest.raises(InputError, match="ten lines"):
            stl10_folds(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"fold_indices\.txt: No such file"):
        stl10_folds(tmp_path)


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
    counts = {"train": 10, "test": 10, "unlabeled": 5}
    stored = {split: rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for split, n in counts.items()}
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
        assert {p.name for p in tmp_path.iterdir()} == {".download-living", root.name}
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    for name in ("living", "killed"):
        (tmp_path / f".download-{name}" / "x").mkdir(parents=True)
    handle = os.open(tmp_path / ".download-living", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="no route to host"):
        open_source("cifar10", tmp_path, "train")
    os.close(handle)
    assert [p.name for p in tmp_path.iterdir()] == [".download-living"]


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

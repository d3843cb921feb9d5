from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effssl import InputError
from effssl.data import headers
from effssl.data.stored import open_data, open_split
from effssl.image_config import Images, Storage
from tests.conftest import write_class_folders


def images_of(root: Path, *, val_fraction: float = 0.2, fraction: float = 1.0) -> Images:
    return Images(data="folder", data_dir=root, val_fraction=val_fraction, fraction=fraction)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: (root / "train").mkdir(parents=True), "no images in"),
        (
            lambda root: (
                write_class_folders(root / "train"),
                write_class_folders(root / "val", classes=3),
            ),
            "class-2",
        ),
    ],
    ids=["missing", "empty", "classes differ"],
)
def test_folders_that_cannot_be_used(tmp_path, make, message):
    root = tmp_path / "set"
    make(root)
    with pytest.raises(InputError, match=message):
        open_data(images_of(root))


def test_small_classes_are_validated_and_single_images_are_not_probed(tmp_path):
    write_class_folders(tmp_path / "few" / "train", classes=3, per_class=4)
    few = open_data(images_of(tmp_path / "few", val_fraction=0.05))
    assert np.bincount(few.train.labels[few.val_positions]).tolist() == [1, 1, 1]
    write_class_folders(tmp_path / "one" / "train", classes=5, per_class=1)
    one = open_data(images_of(tmp_path / "one"))
    assert (len(one.train_positions), len(one.val_positions)) == (5, 0)


def test_a_folder_without_labels_or_test_images(tmp_path):
    write_class_folders(tmp_path / "loose", classes=1)
    data = open_data(images_of(tmp_path / "loose" / "class-0"))
    assert (len(data.train_positions), len(data.val_positions), data.test) == (5, 1, None)
    assert set(data.train.labels) == {-1}


def test_a_folder_of_classes_is_split(tmp_path):
    write_class_folders(tmp_path / "train", per_class=10)
    write_class_folders(tmp_path / "val", per_class=3)
    data = open_data(images_of(tmp_path))
    assert (len(data.train_positions), len(data.val_positions), len(data.test.labels)) == (16, 4, 6)
    assert np.bincount(data.train.labels[data.val_positions]).tolist() == [2, 2]
    half = open_data(images_of(tmp_path, fraction=0.5))
    assert np.array_equal(half.val_positions, data.val_positions)
    assert len(half.train_positions) == 8


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("more", [(), ("more",)])
def test_headers_are_not_read_again_of_what_is_stored_and_unchanged(
    tmp_path, monkeypatch, labels, more
):
    write_class_folders(tmp_path / "set", classes=2)
    write_class_folders(tmp_path / "more", classes=2)
    more = tuple(tmp_path / name for name in more)
    storage = Storage("folder", tmp_path / "set", more_dirs=more, workers=1, labels=labels)
    first, _ = open_split(storage, "train")
    counts = []
    header_of = headers.header_of
    monkeypatch.setattr(headers, "header_of", lambda *a: counts.append(a) or header_of(*a))
    again, beton = open_split(storage, "train")
    assert (counts, again.side, beton.is_new) == ([], first.side, False)
    assert first.side == 12
    Image.new("RGB", (13, 12)).save(tmp_path / "set" / "class-0" / "0.png")
    changed, beton = open_split(storage, "train")
    assert counts and (changed.side, beton.is_new) == (None, True)

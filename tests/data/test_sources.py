from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from effssl import InputError, cli
from effssl.data.sources import IMAGENET100_CLASSES, open_source
from tests.conftest import write_class_folders


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
    with pytest.raises(
        InputError, match=rf"no images of 1 of the 100 classes of imagenet100: {listed[7]}"
    ):
        open_source("imagenet100", tmp_path, "train")


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
        (tmp_path / "set" / "train" / f"class-{c}").symlink_to(
            tmp_path / "elsewhere" / f"class-{c}"
        )
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


def test_names_that_are_not_utf_8_are_names_like_others(tmp_path):
    root = write_class_folders(tmp_path / "train")
    (root / "class-0" / "0.png").rename(root / "class-0" / "caf\udce9.png")
    (root / "class-1").rename(root / "\udce9")
    source = open_source("folder", tmp_path, "train")
    assert source.classes == ["class-0", "\\xe9"]
    assert "\\xe9)" in source.notes[0]
    assert np.bincount(source.labels).tolist() == [6, 6]
    assert source.images[5].shape == (12, 12, 3)


def test_folders_may_mean_nothing(tmp_path):
    write_class_folders(tmp_path / "train", classes=3)
    write_class_folders(tmp_path / "train" / "class-0" / "test")
    write_class_folders(tmp_path / "val", classes=4)  # one that train lacks
    for split, count in (("train", 30), ("test", 24)):
        source = open_source("folder", tmp_path, split, labels=False)
        assert (source.labels.tolist(), source.classes) == ([-1] * count, [])
        assert source.notes[0].endswith(f"has {count} images, no labels")


def test_sets_without_their_labels_are_other_sets(tmp_path):
    known, unknown = (open_source("digits", tmp_path, "test", labels=x) for x in (True, False))
    assert (set(unknown.labels), unknown.classes) == ({-1}, [])
    assert {known.fingerprint, known.identity}.isdisjoint({unknown.fingerprint, unknown.identity})


def test_every_job_that_reads_sets_knows_no_labels():
    assert not cli.parse(["--no-labels"]).images.labels
    assert not cli.parse_storage(["--no-labels"]).labels
    assert not cli.parse_embed(["RUN", "--to", "x.npz", "--images", "x", "--no-labels"]).labels

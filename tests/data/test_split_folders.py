from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from effssl import InputError
from effssl.data.sources import open_source
from effssl.data.split_folders import ALIKE, check_outside, find_split_folders
from effssl.image_config import Storage
from effssl.prepare.store import prepare


def put(root: Path, *folders: str, count: int = 2) -> Path:
    """Put `count` images into each folder below root."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(root / folder / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("Train", "Test"),
        ("training", "validation"),
        ("train", "valid"),
        ("TRAINING", "Dev"),
        ("train", "testing"),
        ("train", "VAL"),
    ],
)
def test_usual_spellings_are_found_and_said(tmp_path, train, held_out):
    put(tmp_path, f"{train}/a", f"{train}/b", count=3)
    put(tmp_path, f"{held_out}/a", f"{held_out}/b")
    trained, test = (open_source("folder", tmp_path, split) for split in ("train", "test"))
    assert (len(trained.images), len(test.images)) == (6, 4)
    assert trained.notes == [f"train: {tmp_path / train} has 6 images in 2 classes (a, b)"]
    assert test.notes == [f"test: {tmp_path / held_out} has 4 images in 2 classes (a, b)"]


def test_held_out_images_beside_classes_are_not_trained_on(tmp_path):
    put(tmp_path, "a", "b", "Valid/a", "Testing/b")
    train, test = (open_source("folder", tmp_path, split) for split in ("train", "test"))
    assert {path.parent.relative_to(tmp_path) for path in train.images.paths} == {
        Path("a"),
        Path("b"),
    }
    assert {path.parent.name for path in test.images.paths} == {"b"}
    assert f"not read: {tmp_path / 'Valid'}, as {tmp_path / 'Testing'} is held out" in " ".join(
        train.notes
    )


def test_a_test_folder_without_classes_gives_way_to_a_labelled_val(tmp_path):
    put(tmp_path, "train/a", "train/b", "val/a", "val/b", "test")
    folders = find_split_folders(tmp_path)
    assert folders.held_out == tmp_path / "val"
    assert "test, which has no class folders" in folders.notes[0]
    put(tmp_path, "test/a")
    assert find_split_folders(tmp_path).held_out == tmp_path / "test"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("Train/a", "train/a"), "Train, .*train: the train split is there more than once"),
        (("train/a", "val/a", "valid/a"), "the val split is there more than once"),
        (("train2017", "val2017"), "train2017, .*val2017: by its name a split"),
        (("train/a", "eval/a"), "eval: by its name a split"),
        (("images_train", "images_val"), "by its name a split"),
        (("a", "b", "test_set/a"), "test_set: by its name a split"),
        (("data/train/a", "data/test/a"), "data/test, .*data/train: folders with the names of"),
        (("a/train", "a/test", "b/train"), "folders with the names of splits lie among"),
        (("train/train/a", "train/val/a"), "train/val: folders with the names of splits"),
        (("test/a", "val/a"), "no images in .* outside of .*val, .*test"),
    ],
)
def test_what_could_be_a_split_is_never_silent(tmp_path, folders, message):
    put(tmp_path, *folders)
    with pytest.raises(InputError, match=message):
        open_source("folder", tmp_path, "train")


def test_a_run_does_not_lie_among_the_images(tmp_path, monkeypatch):
    put(tmp_path, "a", "b", "other/train/a")
    monkeypatch.chdir(tmp_path)
    for out in (Path("runs/x"), tmp_path, tmp_path / "a" / "x"):
        with pytest.raises(InputError, match=rf"--out {out} lies among the images of \."):
            check_outside(out, [Path("elsewhere"), Path()])
    for out in (tmp_path.parent / "runs", Path(".runs/x")):
        check_outside(out, [Path()])
    check_outside(Path("other/runs/x"), [Path("other")])


def test_other_folders_beside_train_are_named(tmp_path, capsys):
    put(tmp_path, "train/a", "train/b", "extra/deep/deeper")
    (tmp_path / "notes").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    prepare(Storage("folder", tmp_path, workers=1))
    printed = capsys.readouterr().out
    assert f"train: {tmp_path / 'train'} has 4 images in 2 classes (a, b)\n" in printed
    assert f"not read: {tmp_path / 'extra'}, {tmp_path / 'loose.png'}, as images beside" in printed
    assert "notes" not in printed


def test_a_link_by_another_name_is_the_same_split(tmp_path):
    put(tmp_path, "train/a", "valid/a")
    (tmp_path / "val").symlink_to(tmp_path / "valid")
    assert find_split_folders(tmp_path).held_out == tmp_path / "val"


def test_classes_may_have_words_of_splits_in_their_names(tmp_path):
    names = ["bullet_train", "test tube", "train station", "crash-test", "development", "valley"]
    names += ["trainer", "testudo", "evaluator", "training_dog"]
    assert not any(map(ALIKE.fullmatch, names))
    source = open_source("folder", put(tmp_path, *names), "train")
    assert source.classes == sorted(names)
    source = open_source("folder", put(tmp_path / "voc", "train/bus", "train/train"), "train")
    assert source.classes == ["bus", "train"]


def test_one_class_alone_is_said_to_be_no_label(tmp_path):
    source = open_source("folder", put(tmp_path, "train/a"), "train")
    assert source.notes == [
        f"train: {tmp_path / 'train'} has 2 images, no labels (one folder alone is no class: a)"
    ]

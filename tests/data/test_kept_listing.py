"""With --trust-store no file is looked at again, and all is as it was."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effssl import cli
from effssl.data import fingerprints, image_files, kept_listing, sources
from effssl.data.sources import names_of
from effssl.data.stored import find_split, open_data, open_split
from effssl.image_config import Images, Storage
from effssl.train import loop as train
from tests.conftest import QUICK, write_class_folders


@pytest.fixture
def folder(tmp_path):
    root = write_class_folders(tmp_path / "set" / "train").parent
    write_class_folders(root / "test", per_class=3)
    os.link(
        root / "train" / "class-0" / "0.png", os.fsencode(root / "train/class-0") + b"/\xff.png"
    )
    return root


def trusting(folder, **more) -> Images:
    return Images("folder", folder, workers=1, trust_store=True, **more)


@pytest.fixture
def no_looking(monkeypatch):
    """After a call of it, looking for files or at one is an error."""

    def looked(*args, **kwargs):
        raise AssertionError("a file was looked at")

    def forbid():
        for module, name in ((sources, "find_images"), (fingerprints, "_stat")):
            monkeypatch.setattr(module, name, looked)
        monkeypatch.setattr(sources, "find_split_folders", looked)
        monkeypatch.setattr(image_files, "decode", looked)

    return forbid


def test_the_second_time_nothing_is_looked_at(folder, no_looking, capsys):
    first = open_data(trusting(folder))
    names = names_of(first.source, np.arange(13), folder, "train")
    capsys.readouterr()
    no_looking()
    again = open_data(trusting(folder))
    said = capsys.readouterr().out
    assert "train: 13 images in 2 classes (class-0, class-1), as of 20" in said
    assert "when the files were last looked at (--trust-store)" in said
    assert again.train._replace(labels=None, positions=None, is_new=None, files=None) == (
        first.train._replace(labels=None, positions=None, is_new=None, files=None)
    )
    assert again.train.labels.tolist() == first.train.labels.tolist()
    assert again.test.labels.tolist() == first.test.labels.tolist()
    assert names_of(again.source, np.arange(13), folder, "train") == names
    assert again.source.fingerprint == first.source.fingerprint
    with pytest.raises(AssertionError, match="looked at"):  # as without it
        open_data(Images("folder", folder, workers=1))


def test_a_set_without_test_and_what_is_joined_are_kept_too(folder, tmp_path, no_looking):
    other = write_class_folders(tmp_path / "other")
    alone = trusting(other)
    both = trusting(folder, more_dirs=(other,))
    before = open_data(alone), open_data(both)
    no_looking()
    after = open_data(alone), open_data(both)
    assert after[0].test is None and len(after[1].test.labels) == 6
    for one, again in zip(before, after, strict=True):
        assert again.train.labels.tolist() == one.train.labels.tolist()
    of_second = names_of(after[1].source, np.arange(25), folder, "train")
    assert of_second[-1] == str(other / "class-1" / "5.png")


def test_what_changed_is_seen_without_it_and_by_other_settings(folder):
    open_data(trusting(folder))
    Image.new("RGB", (12, 12)).save(folder / "train" / "class-1" / "new.png")
    assert len(open_data(trusting(folder)).train.labels) == 13
    assert len(open_data(Images("folder", folder, workers=1)).train.labels) == 14
    # What is not stored yet is written from the files as they are.
    larger = trusting(folder, channels=3)
    assert len(open_data(larger).train.labels) == 14
    assert find_split(trusting(folder, labels=False), "train").classes == []
    assert len(find_split(trusting(folder, labels=False), "train").labels) == 14


def test_a_listing_that_is_not_whole_or_another_versions_is_made_anew(folder):
    open_data(trusting(folder))
    (file,) = (folder / "beton").glob("folder-train-*.listing.npz")
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:-40], b"x" * len(whole)):
        file.write_bytes(broken)
        assert len(open_data(trusting(folder)).train.labels) == 13
        assert len(file.read_bytes()) == len(whole)
    with np.load(file) as kept:
        later = {**kept} | {"format": 99}
    np.savez(file, **later)
    assert len(open_data(trusting(folder)).train.labels) == 13
    with np.load(file) as kept:
        assert kept["format"] == 1
    assert not list((folder / "beton").glob(".*"))


def test_each_spelling_of_a_folder_names_its_images_in_its_own_way(folder, monkeypatch):
    for spelled, place in ((folder, folder.parent), (Path("set"), folder.parent)):
        monkeypatch.chdir(place)
        for _ in range(2):
            source, _ = open_split(trusting(spelled), "train")
            assert source.images[0].shape == (12, 12, 3)
            assert names_of(source, np.array([1]), spelled, "train") == ["train/class-0/1.png"]
    assert "--trust-store" in source.notes[0]


@pytest.mark.parametrize("failing", ["lock", "file"])
def test_where_no_listing_can_be_written_a_line_says_so(folder, monkeypatch, capsys, failing):
    open_data(Images("folder", folder, workers=1))

    def no_writing(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    if failing == "lock":
        monkeypatch.setattr(kept_listing, "FileLock", no_writing)
    else:
        monkeypatch.setattr(np, "savez", no_writing)
    assert len(open_data(trusting(folder)).train.labels) == 13
    assert capsys.readouterr().out.count("--trust-store looks at the files again next time") == 2
    assert not list((folder / "beton").glob("*.npz*"))


def test_stored_files_that_are_gone_are_written_from_what_is_there(folder):
    _, stored = open_split(trusting(folder), "train")
    stored.path.unlink()
    (folder / "train" / "class-0" / "1.png").unlink()
    _, again = open_split(trusting(folder), "train")
    assert again.is_new and len(again.labels) == 12


def test_images_within_other_files_are_listed_each_time(folder, tmp_path):
    rows = "path\nset/train/class-0/0.png\nset/train/class-1/3.png\n"
    (tmp_path / "list.csv").write_text(rows)
    of_list = Storage("list", tmp_path / "list.csv", workers=1, trust_store=True)
    open_split(of_list, "train")
    source, stored = open_split(of_list, "train")
    assert not stored.is_new and "--trust-store" in source.notes[0]
    assert names_of(source, np.array([1]), tmp_path, "train") == ["set/train/class-1/3.png"]
    digits = Storage("digits", tmp_path, workers=1, trust_store=True)
    source, _ = open_split(digits, "train")
    assert not list((tmp_path / "beton").glob("digits*.npz"))
    assert open_split(replace(digits, trust_store=False), "train")[0].labels.tolist() == (
        source.labels.tolist()
    )


def test_a_run_is_the_same_with_it(folder, tmp_path):
    flags = [*QUICK, "--data", "folder", "--data-dir", str(folder), "--batch-size", "8"]
    flags += ["--epochs", "2"]
    for name, more in (("a", []), ("b", ["--trust-store"]), ("c", ["--trust-store"])):
        assert train.main(cli.parse([*flags, *more, "--out", str(tmp_path / name)])) == 0
    weights = [(tmp_path / name / "backbone.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] == weights[2]
    assert cli.load(tmp_path / "c" / "config.yaml").images.trust_store

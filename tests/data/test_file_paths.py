"""Files of large sets: found in the order of their paths, and named without a Path for each."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from effssl import InputError
from effssl.data.folders import is_read
from effssl.data.image_files import classes_of, find_images, is_image
from effssl.data.sources import open_source
from effssl.image_config import Storage
from effssl.prepare import store
from tests.conftest import write_class_folders


@pytest.fixture
def tree(tmp_path):
    """Folders in folders, whose names sort in other ways as texts than by parts."""
    rng = np.random.default_rng(0)
    names = ["a", "a b", "a-b", "a.png", "B", "b", "\u00e9", "10", "9"]
    for _ in range(80):
        depth = rng.integers(0, 4)
        folder = tmp_path.joinpath("set", *(f"{rng.choice(names)}.d" for _ in range(depth)))
        folder.mkdir(parents=True, exist_ok=True)
        suffix = rng.choice([".png", ".JPG", ".txt"])
        (folder / f"{rng.choice(names)}{suffix}").write_bytes(b"")
    (tmp_path / "set" / "a.d").mkdir(exist_ok=True)
    (tmp_path / "set" / "link.d").symlink_to(tmp_path / "set" / "a.d")
    return tmp_path / "set"


def found_by_walking(root) -> list[Path]:
    paths = [
        Path(folder) / file
        for folder, _, files in os.walk(root, followlinks=True)
        if all(is_read(part) for part in Path(folder).relative_to(root).parts)
        for file in files
        if is_image(file)
    ]
    return sorted(paths, key=lambda path: path.parts)


def test_images_come_in_the_order_of_their_paths_parts(tree):
    images, others = find_images(tree)
    expected = found_by_walking(tree)
    assert len(expected) > 30
    assert list(images) == expected
    assert list(images[3:20:4]) == expected[3:20:4]
    assert images[-1] == expected[-1] and len(images) == len(expected)
    assert images.texts() == [str(path) for path in expected]
    assert images.texts(tree) == [str(path.relative_to(tree)) for path in expected]
    assert others[".txt"] > 5
    classes = {path.relative_to(tree).parts[0] for path in expected if path.parent != tree}
    assert classes_of(images, tree) == sorted(classes)
    lengths = images.by_folder(lambda folder: len(folder.parts))
    assert lengths.tolist() == [len(path.parts) - 1 for path in expected]


def test_folders_are_left_out_and_chosen(tree):
    every = found_by_walking(tree)
    apart = tree / "a.d"
    kept = [path for path in every if apart not in path.parents]
    assert list(find_images(tree, without=[apart]).images) == kept != every
    only = frozenset({"b.d", "9.d"})
    chosen = [path for path in every if path.relative_to(tree).parts[0] in only]
    assert list(find_images(tree, only=only).images) == chosen


@pytest.fixture
def refused(monkeypatch):
    """Names of folders that nobody may list."""
    scandir, names = os.scandir, set()

    def refusing(folder):
        if Path(folder).name in names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    return names


def refusal(data_dir, capsys) -> str:
    """Return the line with which `effssl prepare` refuses a folder."""
    assert store.main(Storage(data="folder", data_dir=data_dir)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_no_folder_is_lost_without_a_word(tmp_path, refused, capsys):
    root = write_class_folders(tmp_path / "train", classes=4)
    refused |= {"class-1", "class-3"}
    told = refusal(tmp_path, capsys)
    assert f"{root / 'class-1'} (Permission denied) and 1 more cannot be looked into" in told


def test_a_test_that_cannot_be_looked_into_does_not_give_way_to_val(tmp_path, refused):
    for split in ("train", "test", "val"):
        write_class_folders(tmp_path / split)
    for folder in (tmp_path / "test").iterdir():
        folder.rename(folder.with_name(f"of {folder.name}"))
    refused |= {"of class-0", "of class-1"}
    with pytest.raises(InputError, match=r"of class-0 \(Permission denied\) and 1 more"):
        open_source("folder", tmp_path, "test")


def test_what_is_not_read_may_be_closed(tmp_path, refused):
    write_class_folders(tmp_path / "train")
    for closed in ("lost+found", ".private", "train/lost+found", "backup"):
        (tmp_path / closed).mkdir()
    refused |= {"lost+found", ".private", "backup"}
    source = open_source("folder", tmp_path, "train")
    assert len(source.images) == 12
    assert [note for note in source.notes if "lost" in note or "private" in note] == []


@pytest.mark.parametrize("target", ["x", "nowhere", "0.png/x"])
def test_a_link_that_leads_nowhere_hides_nothing_beside_it(tmp_path, target):
    root = write_class_folders(tmp_path / "train")
    for folder in (tmp_path, root, root / "class-0"):
        (folder / "x").symlink_to(target)
    source = open_source("folder", tmp_path, "train")
    assert (len(source.images), source.classes) == (12, ["class-0", "class-1"])


def test_a_link_that_cannot_be_followed_is_named(tmp_path, capsys):
    root = write_class_folders(tmp_path / "train")
    (root / "class-0" / "x").symlink_to("n" * 300)  # as root may follow all of others' links
    assert f"{root / 'class-0' / 'x'} (File name too long) cannot" in refusal(tmp_path, capsys)


@pytest.mark.parametrize(
    "links",
    [
        {"class-0/up": "."},
        {"class-0/up": "..", "class-1/up": ".."},
        {"up": "../.."},
        {"class-0/up": "../class-1", "class-1/up": "../class-0"},
    ],
)
def test_links_to_folders_around_them_are_named(tmp_path, capsys, links):
    root = write_class_folders(tmp_path / "train")
    for link, target in links.items():
        (root / link).symlink_to(target)
    told = refusal(tmp_path, capsys)
    assert "/up is a link to " in told and "remove the link" in told


def test_links_beside_train_are_not_walked_for_ever(tmp_path):
    write_class_folders(tmp_path / "train")
    (tmp_path / "beside").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "beside" / name).symlink_to(".")
    (tmp_path / "latest").symlink_to(".")
    source = open_source("folder", tmp_path, "train")
    assert len(source.images) == 12
    assert any("latest, as images beside" in note for note in source.notes)


def test_a_folder_that_is_the_root_of_the_disk_has_names_too():
    from effssl.data.file_paths import FilePaths

    paths = FilePaths([Path("/"), Path("/x")], np.array([0, 1]), ["a", "b"])
    assert paths.texts() == ["/a", "/x/b"]
    assert paths.texts(Path("/")) == ["a", "x/b"]

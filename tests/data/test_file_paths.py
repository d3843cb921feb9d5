"""Files of large sets: found in the order of their paths, and named without a Path for each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from effssl.data.image_files import classes_of, find_images, is_image, is_read


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


def test_a_folder_that_cannot_be_listed_is_passed_over(tree, monkeypatch):
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "a.d":
            raise PermissionError(13, "denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    images, _ = find_images(tree)
    assert images and not any("a.d" in path.parts for path in images)


def test_a_folder_that_is_the_root_of_the_disk_has_names_too():
    from effssl.data.file_paths import FilePaths

    paths = FilePaths([Path("/"), Path("/x")], np.array([0, 1]), ["a", "b"])
    assert paths.texts() == ["/a", "/x/b"]
    assert paths.texts(Path("/")) == ["a", "x/b"]

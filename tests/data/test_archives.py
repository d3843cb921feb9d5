"""A zip or a tar stands for the folder that it would be unpacked to."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from effssl import InputError, cli
from effssl.data.archives import read_archive
from effssl.data.read_back import check_beton
from effssl.data.sources import names_of, open_source
from effssl.data.stored import open_data, open_split
from effssl.image_config import Storage
from effssl.train import loop as train
from tests.conftest import QUICK, write_class_folders

WAYS = ("stored.zip", "deflated.zip", "plain.tar")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    write_class_folders(root / "train", per_class=5, side=20)
    write_class_folders(root / "test", per_class=2, side=20)
    Image.new("RGB", (20, 20)).save(root / "train" / "loose.png")
    (root / "train" / "notes.txt").write_text("no image")
    (root / "train" / "class-0" / "@eaDir").mkdir()
    shutil.copy(root / "train" / "loose.png", root / "train" / "class-0" / "@eaDir" / "x.png")
    (root / "train" / "class-0" / "._0.png").write_bytes(b"of a Mac")
    return root


def packed(folder, file, around=""):
    """Put a folder's contents into an archive, in no order."""
    paths = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.name)
    named = [(path, around + str(path.relative_to(folder))) for path in paths]
    if file.suffix == ".tar":
        with tarfile.open(file, "w") as tar:
            for path, name in named:
                tar.add(path, f"./{name}")
    else:
        way = zipfile.ZIP_DEFLATED if file.stem.startswith("deflated") else zipfile.ZIP_STORED
        with zipfile.ZipFile(file, "w", way) as archive:
            for path, name in named:
                archive.write(path, name)
    return file


@pytest.mark.parametrize("around", ["", "set-1.0/images/"])
@pytest.mark.parametrize("way", WAYS)
def test_all_is_as_in_the_folder(folder, tmp_path, way, around):
    file = packed(folder, tmp_path / way, around)
    for split, count in (("train", 11), ("test", 4)):
        expected = open_source("folder", folder, split)
        found = open_source("folder", file, split)
        assert len(found.images) == len(expected.images) == count
        assert found.labels.tolist() == expected.labels.tolist()
        assert (found.classes, found.side) == (expected.classes, expected.side)
        for one, other in zip(found.images, expected.images, strict=True):
            assert np.array_equal(one, other)
        everything = np.arange(count)
        names = names_of(expected, everything, folder, split)
        assert names_of(found, everything, file, split) == [around + name for name in names]
    (first, *notes) = open_source("folder", file, "train").notes
    assert (
        first == f"train: {file} has 11 images in 2 classes (class-0, class-1), 1 without a label"
    )
    assert notes == [f"not read in {file}, as not taken for images: 1 .txt"]


def test_a_file_of_two_names_in_a_tar_is_two(folder, tmp_path):
    (folder / "train" / "class-1" / "link.png").hardlink_to(folder / "train" / "loose.png")
    file = packed(folder, tmp_path / "x.tar")
    with tarfile.open(file) as tar:
        assert any(info.islnk() for info in tar)
    source = open_source("folder", file, "train")
    assert len(source.images) == 12
    assert sum(image.max() == 0 for image in source.images) == 2


def test_a_folder_around_loose_images_and_classes_is_no_class(folder, tmp_path):
    file = packed(folder / "train", tmp_path / "x.zip", "set-1.0/")
    assert open_source("folder", file, "train").classes == ["class-0", "class-1"]


def test_without_a_train_folder_all_is_trained_on(folder, tmp_path):
    file = packed(folder / "train", tmp_path / "x.zip")
    assert len(open_source("folder", file, "train").images) == 11
    assert open_source("folder", file, "test") is None
    unlabelled = open_source("folder", file, "train", labels=False)
    assert set(unlabelled.labels) == {-1}


def test_val_is_held_out_if_there_is_no_test_and_else_not_read(folder, tmp_path):
    shutil.copytree(folder / "test", folder / "Validation")
    file = packed(folder, tmp_path / "x.zip")
    assert "not read: 4 images beside train and test" in open_source("folder", file, "train").notes
    shutil.rmtree(folder / "test")
    file = packed(folder, tmp_path / "y.zip")
    assert len(open_source("folder", file, "test").images) == 4


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train2017/a", "val2017/a"), "train2017, .*val2017: by its name a split"),
        (("cat", "dog", "eval"), "eval: by its name a split"),
        (("train/a", "training/a"), "train, .*training: the train split is there more than once"),
    ],
)
def test_what_could_be_a_split_is_an_error_as_in_the_folder(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / folder / "x.png")
    for data_dir in (tmp_path / "set", packed(tmp_path / "set", tmp_path / "x.zip", "all/")):
        with pytest.raises(InputError, match=message):
            open_source("folder", data_dir, "train")


def test_a_folder_around_everything_is_no_split_by_its_name(folder, tmp_path):
    file = packed(folder / "train" / "class-0", tmp_path / "train2017.zip", "train2017/")
    assert len(open_source("folder", file, "train").images) == 5


def test_a_test_folder_without_classes_gives_way_to_a_labelled_val(folder, tmp_path):
    (folder / "test").rename(folder / "val")
    (folder / "test").mkdir()
    shutil.copy(folder / "train" / "loose.png", folder / "test")
    file = packed(folder, tmp_path / "x.zip")
    for data_dir in (folder, file):
        assert open_source("folder", data_dir, "test").labels.tolist() == [0, 0, 1, 1]
    assert "not read: 1 images beside train and val" in open_source("folder", file, "train").notes


def test_backslashes_of_old_tools_part_folders(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            info = zipfile.ZipInfo(str(path.relative_to(folder)).replace("/", "\\"))
            info.create_system = 0
            archive.writestr(info, path.read_bytes())
    for split in ("train", "test"):
        found, expected = (open_source("folder", at, split) for at in (tmp_path / "x.zip", folder))
        assert found.classes == expected.classes
        assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize("way", WAYS)
def test_an_archive_that_is_cut_short_or_damaged_is_told(folder, tmp_path, way):
    file = packed(folder, tmp_path / way)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read, or is cut short") as told:
        open_source("folder", file, "train")
    assert "\n" not in str(told.value)
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be read, or is cut short|no images"):
        open_source("folder", file, "train")


def test_what_zips_hold_but_not_in_place_is_told(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(folder / "train" / "loose.png", "a/x.png")
    with pytest.raises(InputError, match=r"a/x\.png is encrypted, or neither stored nor deflated"):
        read_archive(tmp_path / "x.zip", "train")


def test_other_contents_are_told(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/notes.txt", "x")
    with pytest.raises(InputError, match=r"no images in .*x\.zip; there are files .*: 1 \.txt"):
        read_archive(tmp_path / "x.zip", "train")
    (folder / "train" / "class-0" / "val").mkdir()
    shutil.copy(folder / "train" / "loose.png", folder / "train" / "class-0" / "val")
    deep = packed(folder, tmp_path / "deep.zip")
    with pytest.raises(InputError, match=r"names of splits \(val\) lie among the images"):
        open_source("folder", deep, "train")
    shutil.rmtree(folder / "train" / "class-0" / "val")
    (folder / "test" / "class-1").rename(folder / "test" / "class-9")
    other = packed(folder, tmp_path / "other.zip")
    with pytest.raises(InputError, match="test has classes that train lacks: class-9"):
        open_source("folder", other, "test")


def test_other_files_are_told_what_is_read(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"x\.tar\.gz: a file, of which \.zip and \.tar are read"):
        open_source("folder", tmp_path / "x.tar.gz", "train")


def test_sets_of_chosen_classes_are_no_archives(folder, tmp_path):
    file = packed(folder, tmp_path / "x.zip")
    with pytest.raises(InputError, match=r"are read with --data folder"):
        open_source("imagenet100", file, "train")


def test_of_names_that_come_again_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for value in (10, 200):
            content = io.BytesIO()
            Image.new("RGB", (8, 8), (value,) * 3).save(content, "PNG")
            info = tarfile.TarInfo("a/x.png")
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))
    (image,) = open_source("folder", tmp_path / "x.tar", "train").images
    assert image.max() == image.min() == 200


@pytest.mark.slow
def test_it_is_stored_and_trained_on_and_another_one_is_stored_anew(folder, tmp_path):
    file = packed(folder, tmp_path / "set.zip")
    storage = Storage(data="folder", data_dir=file)
    source, beton = open_split(storage, "train")
    assert check_beton(beton, source) == 11
    assert beton.path.parent == tmp_path / "beton"
    before = beton.path
    shutil.copy(folder / "train" / "loose.png", folder / "train" / "class-1" / "more.png")
    packed(folder, file)
    _, beton = open_split(storage, "train")
    assert beton.path != before and len(beton.labels) == 12
    flags = ["--data", "folder", "--data-dir", str(file), "--image-size", "16", "--epochs", "1"]
    flags += ["--batch-size", "8", "--val-fraction", "0.3", "--out", str(tmp_path / "run")]
    assert train.main(cli.parse([*QUICK, *flags])) == 0
    resumed = cli.parse(["--resume", str(tmp_path / "run")])
    assert open_data(resumed.images).train.path == beton.path


@pytest.mark.slow
def test_a_damaged_image_in_an_archive_is_named(folder, tmp_path):
    (folder / "train" / "class-0" / "0.png").write_bytes(b"no image at all")
    file = packed(folder, tmp_path / "x.tar")
    with pytest.raises(InputError, match=r"x\.tar/train/class-0/0\.png does not decode"):
        open_split(Storage(data="folder", data_dir=file), "train")

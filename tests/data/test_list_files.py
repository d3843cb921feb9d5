"""Images that a file lists are those of the folders, however they are listed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from effssl import InputError, cli
from effssl.data.list_files import in_order, read_list
from effssl.data.sources import check_is_there, names_of, open_source
from effssl.data.stored import open_split
from effssl.image_config import Storage
from effssl.train import loop as train
from tests.conftest import QUICK, write_class_folders

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@pytest.fixture
def images(tmp_path):
    return write_class_folders(tmp_path / "set", classes=3)


def table_of(images, **columns) -> pd.DataFrame:
    """The images of a folder by their paths from beside it, with their classes."""
    paths = sorted(images.rglob("*.png"))
    names = [f"{images.name}/{path.relative_to(images)}" for path in paths]
    labels = [path.parent.name for path in paths]
    return pd.DataFrame({"path": names, "label": labels} | columns)


def written(table: pd.DataFrame, images, suffix=".csv"):
    file = images.parent / f"list{suffix}"
    if suffix == ".parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, sep=SEPARATORS[suffix], index=False)
    return file


@pytest.mark.parametrize("suffix", [*SEPARATORS, ".parquet"])
def test_a_list_is_the_folders_that_it_lists(images, suffix):
    listed = open_source("list", written(table_of(images), images, suffix), "train")
    folders = open_source("folder", images, "train")
    assert listed.classes == folders.classes and listed.side == folders.side
    np.testing.assert_array_equal(listed.labels, folders.labels)
    for ours, theirs in zip(listed.images, folders.images, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert open_source("list", written(table_of(images), images, suffix), "test") is None
    assert "lists 18 images in 3 classes (class-0, class-1, class-2)" in listed.notes[0]


def test_labels_of_a_parquet_that_are_not_a_number_are_none(images):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    paths = list(table_of(images)["path"])[:3]
    file = images.parent / "list.parquet"
    pq.write_table(pa.table({"path": paths, "label": [0.0, float("nan"), 1.0]}), file)
    listed = read_list(file, "train")
    assert (listed.classes, listed.labels.tolist()) == (["0.0", "1.0"], [0, -1, 1])


def test_images_are_called_what_the_list_calls_them(images):
    source = open_source("list", written(table_of(images), images), "train")
    names = names_of(source, np.array([0, 7]), images, "train")
    assert names == ["set/class-0/0.png", "set/class-1/1.png"]


def test_columns_come_in_any_order_and_case_beside_others(images):
    table = table_of(images)
    file = images.parent / "list.csv"
    rows = [
        f"x, {label} ,{path}" for path, label in zip(table["path"], table["label"], strict=True)
    ]
    file.write_bytes("\ufeffnote, Label,PATH\n\n".encode() + "\n".join(rows).encode())
    listed = read_list(file, "train")
    assert listed.names == list(table["path"])
    assert listed.classes == ["class-0", "class-1", "class-2"]


def test_absolute_paths_are_taken_as_they_are(images, tmp_path):
    table = table_of(images)
    table["path"] = [str(images.parent / name) for name in table["path"]]
    (tmp_path / "elsewhere").mkdir()
    table.to_csv(tmp_path / "elsewhere" / "list.csv", index=False)
    assert len(read_list(tmp_path / "elsewhere" / "list.csv", "train").paths) == 18


@pytest.mark.parametrize(
    ("splits", "train_rows", "test_rows", "note"),
    [
        (["train", "Test"] * 9, 9, 9, None),
        (["training", "validation"] * 9, 9, 9, None),
        (["train", "val", "test"] * 6, 6, 6, "not read: 6 images of val, as test is held out"),
        (["train"] * 18, 18, None, None),
    ],
)
def test_splits_are_those_of_a_column(images, splits, train_rows, test_rows, note):
    file = written(table_of(images, split=splits), images)
    found = read_list(file, "train")
    assert len(found.paths) == train_rows and found.notes[1:] == ([note] if note else [])
    held_out = read_list(file, "test")
    assert (None if held_out is None else len(held_out.paths)) == test_rows
    if held_out is not None:
        assert not set(held_out.names) & set(found.names)


def test_labels_that_are_numbers_are_in_their_order_and_empty_ones_are_none(images):
    labels = ["10", "9", "", "-1", "2", "10"] * 3
    listed = read_list(written(table_of(images, label=labels), images), "train")
    assert listed.classes == ["-1", "2", "9", "10"]
    assert listed.labels[:6].tolist() == [3, 2, -1, 0, 1, 3]


@pytest.mark.parametrize("label", [["one"] * 18, [""] * 18])
def test_one_class_is_no_label(images, label):
    listed = read_list(written(table_of(images, label=label), images), "train")
    assert listed.classes == [] and (listed.labels == -1).all()


def test_without_labels_classes_do_not_matter(images):
    table = table_of(images, split=["train"] * 12 + ["test"] * 6)
    file = written(table, images)
    with pytest.raises(InputError, match="test has classes that train lacks: class-2"):
        read_list(file, "test")
    assert (open_source("list", file, "test", labels=False).labels == -1).all()


def changed(table, **columns):
    return pd.DataFrame(dict(table) | columns)


BAD = {
    "missing": (
        lambda t: changed(t, path=["set/gone.png", "set/lost.png", *t["path"][2:]]),
        r"2 of 18 images are not there: set/gone.png, set/lost.png \(paths are taken from",
    ),
    "twice": (
        lambda t: changed(t, path=[t["path"][1], *t["path"][1:]]),
        "1 paths are there more than once: set/class-0/1.png",
    ),
    "split": (
        lambda t: changed(t, split=["train"] * 16 + ["fold1", ""]),
        r"splits have to be one of train, training, val, .*, not: fold1, 1 rows, \(empty\), 1 rows",
    ),
    "no train": (lambda t: changed(t, split=["test"] * 18), "no image has the split train"),
    "no path": (lambda t: t.rename(columns={"path": "file"}), "has no column path; it has file"),
    "no rows": (lambda t: t[:0], "lists no images"),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("what", BAD)
def test_a_list_that_cannot_be_is_one_line(images, what, suffix):
    change, message = BAD[what]
    with pytest.raises(InputError, match=message) as error:
        read_list(written(change(table_of(images)), images, suffix), "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "has no column path; it has none"),
        ("a.csv", b"path,label\na.png\n", "1 rows have not the 2 columns of the first line"),
        ("a.csv", b"path\n\xff\xfe\n", "cannot be read"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.xlsx", b"", "--data list knows .csv, .tsv, .txt, .parquet"),
        (None, None, "no such file; --data list takes a CSV, TSV or Parquet"),
    ],
)
def test_a_file_that_is_no_list_is_one_line(tmp_path, name, content, message):
    file = tmp_path / (name or "none.csv")
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_list(file, "train")


def test_it_is_stored_beside_the_file_and_known_when_it_changes(images):
    file = written(table_of(images), images)
    _, stored = open_split(Storage("list", file, workers=1), "train")
    assert stored.path.parent == images.parent / "beton"
    _, again = open_split(Storage("list", file, workers=1), "train")
    assert again.path == stored.path and not again.is_new
    written(table_of(images, label=["a", "b"] * 9), images)
    _, other = open_split(Storage("list", file, workers=1), "train")
    assert other.path != stored.path
    check_is_there("list", file)
    with pytest.raises(InputError, match="the run's images"):
        check_is_there("list", images)


@pytest.mark.slow
def test_a_run_on_a_list_trains_and_is_judged(images, tmp_path, capsys):
    file = written(table_of(images, split=["train"] * 5 + ["test"] + ["train"] * 12), images)
    flags = [*QUICK, "--data", "list", "--data-dir", file, "--batch-size", 8, "--epochs", 1]
    assert train.main(cli.parse([*map(str, flags), "--out", str(tmp_path / "run")])) == 0
    said = capsys.readouterr().out
    assert "lists 17 images in 3 classes" in said and "1 images in 3 classes" in said


@pytest.mark.parametrize("other", ["./set/class-0/0.png", "set/../set/class-0/0.png", None])
def test_one_image_by_two_spellings_is_there_twice(images, other):
    """Else an image of test might be trained on."""
    table = table_of(images, split=["train"] * 17 + ["test"])
    other = other or str(images / "class-0" / "0.png")
    file = written(changed(table, path=[*table["path"][:17], other]), images)
    with pytest.raises(InputError, match=r"1 paths are there more than once: .*0\.png"):
        read_list(file, "train")


def test_lines_are_counted_as_an_editor_does(images):
    file = images.parent / "list.csv"
    file.write_text('path,label\n\nset/class-0/0.png,"a\nb"\n\nset/class-0/1.png\n')
    with pytest.raises(InputError, match=r"1 rows have not the 2 columns .* the first in line 6"):
        read_list(file, "train")


def test_equal_numbers_are_in_the_order_of_their_texts():
    """A set of texts has another order in each process."""
    assert in_order(["01", "1", "2", "001"]) == in_order(["1", "001", "2", "01"])
    assert in_order({"01", "1", "2", "001"}) == ["001", "01", "1", "2"]


@pytest.mark.parametrize(
    ("label_of_test", "held_out", "note"),
    [
        ("", "val", "not read: 6 images of test, as val is held out"),
        ("class-0", "test", "not read: 6 images of val, as test is held out"),
    ],
)
def test_a_test_without_labels_is_not_held_out_where_val_has_some(
    images, label_of_test, held_out, note
):
    splits = ["train", "val", "test"] * 6
    table = table_of(images, split=splits)
    table.loc[table["split"] == "test", "label"] = label_of_test
    file = written(table, images)
    assert read_list(file, "train").notes[1:] == [note]
    held = read_list(file, "test")
    assert held.names == [n for n, s in zip(table["path"], splits, strict=True) if s == held_out]
    unlabelled = read_list(file, "test", labels=False)
    assert unlabelled.names == list(table["path"][table["split"] == "test"])

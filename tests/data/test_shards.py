"""Images within Parquet and Arrow files, as Hugging Face's library writes them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from effssl import InputError, cli
from effssl.data import shard_files, shards
from effssl.data.read_back import check_beton
from effssl.data.shards import Columns, read_shards
from effssl.data.sources import names_of, open_source
from effssl.data.stored import open_data, open_split
from effssl.embed import run as embed
from effssl.image_config import Storage
from effssl.prepare import store
from effssl.train import loop as train
from tests.conftest import QUICK

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["owl", "cat", "bee"]  # in an order of their own


def image(number):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)


def png(number):
    content = io.BytesIO()
    Image.fromarray(image(number)).save(content, "png")
    return content.getvalue()


def table(numbers, labels=None, *, noted=True, **more):
    """Make what `datasets` writes for columns img (Image) and label (ClassLabel)."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": png(n), "path": None} for n in numbers]
    columns = {"img": pa.array(rows, kind)}
    labels = [n % 3 for n in numbers] if labels is None else labels
    columns |= {"label": pa.array(labels, pa.int64())} | more
    features = {
        "img": {"_type": "Image"},
        "label": {"names": NAMES, "_type": "ClassLabel"},
        "fine": {"names": NAMES, "_type": "ClassLabel"},
        "coarse": {"names": NAMES, "_type": "ClassLabel"},
    }
    noted_as = {"huggingface": json.dumps({"info": {"features": features}})} if noted else None
    return pa.table(columns).replace_schema_metadata(noted_as)


def write(file, content, group=4):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(content, file, row_group_size=group)
    else:
        opened = pa.ipc.new_file if "footer" in file.stem else pa.ipc.new_stream
        with opened(str(file), content.schema) as writer:
            writer.write_table(content, max_chunksize=group)
    return file


WAYS = {
    "hub": "data/{}-0000{}-of-00002-a1b2c3.parquet",
    "converted": "default/{}/000{}.parquet",
    "saved": "{}/data-0000{}-of-00002.arrow",
    "footer": "{}/footer-{}.arrow",
}


@pytest.fixture(params=WAYS)
def folder(request, tmp_path):
    root = tmp_path / "set"
    for split, numbers in {"train": range(20), "test": range(20, 26), "validation": [26]}.items():
        halves = np.array_split(np.array(numbers), 2 if split == "train" else 1)
        for part, half in enumerate(halves):
            write(root / WAYS[request.param].format(split, part), table(half.tolist()))
    (root / "README.md").write_text("what the images are")
    if request.param == "saved":
        write(root / "train" / "cache-0123.arrow", table([1, 2]))
        (root / "dataset_dict.json").write_text("{}")
    return root


def test_all_splits_are_found_with_images_labels_and_names(folder):
    for split, numbers in {"train": range(20), "test": range(20, 26)}.items():
        source = open_source("hf", folder, split)
        assert source.classes == NAMES
        assert source.labels.tolist() == [n % 3 for n in numbers]
        assert source.side == 20
        for i in reversed(range(len(numbers))):  # in no order that they are stored in
            assert np.array_equal(source.images[i], image(numbers[i]))
        names = names_of(source, np.arange(len(numbers)), folder, split)
        assert len({*names}) == len(numbers)
        assert all("row" in name and not name.startswith("/") for name in names)
    assert any("not read: 1 images of val" in n for n in open_source("hf", folder, "train").notes)


def test_they_are_stored_and_known_again(folder, tmp_path):
    storage = Storage(data="hf", data_dir=folder)
    source, beton = open_split(storage, "train")
    assert check_beton(beton, source) == 20
    copied = shutil.copytree(folder, tmp_path / "copied")
    there = open_source("hf", copied, "train")
    assert there.identity == source.identity
    assert open_source("hf", folder, "train").fingerprint == source.fingerprint
    os.utime(open_source("hf", folder, "train").images.paths[0].shard, ns=(0, 1))
    assert open_source("hf", folder, "train").fingerprint != source.fingerprint


def test_it_trains_on_them(folder, tmp_path):
    more = ("--data", "hf", "--data-dir", str(folder), "--out", str(tmp_path / "run"))
    flags = [*QUICK, *more, "--epochs", "1", "--batch-size", "8", "--val-fraction", "0.3"]
    assert train.main(cli.parse([str(flag) for flag in flags])) == 0
    own = ["--data", "hf", "--data-dir", folder, "--label-column", "label", "--split", "test"]
    own = [tmp_path / "run", *own, "--to", tmp_path / "h.npz"]
    assert embed.main(cli.parse_embed([str(flag) for flag in own])) == 0
    with np.load(tmp_path / "h.npz") as found:
        assert found["labels"].tolist() == [n % 3 for n in range(20, 26)]
        assert found["classes"].tolist() == NAMES
        assert found["names"][0].endswith("/row 0")


def test_bytes_of_their_own_and_labels_of_any_text(tmp_path):
    """As other tools than Hugging Face's write them: one file, no metadata."""
    columns = {"image": pa.array([png(n) for n in range(4)]), "label": ["10", "9", None, "10"]}
    file = write(tmp_path / "mine.parquet", pa.table(columns))
    source = open_source("hf", file, "train")
    assert source.classes == ["9", "10"]
    assert source.labels.tolist() == [1, 0, -1, 1]
    assert np.array_equal(source.images[3], image(3))
    assert open_source("hf", file, "test") is None
    assert open_data(cli.parse(["--data", "hf", "--data-dir", str(file)]).images).test is None
    assert (tmp_path / "beton").is_dir()


def test_labels_that_are_not_a_number_are_none(tmp_path):
    columns = {
        "image": pa.array([png(n) for n in range(4)]),
        "label": [0.0, float("nan"), 1.0, 0.0],
    }
    source = open_source("hf", write(tmp_path / "x.parquet", pa.table(columns)), "train")
    assert (source.classes, source.labels.tolist()) == (["0.0", "1.0"], [0, -1, 1, 0])


def test_a_test_without_labels_is_not_held_out(tmp_path):
    write(tmp_path / "train.parquet", table(range(6)))
    write(tmp_path / "test.parquet", table(range(6, 9), labels=[-1, -1, None]))
    write(tmp_path / "validation.parquet", table(range(9, 13)))
    assert open_source("hf", tmp_path, "test").labels.tolist() == [0, 1, 2, 0]
    notes = open_source("hf", tmp_path, "train").notes
    assert "not read: 3 images of test, as val is held out" in notes


def test_columns_can_be_named(tmp_path):
    fine, coarse = pa.array([0, 1, 2]), pa.array([2, 2, 0])
    content = table(range(3), fine=fine, coarse=coarse).drop_columns("label")
    write(tmp_path / "x.parquet", content)
    with pytest.raises(InputError, match="several columns have labels, fine, coarse; --label-col"):
        read_shards(tmp_path, "train")
    assert read_shards(tmp_path, "train", labels=False).classes == []
    chosen = read_shards(tmp_path, "train", Columns("img", "coarse"))
    assert chosen.classes == ["owl", "bee"]
    assert chosen.labels.tolist() == [1, 1, 0]
    flags = ["--image-column", "img", "--label-column", "fine"]
    flags = ["--data", "hf", "--data-dir", str(tmp_path), *flags]
    assert open_data(cli.parse(flags).images).train.classes == NAMES


def test_two_columns_of_images_are_not_guessed_at(tmp_path):
    mask = pa.array([png(9)] * 3)
    content = table(range(3), noted=False, mask=mask)
    renamed = content.rename_columns(["photo", "label", "mask"])
    write(tmp_path / "x.parquet", renamed)
    with pytest.raises(InputError, match="which column has the images is not clear"):
        read_shards(tmp_path, "train")
    assert len(read_shards(tmp_path, "train", Columns("photo")).rows) == 3
    write(tmp_path / "x.parquet", content)  # of both one has a usual name
    assert read_shards(tmp_path, "train").rows[0].column == "img"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns("photo"), "has no column photo; it has img, label"),
        (Columns(None, "kind"), "has no column kind; it has img, label"),
        (Columns("label"), "column label has no encoded images but int64"),
    ],
)
def test_columns_that_are_not_there(columns, said, tmp_path):
    write(tmp_path / "x.parquet", table(range(3)))
    with pytest.raises(InputError, match=said):
        read_shards(tmp_path, "train", columns)


def test_shards_of_other_columns_are_named(tmp_path):
    write(tmp_path / "a.parquet", table(range(3)))
    write(tmp_path / "b.parquet", pa.table({"text": ["x"]}))
    with pytest.raises(InputError, match=r"b\.parquet has no column img; it has text"):
        read_shards(tmp_path, "train")


def test_rows_without_bytes_are_named_and_can_be_left_out(tmp_path, capsys):
    content = table(range(6), noted=False)
    rows = content["img"].to_pylist()
    rows[2], rows[4] = {"bytes": None, "path": "cat.jpg"}, None
    spoilt = content.set_column(0, "img", pa.array(rows, content.schema.field("img").type))
    write(tmp_path / "x.parquet", spoilt)
    flags = ["--data", "hf", "--data-dir", str(tmp_path)]
    with pytest.raises(
        InputError, match=r"x\.parquet, row 2 does not decode: the row names a file"
    ):
        store.prepare(cli.parse_storage(flags))
    assert store.main(cli.parse_storage([*flags, "--skip-corrupt"])) == 0
    assert "4 images" in capsys.readouterr().out


BAD = {
    "nothing": ([], "no .parquet or .arrow in"),
    "both": (["a.parquet", "b.arrow"], "both .arrow and .parquet, which may be"),
    "some of no split": (["train.parquet", "more.parquet"], "more.parquet: of no split, where"),
    "several splits": (["train-test.parquet"], "spells several splits"),
    "no train": (["test.parquet"], "no shard has the split train"),
}


@pytest.mark.parametrize(("names", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(names, said, tmp_path):
    for name in names:
        write(tmp_path / name, table(range(2)))
    with pytest.raises(InputError, match=said) as error:
        read_shards(tmp_path, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_file_that_is_cut_short(name, tmp_path):
    file = write(tmp_path / name, table(range(6)))
    file.write_bytes(file.read_bytes()[:-40] if name == "x.parquet" else b"no arrow at all")
    with pytest.raises(InputError, match="cannot be read, or is cut short") as error:
        read_shards(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_and_one_of_another_kind(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such folder"):
        read_shards(tmp_path / "nowhere", "train")
    write(tmp_path / "x.parquet", table(range(2)))
    with pytest.raises(InputError, match=r"1 \.parquet; --data hf reads images within"):
        open_source("folder", tmp_path, "train")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install -e '\.\[hf\]'"):
        read_shards(tmp_path, "train")


def test_no_folder_of_shards_is_lost_or_walked_twice(tmp_path):
    write(tmp_path / "a" / "x.parquet", table(range(3)))
    write(tmp_path / "b" / "x.parquet", table(range(2)))
    (tmp_path / "a" / "itself").symlink_to("itself")
    assert len(read_shards(tmp_path, "train").rows) == 5
    (tmp_path / "a" / "up").symlink_to("..")
    with pytest.raises(InputError, match=r"a/up is a link to .*, which it lies in") as error:
        read_shards(tmp_path, "train")
    assert "\n" not in str(error.value)
    (tmp_path / "a" / "up").unlink()
    (tmp_path / "c").symlink_to("n" * 300)
    with pytest.raises(InputError, match=r"c \(File name too long\) cannot be looked into"):
        read_shards(tmp_path, "train")


def test_threads_that_come_to_a_group_read_it_once(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", table(range(8)), group=8)
    images = open_source("hf", tmp_path, "train").images
    read, groups = pq.ParquetFile.read_row_group, []

    def slow(file, group, *columns, **how):
        groups.append(group)
        time.sleep(0.05)  # as a group of a GiB takes
        return read(file, group, *columns, **how)

    shard_files.forget()
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", slow)
    with ThreadPoolExecutor(8) as pool:
        pixels = list(pool.map(images.__getitem__, range(8)))
    assert all(np.array_equal(found, image(n)) for n, found in enumerate(pixels))
    assert groups == [0]


def test_large_row_groups_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_LARGE_GIB", 1e-6)
    write(tmp_path / "x.parquet", table(range(6)))
    assert any("a row group takes" in note for note in read_shards(tmp_path, "train").notes)

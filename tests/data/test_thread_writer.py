"""What the writer without FFCV writes FFCV reads, and finds what its own would have written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ffcv.reader import Reader
from PIL import Image

from effssl import InputError
from effssl.data import beton_file
from effssl.data.beton import ensure_beton
from effssl.data.beton_file import JPEG, RAW, StoredImage, bytes_of, open_file, write_file
from effssl.data.decode import Decoding
from effssl.data.read_back import check_beton
from effssl.data.sources import open_source
from effssl.image_config import Storage
from tests.conftest import read_all, write_class_folders

SIZES = [(20, 30), (90, 60), (64, 64), (130, 40), (31, 33)]


def photographs(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(SIZES):
        folder = root / "train" / f"class-{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(folder / f"{i}.png")
    return root


def store(root: Path, loader: str, **how):
    source = open_source("folder", root, "train")
    return source, ensure_beton(source, root / loader, "x", Storage(loader=loader, **how))


def images_in(path: Path) -> list[np.ndarray]:
    """The images of a .beton, of whatever size, by Pillow."""
    file = open_file(path)
    images = []
    for stored in file.images:
        of_image = bytes_of(stored, file.storage)
        if stored["mode"] == JPEG:
            images.append(np.asarray(Image.open(io.BytesIO(of_image.tobytes()))))
        else:
            images.append(of_image.reshape(stored["height"], stored["width"], 3))
    return images


def test_a_file_is_what_ffcv_takes_for_one(tmp_path):
    source, stored = store(photographs(tmp_path), "threads")
    reader = Reader(str(stored.path))
    assert reader.field_names == ["image", "label"]
    assert reader.metadata["f1"].tolist() == source.labels.tolist()
    ours = open_file(stored.path)
    assert ours.images.tolist() == reader.metadata["f0"].tolist()
    assert sorted(reader.alloc_table["ptr"].tolist()) == ours.storage[1].tolist()


def test_small_images_of_one_size_are_read_back_by_ffcv_exactly(tmp_path):
    root = write_class_folders(tmp_path / "train", per_class=9)
    source, stored = store(root.parent, "threads")
    order, images, _ = read_all(stored.path, 18)
    assert stored.side == 12
    assert np.array_equal(images.numpy(), np.stack([source.images[i] for i in order]))
    _, by_ffcv = store(root.parent, "ffcv")
    assert by_ffcv.path.name == stored.path.name
    for ours, theirs in zip(images_in(stored.path), images_in(by_ffcv.path), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("how", ["auto", "lossless"])
def test_images_of_varied_size_are_ffcvs_up_to_rounding(tmp_path, how):
    root = photographs(tmp_path)
    (source, ours), (_, theirs) = (
        store(root, loader, store=how, max_side=80) for loader in ("threads", "ffcv")
    )
    assert check_beton(ours, source) == len(SIZES)
    pairs = list(zip(images_in(ours.path), images_in(theirs.path), strict=True))
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    of_each = [np.abs(a.astype(int) - b).mean() for a, b in pairs]
    assert max(of_each) < 1.5
    if how == "lossless":
        is_smaller = [max(source.images[i].shape) > 80 for i in range(len(SIZES))]
        assert sorted(is_smaller) == [False, False, False, True, True]
        assert [each > 0 for each in of_each] == is_smaller


def test_damaged_images_are_left_out_and_named(tmp_path):
    root = photographs(tmp_path)
    (root / "train" / "class-1" / "3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 5 images cannot be stored.*\n.*class-1/3.png"):
        store(root, "threads")
    assert not list((root / "threads").glob("*.beton"))
    assert not list((root / "threads").glob(".*"))
    _, stored = store(root, "threads", skip_corrupt=True)
    note = json.loads(stored.path.with_suffix(".json").read_text())
    left_out = [position for position, _ in note["skipped"]]
    assert (len(left_out), note["stored"], len(stored.labels)) == (1, 4, 4)
    assert open_file(stored.path).labels.tolist() == stored.labels.tolist()
    assert len(read_all(stored.path, 4, square=16)[1]) == 4


@pytest.mark.parametrize("loader", ["threads", "ffcv"])
def test_images_too_narrow_to_store_are_left_out_and_named(tmp_path, loader):
    root = photographs(tmp_path)
    Image.new("RGB", (600, 1)).save(root / "train" / "class-1" / "narrow.png")
    with pytest.raises(InputError, match=r"1 of 6 .*\n.*narrow\.png is too narrow to store: 600x1"):
        store(root, loader)
    assert len(store(root, loader, skip_corrupt=True)[1].labels) == 5


def test_images_that_were_left_out_are_stored_once_nothing_keeps_them_out(tmp_path):
    root = photographs(tmp_path)

    def stored(max_gib, **how):
        source = open_source("folder", root, "train", decoding=Decoding(max_gib=max_gib))
        return ensure_beton(source, root / "beton", "x", Storage(loader="threads", **how))

    few = stored(1e-4, skip_corrupt=True)
    more = stored(1.18e-4, skip_corrupt=True)
    every = stored(8.0)
    assert [len(each.labels) for each in (few, more, every)] == [3, 4, 5]
    assert len({each.path for each in (few, more, every)}) == 3  # each may be being read
    assert stored(8.0).path == every.path and not stored(8.0).is_new
    assert stored(1e-4, skip_corrupt=True).path == few.path
    with pytest.raises(InputError, match="2 of 5 images cannot be stored"):
        stored(1e-4)


def test_no_image_lies_in_two_pages(tmp_path):
    rng = np.random.default_rng(0)
    page = 2**12
    contents = [rng.bytes(3 * n * n) for n in rng.integers(4, 36, 60).tolist()]
    images = [
        StoredImage(RAW, (side := int((len(x) // 3) ** 0.5), side), x, i)
        for i, x in enumerate(contents)
    ]
    assert write_file(tmp_path / "x", iter(images), at_most=70, page_size=page) == 60
    file = open_file(tmp_path / "x")
    _, starts, sizes = file.storage
    assert (starts // page == (starts + sizes - 1) // page).all()
    assert len(set((starts // page).tolist())) > 10
    for stored, expected in zip(file.images, contents, strict=True):
        assert bytes_of(stored, file.storage).tobytes() == expected
    theirs = Reader(str(tmp_path / "x"))
    assert theirs.metadata["f1"].tolist() == list(range(60))


def test_pages_hold_every_image():
    for side in (1, 500, 1_672, 1_673, 4_000, 18_918):
        assert beton_file.page_size_for(side) >= max(2**23, 3 * side**2)
    for side in (18_918, 65_500):  # a single write(2) of FFCV's takes no more
        assert beton_file.page_size_for(side) <= 2**31 - 4096


def test_an_image_larger_than_a_page_comes_back(tmp_path):
    contents = [bytes([i]) * size for i, size in enumerate((3_000, 9_000, 5_000, 100))]
    images = (StoredImage(RAW, (1, len(x) // 3), x, 0) for x in contents)
    write_file(tmp_path / "x", images, at_most=4, page_size=2**12)
    file = open_file(tmp_path / "x")
    assert [bytes_of(row, file.storage).tobytes() for row in file.images] == contents
    assert Reader(str(tmp_path / "x")).alloc_table["size"].tolist() == list(map(len, contents))


def test_ffcvs_writer_is_asked_for_no_larger_image_than_it_can_store(tmp_path):
    with pytest.raises(InputError, match="up to 18918 px a side; --loader threads stores larger"):
        store(photographs(tmp_path), "ffcv", store="lossless", max_side=18_919)
    assert not [f for f in (tmp_path / "ffcv").iterdir() if f.suffix != ".lock"]

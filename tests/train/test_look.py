"""What the images of a set are, before they are trained on."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from effssl import cli
from effssl.data.facts import headers_of, pixels_of, repeated
from effssl.data.sources import open_source
from effssl.run import pictures
from effssl.run.pictures import save_views
from effssl.train import loop as train
from tests.conftest import write_class_folders


@pytest.fixture
def images(tmp_path):
    """Two classes of noise in train and test, and among them what --look is for."""
    root = tmp_path / "set"
    write_class_folders(root / "train", per_class=8, side=20)
    write_class_folders(root / "test", per_class=2, side=24)
    first = root / "train" / "class-0"
    shutil.copy(first / "1.png", first / "copy of 1.png")
    shutil.copy(first / "2.png", root / "test" / "class-1" / "leaked.png")
    Image.fromarray(np.zeros((10, 30, 3), np.uint8)).save(first / "black.png")
    Image.fromarray(np.full((40, 30), 200, np.uint8)).save(first / "gray.jpg")
    Image.fromarray(np.full((9, 9), 70_00, np.uint16)).save(first / "deep.png")
    (first / "damaged.png").write_bytes((first / "3.png").read_bytes()[:12])
    return root


def look(tmp_path, capsys, *flags):
    picture = tmp_path / "look.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "save_views", save_views)
        assert train.main(cli.parse([*map(str, flags), "--look", str(picture)])) == 0
    assert Image.open(picture).size[0] > 300
    return capsys.readouterr().out


def test_all_that_is_odd_is_counted_and_named(images, tmp_path, capsys):
    before = sorted(images.rglob("*"))
    flags = ["--data", "folder", "--data-dir", images, "--image-size", 16, "--views", 3]
    said = look(tmp_path, capsys, *flags)
    for part in (
        "train: ",
        "21 images in 2 classes (class-0, class-1)",
        "kinds: 18 PNG RGB, 1 not readable, 1 PNG 16-bit gray, 1 JPEG gray",
        "sizes: 9x9 to 40x30 px, median 20x20 (height x width; views are 16x16; 2 are smaller",
        "classes: 8 (class-1) to 13 (class-0) images, median 10.5",
        "nearly black: 1 of 21: train/class-0/black.png",
        "of one value: 3 of 21: train/class-0/black.png, train/class-0/deep.png, train/class-0/gra",
        "damaged: 1 of 21: ",
        "damaged.png does not decode",
        "repeated: 2 images are byte for byte others; 1 of test are trained on: "
        "train/class-0/1.png = train/class-0/copy of 1.png, "
        "train/class-0/2.png = test/class-1/leaked.png",
    ):
        assert part in said, said
    assert sorted(images.rglob("*")) == before


def test_a_damaged_member_of_a_zip_is_one_of_those_that_are_damaged(images, tmp_path, capsys):
    """Also where it is as long as another, to which it is then compared."""
    first = images / "train" / "class-0"
    (first / "deep.png").unlink()
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(images.rglob("*.png")):
            archive.write(path, path.relative_to(images))
        headers = [archive.getinfo(f"train/class-0/{n}.png").header_offset for n in (1, 2)]
    content = bytearray((tmp_path / "set.zip").read_bytes())
    compressed = headers[0] + 30 + len("train/class-0/1.png")
    content[compressed : compressed + 20] = b"\xff" * 20
    content[headers[1] : headers[1] + 4] = b"gone"
    (tmp_path / "set.zip").write_bytes(content)
    flags = ["--data", "folder", "--data-dir", tmp_path / "set.zip", "--image-size", 16]
    said = look(tmp_path, capsys, *flags)
    assert "damaged: 3 of 19: " in said
    assert "train/class-0/1.png does not decode" in said
    assert "train/class-0/2.png does not decode" in said
    assert "repeated: no image is byte for byte another" in said


def test_colours_are_those_of_the_pixels_and_compared_with_the_settings(images, tmp_path, capsys):
    source = open_source("folder", images / "train" / "class-1", "train")
    pixels = np.concatenate([image.reshape(-1, 3) / 255 for image in source.images])
    found = pixels_of(source.images, range(len(source.labels)))
    np.testing.assert_allclose(found.mean, pixels.mean(0))
    np.testing.assert_allclose(found.std, pixels.std(0))
    flags = ["--data", "folder", "--data-dir", images / "train" / "class-1", "--image-size", 16]
    own = " ".join(f"{x:.3f}" for x in pixels.mean(0)), " ".join(f"{x:.3f}" for x in pixels.std(0))
    said = look(tmp_path, capsys, *flags)
    assert f"mean {own[0]}, standard deviation {own[1]}" in said
    assert f"--mean {own[0]} --std {own[1]} would fit" in said
    fits = ["--mean", *own[0].split(), "--std", *own[1].split()]
    assert "the settings are near" in look(tmp_path, capsys, *flags, *fits)


def test_sets_that_are_no_files_are_looked_at_too(digits_dir, tmp_path, capsys):
    said = look(tmp_path, capsys, "--data", "digits", "--data-dir", digits_dir)
    assert "kinds: 1437 arrays RGB" in said and "sizes: all 16x16 px" in said
    assert "classes: " in said and "black, white, of one value, damaged: none of 1437" in said
    assert "repeated: no image is byte for byte another" in said


def test_large_images_are_looked_at_in_part():
    pixels = np.zeros((3000, 2000, 3), np.uint8)
    pixels[:, 1000:] = 255
    found = pixels_of([pixels], [0])
    np.testing.assert_allclose(found.mean, 0.5, atol=0.01)
    np.testing.assert_allclose(found.std, 0.5, atol=0.01)


def test_only_bytes_that_are_all_the_same_are_repeated():
    a = np.zeros((4, 4, 3), np.uint8)
    b = a.copy()
    b[3, 3, 2] = 1
    assert repeated([[a, b, a], [b]]) == [[(0, 0), (0, 2)], [(0, 1), (1, 0)]]
    assert repeated([[a, b]]) == []


def test_headers_of_arrays_are_their_shapes():
    headers = headers_of([np.zeros((4, 6, 3), np.uint8)], [0])
    assert headers.sizes.tolist() == [[4, 6]] and headers.kinds == {"arrays RGB": 1}


def test_a_picture_that_cannot_be_written_is_one_line(digits_dir, tmp_path, capsys):
    (tmp_path / "file").touch()
    picture = tmp_path / "file" / "look.png"
    flags = ["--data-dir", str(digits_dir), "--look", str(picture)]
    assert train.main(cli.parse(flags)) == 2
    written = capsys.readouterr()
    assert f"--look {picture} cannot be written" in written.err and not written.out

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effssl import InputError
from effssl.data.image_files import ImageFiles
from effssl.data.stored import open_split
from effssl.embed import files
from effssl.embed.representations import Embedded
from effssl.embed.run import embed_folder, embed_set, main
from effssl.evaluation.encode import backbone_features
from effssl.image_config import Augment, Storage
from effssl.job_config import Embed
from effssl.models import BackboneSpec, load_backbone, save_backbone
from effssl.run.device import open_runtime
from effssl.views.assemble import clean_view
from effssl.views.decode_crops import central_part
from effssl.views.stream import ViewStream
from tests.conftest import WEIGHTS, example, write_class_folders, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def augment_of(spec: BackboneSpec) -> Augment:
    return Augment(image_size=spec.image_size, mean=spec.mean, std=spec.std)


def one_by_one(run: Path, folder: Path, names: list[str]) -> np.ndarray:
    """Read, normalise and encode small squares each for itself."""
    backbone, spec = load_backbone(run)
    rows = []
    for name in names:
        pixels = torch.from_numpy(np.array(Image.open(folder / name).convert("RGB")))[None]
        with torch.inference_mode():
            rows.append(backbone(clean_view(pixels, augment_of(spec)))[0])
    return torch.stack(rows).numpy()


def evaluated(run: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (representations, labels) of a folder's images as evaluation makes them."""
    backbone, spec = load_backbone(run)
    _, stored = open_split(Storage("folder", folder), "train")
    runtime = open_runtime("cpu")
    stream = ViewStream(
        stored, augment_of(spec), seed=0, batch_size=256, workers=2, runtime=runtime
    )
    features = backbone_features(backbone, {"train": stream})
    return features("train", np.arange(len(stored.labels))).numpy(), stored.labels


def write_photographs(root: Path, count: int = 6) -> Path:
    """Write smooth images of varied size in two classes, losslessly."""
    for i in range(count):
        y, x = np.mgrid[0 : 60 + 7 * i, 0 : 90 - 5 * i] / 90
        waves = [np.sin(3 * (x + i) + c) * np.cos((2 + i % 3) * y - c) for c in range(3)]
        path = root / f"class-{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8)).save(path)
    return root


def test_names_that_are_not_utf_8_are_kept_as_each_file_can(tmp_path):
    name = "caf\udce9.jpg"
    h = np.zeros((1, 2), np.float32)
    embedded = Embedded([name], h, np.array([-1]), [], [], [], 1.0, 0.0)
    files.save(embedded, tmp_path / "h.npz")
    assert np.load(tmp_path / "h.npz")["names"].tolist() == [name]
    parquet = pytest.importorskip("pyarrow.parquet")
    files.save(embedded, tmp_path / "h.parquet")
    assert parquet.read_table(tmp_path / "h.parquet")["name"].to_pylist() == [r"caf\xe9.jpg"]


def test_gray_of_more_than_8_bits_is_embedded_by_its_range_or_not_at_all(tmp_path, run):
    for i in range(3):
        Image.fromarray(np.full((16, 16), 1000 * i, np.uint16)).save(tmp_path / f"{i}.png")
        (tmp_path / "eight").mkdir(exist_ok=True)
        Image.new("L", (16, 16), round(255 * i / 4)).save(tmp_path / "eight" / f"{i}.png")
    with pytest.raises(InputError, match=r"3 of 3 images of 16 bits .*--gray-range"):
        embed_folder(run, tmp_path)
    embedded = embed_folder(run, tmp_path, gray_range=(0, 4000))
    deep, eight = embedded.representations[:3], embedded.representations[3:]
    np.testing.assert_allclose(deep, eight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", ["file", "loaded"])
def test_colours_of_16_bits_are_seen_as_in_training(tmp_path, run, given):
    """The backbone's file says that they keep their values, and which are black and white."""
    backbone, spec = load_backbone(run)
    spec, file = replace(spec, kept_channels=3, gray_range=(100, 355)), tmp_path / "x.safetensors"
    save_backbone(backbone, file, spec)
    by = file if given == "file" else (backbone, spec)
    eight = write_class_folders(tmp_path / "eight")
    for path in eight.rglob("*.png"):
        deep = tmp_path / "set" / "train" / path.relative_to(eight).with_suffix(".npy")
        deep.parent.mkdir(parents=True, exist_ok=True)
        np.save(deep, np.array(Image.open(path)).astype(np.uint16) + 100)
    expected = embed_folder(run, eight).representations
    embedded = embed_folder(by, tmp_path / "set" / "train")
    np.testing.assert_allclose(embedded.representations, expected, rtol=1e-5, atol=1e-6)
    assert "--gray-range 100 355, as in training" in embedded.notes
    of_set = embed_set(by, Storage("folder", tmp_path / "set"), "train")
    np.testing.assert_allclose(of_set.representations, expected, rtol=1e-5, atol=1e-6)
    other = embed_folder(by, tmp_path / "set" / "train", gray_range=(0, 65_535))
    assert np.abs(other.representations - expected).max() > 1e-3 and len(other.notes) == 1
    assert len(embed_set(by, Storage("digits", tmp_path), "test").names) == 360


@pytest.mark.parametrize(("batch_size", "workers"), [(5, 1), (4, 2), (100, 3)])
def test_small_squares_give_what_evaluation_gives(tmp_path, run, batch_size, workers):
    images = write_class_folders(tmp_path / "images", classes=3)
    embedded = embed_folder(run, images, batch_size=batch_size, workers=workers)
    h, labels = evaluated(run, images)
    assert embedded.names == [f"class-{c}/{i}.png" for c in range(3) for i in range(6)]
    np.testing.assert_allclose(embedded.representations, h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        embedded.representations, one_by_one(run, images, embedded.names), rtol=1e-5, atol=1e-6
    )
    assert np.array_equal(embedded.labels, labels)
    assert (embedded.classes, embedded.skipped) == (["class-0", "class-1", "class-2"], [])
    assert np.unique(embedded.representations, axis=0).shape == (18, 16)
    assert embedded.representations.dtype == np.float32


def test_images_of_varied_size_give_nearly_what_evaluation_gives(tmp_path, run):
    images = write_photographs(tmp_path / "images")
    embedded = embed_folder(run, images, batch_size=4)
    h, labels = evaluated(run, images)  # through JPEG
    assert np.array_equal(embedded.labels, labels)
    spread = h.std(0).mean()
    assert np.abs(embedded.representations - h).mean() < 0.05 * spread
    # The central squares are those that Pillow makes.
    square = np.asarray(Image.open(images / "class-1" / "5.png"))
    edge = min(square.shape[:2])
    top, left = (square.shape[0] - edge) // 2, (square.shape[1] - edge) // 2
    by_hand = Image.fromarray(square[top : top + edge, left : left + edge]).resize(
        (24, 24), Image.Resampling.BILINEAR
    )
    ours = central_part(square, (24, 24))
    assert np.abs(ours.astype(int) - np.asarray(by_hand).astype(int)).max() <= 1


def test_the_set_gives_what_the_folder_gives_in_the_same_order(tmp_path, run):
    images = write_class_folders(tmp_path / "train")
    by_folder = embed_folder(run, images)
    by_set = embed_set(run, Storage("folder", tmp_path), "train", batch_size=5)
    assert by_set.names == [f"train/{name}" for name in by_folder.names]
    np.testing.assert_allclose(
        by_set.representations, by_folder.representations, rtol=1e-5, atol=1e-6
    )
    assert np.array_equal(by_set.labels, by_folder.labels)
    with pytest.raises(InputError, match="no test split"):
        embed_set(run, Storage("folder", tmp_path), "test")


def test_a_set_without_files_is_numbered(tmp_path, run):
    embedded = embed_set(run, Storage("digits", tmp_path), "test")
    assert (embedded.names[0], embedded.names[-1]) == ("test/0", "test/359")
    assert embedded.representations.shape == (360, 16)
    assert np.array_equal(np.unique(embedded.labels), np.arange(10))


def test_one_image_of_another_size_makes_all_of_varied_size(tmp_path, run):
    images = write_class_folders(
        tmp_path / "images", per_class=200
    )  # more than are looked at first
    other = images / "class-1" / "77.png"
    Image.open(other).resize((13, 12)).save(other)
    embedded = embed_folder(run, images, batch_size=64)
    names = [embedded.names.index(f"class-1/{i}.png") for i in (0, 77)]
    squares = [
        central_part(np.array(Image.open(images / embedded.names[i])), (24, 24)) for i in names
    ]
    backbone, spec = load_backbone(run)
    x = clean_view(torch.from_numpy(np.stack(squares)), augment_of(spec))
    with torch.inference_mode():
        np.testing.assert_allclose(
            embedded.representations[names], backbone(x), rtol=1e-5, atol=1e-6
        )


def test_nested_and_loose_images_of_any_kind(tmp_path, run):
    images = tmp_path / "images"
    (images / "a" / "deep" / "deeper").mkdir(parents=True)
    (images / "b").mkdir()
    Image.new("L", (20, 30), 100).save(images / "a" / "deep" / "deeper" / "gray.jpg")
    Image.new("RGBA", (30, 20), (1, 2, 3, 100)).save(images / "b" / "clear.webp")
    Image.new("RGB", (25, 25), "red").save(images / "loose.BMP")
    (images / "b" / "notes.txt").write_text("no image")
    embedded = embed_folder(run, images)
    assert embedded.names == ["a/deep/deeper/gray.jpg", "b/clear.webp", "loose.BMP"]
    assert (embedded.labels.tolist(), embedded.classes) == ([0, 1, -1], ["a", "b"])
    flat = embed_folder(run, images / "b")
    assert (flat.names, flat.labels.tolist(), flat.classes) == (["clear.webp"], [-1], [])


def test_a_loaded_backbone_serves_and_stays_in_its_mode(tmp_path, run):
    images = write_class_folders(tmp_path / "images")
    backbone, spec = load_backbone(run)
    backbone.train()
    backbone.layer1.eval()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    embedded = embed_folder((backbone, spec), images)
    assert backbone.training and not backbone.layer1.training
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    np.testing.assert_array_equal(
        embedded.representations, embed_folder(run, images).representations
    )


def test_npz_and_parquet_hold_what_is_returned(tmp_path, run):
    images = write_class_folders(tmp_path / "images")
    Image.new("RGB", (12, 12)).save(images / "loose.png")
    embedded = embed_folder(run, images, to=tmp_path / "h.npz")
    with np.load(tmp_path / "h.npz") as arrays:  # without pickle
        assert arrays["names"].tolist() == embedded.names
        assert arrays["classes"].tolist() == embedded.classes
        np.testing.assert_array_equal(arrays["representations"], embedded.representations)
        np.testing.assert_array_equal(arrays["labels"], embedded.labels)
        assert arrays["representations"].dtype == np.float32
    parquet = pytest.importorskip("pyarrow.parquet")
    embed_folder(run, images, to=tmp_path / "h.parquet")
    rows = parquet.read_table(tmp_path / "h.parquet").to_pylist()
    assert [row["name"] for row in rows] == embedded.names
    assert [row["label"] for row in rows] == [0] * 6 + [1] * 6 + [None]
    assert [row["class"] for row in rows] == ["class-0"] * 6 + ["class-1"] * 6 + [None]
    np.testing.assert_array_equal(
        np.float32([row["representation"] for row in rows]), embedded.representations
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.npz", "h.parquet", "images"]


def test_damaged_images_are_all_named_or_left_out(tmp_path, run, capsys):
    images = write_class_folders(tmp_path / "images", per_class=8)
    gone = [
        images / "class-0" / "2.png",
        images / "class-0" / "3.png",
        images / "class-1" / "7.png",
    ]
    whole = embed_folder(run, images)
    for file in gone:
        file.write_bytes(file.read_bytes()[:50])
    settings = Embed(run, tmp_path / "h.npz", images, batch_size=4)
    assert main(settings) == 2
    stderr = capsys.readouterr().err
    assert "error: 3 of 16 images do not decode; --skip-corrupt leaves them out:\n" in stderr
    assert all(f"\n  {file} does not decode" in stderr for file in gone)
    assert not (tmp_path / "h.npz").exists()
    # Nor does a batch of nothing but damaged images matter.
    for batch_size in (1, 2, 4):
        embedded = embed_folder(run, images, skip_corrupt=True, batch_size=batch_size)
        assert len(embedded.skipped) == 3
        kept = [i for i, name in enumerate(whole.names) if images / name not in gone]
        assert embedded.names == [whole.names[i] for i in kept]
        np.testing.assert_allclose(
            embedded.representations, whole.representations[kept], rtol=1e-5, atol=1e-6
        )
        assert np.array_equal(embedded.labels, whole.labels[kept])
    for file in images.rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="16 of 16 images do not decode:"):
        embed_folder(run, images, skip_corrupt=True)


def test_the_time_spent_waiting_is_measured(tmp_path, run, monkeypatch):
    images = write_class_folders(tmp_path / "images", per_class=4)
    backbone, spec = load_backbone(run)
    read = ImageFiles.decoded

    def slow(self, position):
        time.sleep(0.2)
        return read(self, position)

    with monkeypatch.context() as patched:
        patched.setattr(ImageFiles, "decoded", slow)
        loading = embed_folder((backbone, spec), images, batch_size=4, workers=1)
    assert loading.loader_share > 0.5
    assert loading.images_per_s < 5
    backbone.register_forward_hook(lambda *_: time.sleep(0.8))
    computing = embed_folder((backbone, spec), images, batch_size=4, workers=1)
    assert computing.loader_share < 0.5
    assert computing.seconds > 1.6


def bad(root: Path, run: Path) -> dict[str, tuple[Embed, str]]:
    images, to = write_class_folders(root / "images"), root / "h.npz"
    (root / "empty").mkdir()
    (root / "folder.npz").mkdir()
    (root / "unfinished").mkdir()
    (root / "unfinished" / "config.yaml").write_text("views: 4\n")
    return {
        "no folder": (Embed(run, to, root / "absent"), "no such folder"),
        "no images": (Embed(run, to, root / "empty"), "no images in"),
        "no run": (Embed(root / "absent", to, images), "no such file"),
        "unfinished run": (Embed(root / "unfinished", to, images), "is not finished"),
        "suffix": (Embed(run, root / "h.csv", images), "must end in .npz or .parquet"),
        "to is a folder": (Embed(run, root / "folder.npz", images), "cannot be written"),
        "to is nowhere": (Embed(run, root / "absent" / "h.npz", images), "cannot be written"),
        "device": (Embed(run, to, images, device="abacus"), "--device abacus"),
        "set": (Embed(run, to, data="folder", data_dir=root / "absent"), "no such folder"),
    }


BAD = [
    *(
        "no folder",
        "no images",
        "no run",
        "unfinished run",
        "suffix",
        "to is a folder",
        "to is nowhere",
    ),
    *("device", "set"),
]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(tmp_path, run, capsys, name):
    settings, message = bad(tmp_path, run)[name]
    before = sorted(tmp_path.rglob("*"))
    assert main(settings) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_is_one_line(tmp_path, run, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(Embed(run, tmp_path / "h.parquet", write_class_folders(tmp_path / "images"))) == 2
    assert (
        "--to FILE.parquet needs pyarrow; install effssl with the extra" in capsys.readouterr().err
    )


def test_a_full_disk_leaves_nothing(tmp_path, run, monkeypatch, capsys):
    def full(embedded, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_npz", full)
    assert main(Embed(run, tmp_path / "h.npz", write_class_folders(tmp_path / "images"))) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_the_command_writes_and_says_how_fast(tmp_path, run):
    images = write_class_folders(tmp_path / "images")
    command = [
        sys.executable,
        "-m",
        "effssl.embed",
        run,
        "--images",
        images,
        "--to",
        tmp_path / "h.npz",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = f"{images} has 12 images in 2 classes (class-0, class-1)\n"
    assert (done.returncode, done.stderr) == (0, found)
    assert "h.npz: 12 images, 16 numbers each; " in done.stdout
    assert "% of the time spent waiting for images" in done.stdout
    assert len(np.load(tmp_path / "h.npz")["representations"]) == 12


def test_the_example_in_the_docs_runs(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "runs" / "RUN")
    write_class_folders(tmp_path / "MY_IMAGES")
    monkeypatch.chdir(tmp_path)
    exec(example(WEIGHTS, "effssl.embed"), {})
    assert capsys.readouterr().out == "class-0/0.png (12, 16) 0\n"
    assert np.load("h.npz")["representations"].shape == (12, 16)

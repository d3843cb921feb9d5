"""Images of any channels and depths, from files to a run, its evaluation, embedding and export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from effssl import InputError, cli
from effssl.data.windows import with_channels
from effssl.embed import run as embed
from effssl.embed.run import embed_folder, embed_set
from effssl.evaluate import run as evaluate
from effssl.export.run import export
from effssl.image_config import Storage
from effssl.job_config import Export
from effssl.models import load_backbone
from effssl.train import loop as train
from effssl.train.found_out import with_images
from effssl.train.job import build_job
from tests.conftest import TINY, write_class_folders

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"

LOW, HIGH = 2048, 2303  # all of the images lies in the lower 8 of their 12 bits


def write_stripes(root, *, squeezed=False):
    """Two classes of two-channel images, of upright and of level stripes, in 12 of 16 bits.

    squeezed: into 8 bits by 256, which leaves one value.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", 240), ("test", 120)):
        for i in range(count):
            y, x = np.mgrid[:20, :20] + rng.integers(0, 6, (2, 1, 1))
            wave = np.stack([np.sin(2 * np.pi * (y if i % 2 else x) / 6)] * 2, 2)
            values = LOW + 128 + 60 * wave + rng.normal(0, 20, wave.shape)
            values = values.clip(LOW, HIGH).astype(np.uint16)
            folder = root / split / f"class-{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{i}.npy", (values // 256).astype(np.uint8) if squeezed else values)
    return root


FLAGS = ["--data", "folder", "--channels", "2", "--image-size", "12", "--crop-scale", "0.5", "1"]
FLAGS += ["--backbone-kwargs", TINY, "--batch-size", "60", "--epochs", "15", "--proj-dim", "32"]
FLAGS += ["--views", "4", "--lr", "3e-3", "--workers", "1", "--log-every", "1", "--blur-prob", "0"]


def trained(folder, out, *more):
    cfg = cli.parse([*FLAGS, "--data-dir", str(folder), "--out", str(out), *more])
    train.train(build_job(cfg))
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("stripes")
    folder, out = write_stripes(root / "set"), root / "run"
    return folder, out, trained(folder, out, "--gray-range", str(LOW), str(HIGH))


def linear_of(result):
    return result["final"]["rows"]["trained"]["linear"]


def test_lower_bits_are_learned_from_unless_they_are_squeezed_away(tmp_path, run):
    assert linear_of(run[2]) > 0.9
    result = trained(write_stripes(tmp_path / "set", squeezed=True), tmp_path / "run")
    assert abs(linear_of(result) - 0.5) < 0.1


def test_the_run_knows_its_channels(run):
    _, out, _ = run
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["channels"], config["hue"], config["gray_prob"]) == (2, 0.0, 0.0)
    mean, std = (np.array(config[name]) for name in ("mean", "std"))
    assert config["normalize"] == "given" and mean.shape == std.shape == (2,)
    assert (np.abs(mean - 128 / 255) < 0.02).all() and ((std > 0.15) & (std < 0.25)).all()
    backbone, spec = load_backbone(out)
    assert spec.mean == tuple(mean) and backbone.conv1.weight.shape[1] == 2


def test_it_is_evaluated_embedded_and_exported(tmp_path, run, capsys):
    (folder, out, _), to = run, tmp_path / "h.npz"
    every = ["--num-averaged-views", "2", "--fine-tune", "0.3", "--fine-tune-epochs", "1"]
    assert evaluate.main(cli.parse_evaluation([str(out), *every, "--supervised", "--cka"])) == 0
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    assert rows["trained"]["linear"] > 0.9
    window = (float(LOW), float(HIGH))
    by_files = embed_folder(out, folder / "test", gray_range=window)
    storage = Storage("folder", folder, gray_range=window, workers=1)
    by_set = embed_set(out, storage, "test")
    torch.testing.assert_close(by_files.representations, by_set.representations, atol=1e-4, rtol=0)
    for backbone in (out, out / "backbone.safetensors"):  # which say what the range is
        flags = [str(backbone), "--images", str(folder / "test"), "--to", str(to)]
        assert embed.main(cli.parse_embed(flags)) == 0
        with np.load(to) as written:
            np.testing.assert_array_equal(written["representations"], by_files.representations)
        assert "--gray-range 2048 2303, as in training" in capsys.readouterr().err
        again = embed_folder(backbone, folder / "test").representations
        np.testing.assert_array_equal(again, by_files.representations)
    export(Export(out, tmp_path / "export", onnx=True))
    said = (tmp_path / "export" / "README.md").read_text()
    assert "Images [n, 2, 12, 12]" in said and "torch.nn.Conv2d(2, " in said
    assert "2048 and 2303 in all others" in said
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [2, 12, 12]


def test_a_run_goes_on_with_its_channels(tmp_path, run):
    folder, _, _ = run
    window = ("--gray-range", str(LOW), str(HIGH))
    whole = trained(folder, tmp_path / "a", *window, "--epochs", "2", "--final-images", "0")
    trained(folder, tmp_path / "b", *window, "--epochs", "1", "--final-images", "0")
    train.train(build_job(cli.parse(["--resume", str(tmp_path / "b"), "--epochs", "2"])))
    names = [yaml.safe_load((tmp_path / x / "config.yaml").read_text())["mean"] for x in "ab"]
    assert names[0] == names[1] and whole["steps"] == 6


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--channels", "-1"], "--channels -1: must be at least 0"),
        (["--channels", "9" * 30], "--channels 9+: must be at most 512"),
        (["--channels", "9" * 5000], "--channels 9+: "),
        (["--channels", "4", "--hue", "0.1"], "hue: must be 0, as 4 channels are no RGB"),
        (["--channels", "4", "--mean", "0.5"], "--mean and --std must be as many numbers"),
        (["--channels", "4", "--mean", "0", "--std", "1"], "must be 4 numbers, one a channel"),
        (["--mean", "0", "--std", "1", "--hue", "0"], "must be 0, as 1 channels are no RGB"),
        (["--channels", "4", "--rand-augment", "2", "9"], "takes gray or RGB, not 4 channels"),
        (["--channels", "4", "--picture-bands", "3", "2", "4"], "--picture-bands: must be less"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(flags, said):
    with pytest.raises(InputError, match=said) as error:
        cli.parse(["--data", "folder", *flags])
    assert "\n" not in str(error.value)


def test_defaults_follow_the_channels():
    cfg = cli.parse(["--data", "folder", "--channels", "5"])
    assert (cfg.augment.channels, cfg.augment.normalize, cfg.augment.hue) == (5, "auto", 0)
    satellite = str(CONFIGS / "views" / "satellite.yaml")
    by_file = cli.parse(["--data", "folder", "--channels", "5", "--config", satellite])
    assert by_file.augment.quarter_turns and by_file.augment.saturation == 0
    assert cli.parse(["--data", "folder", "--config", satellite]).augment.saturation == 0.2
    three = cli.parse(["--data", "folder", "--channels", "3"]).augment
    assert three == replace(cli.parse(["--data", "folder"]).augment, normalize="auto")
    assert "channels: 5" in cli.dump(cfg)


def test_another_number_of_channels_is_told(tmp_path, run):
    folder, out, _ = run
    with pytest.raises(InputError, match="--channels 3: the backbone takes 2"):
        embed_folder(out, folder / "test", channels=3)


def test_auto_is_what_the_headers_say(tmp_path, run, capsys):
    folder, _, _ = run
    auto = ("--channels", "auto", "--gray-range", "auto", "--go-on", "--final-images", "0")
    trained(folder, tmp_path / "run", *auto, "--epochs", "1")
    assert "--channels auto: 2, 16 bits a value" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["channels"], config["hue"], config["normalize"]) == (2, 0.0, "given")
    assert len(config["mean"]) == 2 and abs(config["gray_range"][0] - LOW) < 80
    again = [*FLAGS, "--data-dir", str(folder), "--out", str(tmp_path / "run"), *auto]
    assert cli.parse([*again, "--epochs", "2"]).images.channels == 2


@pytest.mark.parametrize("more", [[], ["--mean", "0.5", "0.5", "0.5"], ["--normalize", "auto"]])
def test_auto_goes_on_where_colours_were_given_for_rgb(tmp_path, more):
    satellite = ["--config", str(CONFIGS / "views" / "satellite.yaml")]
    folder = str(write_stripes(tmp_path / "set"))
    flags = ["--data", "folder", "--data-dir", folder, "--channels", "auto", *satellite, *more]
    flags += ["--out", str(tmp_path / "run"), "--go-on"]
    cfg = with_images(cli.parse(flags))
    measured = replace(cfg.augment, mean=(0.4, 0.6), std=(0.1, 0.2), normalize="given")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(cli.dump(replace(cfg, augment=measured)))
    assert cli.parse(flags).augment == measured
    with pytest.raises(InputError, match="--views 4 -> 3"):
        cli.parse([*flags, "--views", "3"])


def test_auto_leaves_photographs_as_they_are_without_it(tmp_path, capsys):
    folder = write_class_folders(tmp_path / "set")
    images = cli.parse(["--data", "folder", "--data-dir", str(folder), "--channels", "auto"]).images
    assert with_channels(images) == replace(images, channels=None)
    colours = Image.open(folder / "class-0" / "0.png")
    colours.quantize(8).save(folder / "class-0" / "0.png")
    colours.convert("CMYK").save(folder / "class-0" / "cmyk.jpg")
    assert with_channels(images).channels is None
    (folder / "class-0" / "cmyk.jpg").unlink()
    digits = cli.parse(["--channels", "auto"]).images
    assert with_channels(digits).channels is None
    np.save(folder / "class-0" / "x.npy", np.zeros((12, 12, 5), np.uint8))
    with pytest.raises(InputError, match="several numbers of channels: 12 of 3, 1 of 5"):
        with_channels(images)


def test_auto_tells_why_nothing_can_be_read(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    images = cli.parse(["--data", "folder", "--data-dir", str(tmp_path), "--channels", "auto"])
    with pytest.raises(InputError, match=r"--channels auto: no image can be read: .*x\.npy: "):
        with_channels(images.images)


def test_kept_channels_are_measured_unless_mean_and_deviation_are_given(tmp_path):
    looks = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"]
    three = ["--data", "folder", "--channels", "3"]
    assert cli.parse([*three, *looks]).augment.normalize == "given"
    assert cli.parse([*three, *looks[:4]]).augment.normalize == "auto"
    assert cli.parse([*three, "--normalize", "given"]).augment.normalize == "given"
    two = ["--data", "folder", "--channels", "2", "--mean", "0.5", "0.5", "--std", "0.2", "0.2"]
    assert cli.parse(two).augment.normalize == "given"
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((12, 12, 3), 9000 * i, np.uint16))
    auto = ["--data", "folder", "--data-dir", str(tmp_path), "--channels", "auto"]
    found = with_images(cli.parse(auto))
    assert (found.images.channels, found.augment.normalize) == (3, "auto")
    assert with_images(cli.parse([*auto, *looks])).augment.normalize == "given"

"""--normalize auto: the images' own mean and deviation, kept by the run that measured them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from effssl import cli
from effssl.data.normalisation import measured
from effssl.data.stored import open_data
from effssl.image_config import Images
from effssl.train import loop as train
from tests.conftest import QUICK, write_class_folders

COLOURS = np.array([200, 90, 40])


@pytest.fixture
def coloured(tmp_path):
    """60 images of 20 px, whose red, green and blue differ in mean and deviation."""
    root = write_class_folders(tmp_path / "set", per_class=30, side=20)
    rng = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png")):
        noise = rng.normal(0, [30, 10, 2], (20, 20, 3))
        Image.fromarray((COLOURS + noise).clip(0, 255).astype(np.uint8)).save(path)
    return root


def test_it_is_that_of_all_pixels(coloured):
    data = open_data(Images(data="folder", data_dir=coloured))
    mean, std = measured(data)
    paths = data.source.images.paths
    chosen = [np.asarray(Image.open(paths[i])) for i in data.train.positions]
    pixels = np.stack([chosen[i] for i in data.pretrain_positions]).reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(std, pixels.std(0), atol=1e-4)


def test_a_colour_that_does_not_vary_is_divided_by_1(tmp_path):
    root = write_class_folders(tmp_path / "set", per_class=10, side=20)
    for path in root.rglob("*.png"):
        pixels = np.array(Image.open(path))
        pixels[..., 2] = 7
        Image.fromarray(pixels).save(path)
    mean, std = measured(open_data(Images(data="folder", data_dir=root)))
    assert (mean[2], std[2]) == (round(7 / 255, 4), 1.0)
    assert 0.05 < std[0] < 0.5


def test_a_run_says_it_keeps_it_and_goes_on_with_it(coloured, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*QUICK, "--data", "folder", "--data-dir", str(coloured), "--batch-size", "16"]
    flags += ["--out", str(run), "--normalize", "auto", "--probe-every", "0", "--go-on"]
    assert train.main(cli.parse([*flags, "--epochs", "1"])) == 0
    assert capsys.readouterr().out.count("normalised with the images' own mean (0.7") == 1
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["normalize"] == "given"
    np.testing.assert_allclose(kept["mean"], COLOURS / 255, atol=0.01)
    np.testing.assert_allclose(kept["std"], np.array([30, 10, 2]) / 255, atol=0.01)
    views = torch.load(run / "checkpoint.pt", weights_only=True)
    assert views["step"] == 3
    assert train.main(cli.parse([*flags, "--epochs", "2"])) == 0
    assert "normalised with" not in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["mean"] == kept["mean"]

"""`--gray-range auto`, and what is said of a range that does not suit the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from effssl import InputError, cli
from effssl.data.stored import open_split
from effssl.data.windows import SAMPLED, about, with_range
from effssl.image_config import Storage
from effssl.train import loop as train
from effssl.train.job import build_job
from tests.conftest import TINY


@pytest.fixture
def folder(tmp_path):
    """Images of even values from 1,000 to 3,000, of which one in 500 is 65,535."""
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for i in range(80):
        values = rng.integers(1000, 3001, (50, 40), dtype=np.uint16)
        values.flat[rng.choice(2000, 1, replace=False)] = 65_535
        Image.fromarray(values).save(tmp_path / "set" / f"{i:02d}.png")
    return tmp_path / "set"


def test_a_range_is_measured_without_the_tails(folder, capsys):
    storage = with_range(Storage("folder", folder, gray_range="auto"))
    low, high = storage.gray_range
    assert abs(low - 1002) < 4 and abs(high - 2998) < 4
    assert f"--gray-range auto: black is {low:g} and white {high:g}" in capsys.readouterr().out
    as_they_are = with_range(Storage("folder", folder, gray_range="auto", channels=1))
    assert as_they_are.gray_range == storage.gray_range and SAMPLED < 80
    _, beton = open_split(as_they_are, "train")
    assert beton.values.window == storage.gray_range


def test_nothing_is_looked_at_without_a_range(tmp_path):
    storage = Storage("folder", tmp_path / "nowhere")
    assert with_range(storage) is storage


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ((0, 2000), "beyond it"),
        ((0, 65_535), "the values use 3% of it"),
        ((1000, 3000), None),
        ((0, 4095), None),
    ],
)
def test_a_range_that_does_not_suit_is_said(folder, capsys, window, said):
    storage = Storage("folder", folder, gray_range=window)
    assert with_range(storage) == storage
    out = capsys.readouterr().out
    assert out == "" if said is None else (said in out and "--gray-range" in out)


def test_what_is_odd_about_a_range():
    values = np.arange(10_000.0)
    assert about(values, (0, 9899)) == "" and about(values, (0, 100 * 2**7)) == ""
    assert about(values, (0, 9800)) == "1.99% of the values lie beyond it"
    assert about(values, (0, 200_000)) == "the values use 5% of it"
    assert "99% of the values lie beyond" in about(values, (-1e9, 99))
    assert about(np.empty(0), (0, 1)) == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda i: np.zeros((9, 8), np.uint8) + i, "no gray image of more than 8 bits"),
        (lambda i: np.full((9, 8), 7000, np.uint16), "nearly all values are 7000; give two"),
    ],
)
def test_what_cannot_be_measured_is_told(tmp_path, make, said):
    for i in range(3):
        Image.fromarray(make(i)).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match=said):
        with_range(Storage("folder", tmp_path, gray_range="auto"))


def test_a_run_keeps_the_numbers_and_goes_on_with_them(folder, tmp_path):
    flags = ["--data", "folder", "--data-dir", str(folder), "--gray-range", "auto", "--epochs", "1"]
    flags += ["--backbone-kwargs", TINY, "--image-size", "8", "--views", "2", "--proj-dim", "16"]
    flags += ["--batch-size", "32", "--workers", "1", "--out", str(tmp_path / "run"), "--go-on"]
    assert train.main(cli.parse(flags)) == 0
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["gray_range"]
    assert kept == list(with_range(Storage("folder", folder, gray_range="auto")).gray_range)
    again = cli.parse([*flags, "--epochs", "2"])
    assert again.images.gray_range == tuple(kept)
    assert build_job(again).step == 0 and replace(again.images, gray_range="auto") != again.images


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["5", "1"], "must be two numbers, low < high"),
        (["x"], "must be a number"),
        (["1"], "has too few values"),
        (["1", "2", "3"], "has too many values"),
        (["auto", "1"], "must be a number"),
        (["0", "nan"], "must be finite"),
    ],
)
def test_other_ranges_are_one_line(given, said):
    with pytest.raises(InputError, match=rf"--gray-range .*: {said}"):
        cli.parse_storage(["--gray-range", *given])

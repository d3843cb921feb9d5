"""What is probed on, and what is refused before any of it is encoded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from effssl import InputError, cli
from effssl.data.beton import Beton
from effssl.data.stored import Data
from effssl.evaluate import run as evaluate
from effssl.evaluate.images import (
    ImageSet,
    about_classes,
    find_corruptions,
    probed_images,
)
from effssl.evaluate.run import _check_together
from effssl.evaluation import protocols
from effssl.evaluation.finished_run import FinishedRun
from effssl.image_config import Images
from tests.conftest import write_class_folders

SHORT = ["--num-averaged-views", "0", "--no-untrained"]


def settings(*flags):
    return cli.parse_evaluation(["run", *map(str, flags)])


def run_of(channels=None, projector=True) -> FinishedRun:
    flags = ["--data", "folder"] + (["--channels", str(channels)] if channels else [])
    known = nn.Sequential() if projector else None
    return FinishedRun(Path(f"run-{channels}"), cli.parse(flags), nn.Sequential(), known, None)


def labelled(train, test=None) -> Data:
    """A set of these labels, half of which are held out."""

    def beton(labels):
        labels = np.array(labels)
        places = np.arange(len(labels))
        return Beton(Path("x"), labels, ["a", "b", "c"], 8, "one", places, False)

    places = np.arange(len(train))
    of_test = None if test is None else beton(test)
    return Data(beton(train), of_test, places[::2], places[1::2], places)


def test_a_run_that_keeps_three_channels_is_judged_on_sets_that_have_no_others():
    kept = run_of(3).cfg.images
    assert probed_images(kept, settings("--data", "cifar10")).channels is None
    assert probed_images(kept, settings("--data", "list")).channels == 3
    assert probed_images(kept, settings()).channels == 3
    more = run_of(5).cfg.images  # these are refused where they are opened
    assert probed_images(more, settings("--data", "cifar10")).channels == 5


def test_damaged_images_and_columns_are_the_runs_or_what_is_given():
    of_run = Images(data="hf", skip_corrupt=True, image_column="a", label_column="b")
    assert probed_images(of_run, settings()) == of_run
    given = settings("--skip-corrupt", "--image-column", "c", "--label-column", "d")
    asked = {"skip_corrupt": True, "image_column": "c", "label_column": "d"}
    assert probed_images(of_run, given) == replace(of_run, **asked)
    other = probed_images(Images(), settings("--data", "hf"))
    assert (other.skip_corrupt, other.image_column, other.label_column) == (False, None, None)
    assert probed_images(Images(), given) == replace(Images(), **asked)


@pytest.mark.parametrize("channels", [1, 13])
def test_corrupted_images_are_for_backbones_of_rgb(tmp_path, channels):
    run, data = run_of(channels), labelled([0, 1, 0, 1])
    probed = ImageSet(run.cfg.images, run.cfg.augment, data, is_own=True)
    with pytest.raises(InputError, match=f"RGB, but the run's have {channels} channels"):
        find_corruptions(probed, settings("--robustness-dir", tmp_path))
    (tmp_path / "CIFAR-10-C").mkdir()
    there = probed._replace(images=Images(data="cifar10", data_dir=tmp_path))
    assert find_corruptions(there, settings()) == (
        None,
        "no column of corrupted images: they are RGB",
    )


def test_runs_of_other_channels_have_no_layers_to_compare():
    runs = [run_of(), run_of(3), run_of(13)]
    _check_together(runs, settings())
    _check_together(runs[:2], settings("--cka"))
    with pytest.raises(InputError, match="run-None has 3, run-3 has 3, run-13 has 13"):
        _check_together(runs, settings("--cka"))


def test_what_a_backbone_is_kept_near_by_needs_the_runs_projector():
    runs = [run_of(), run_of(3, projector=False)]
    asked = ["--fine-tune", "1", "--keep", "0.1"]
    with pytest.raises(InputError, match=r"run-3/checkpoint.pt is not there.*--keep-fisher none"):
        _check_together(runs, settings(*asked))
    for enough in (asked[:2], asked[2:], [*asked, "--keep-fisher", "none"]):
        _check_together(runs, settings(*enough))


def test_classes_that_test_lacks_are_said():
    everything = [0, 1, 2] * 4
    assert about_classes(labelled(everything, [0, 0, 1])) == "test lacks c"
    assert about_classes(labelled(everything, everything)) is None
    assert about_classes(labelled(everything)) is None
    assert about_classes(labelled(everything, [-1])) is None


def judge(*flags) -> int:
    return evaluate.main(cli.parse_evaluation([*map(str, flags)]))


@pytest.mark.slow
def test_a_set_with_a_rare_class_and_a_damaged_image_is_judged(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    write_class_folders(tmp_path / "images" / "train", classes=3, per_class=20)
    write_class_folders(tmp_path / "images" / "test", classes=2)
    (tmp_path / "images" / "test" / "class-0" / "0.png").write_bytes(b"no image")
    flags = [run, *SHORT, "--data", "folder", "--data-dir", tmp_path / "images"]
    assert judge(*flags) == 2
    assert "--skip-corrupt leaves them out" in capsys.readouterr().err
    assert judge(*flags, "--skip-corrupt") == 0
    assert "test lacks class-2" in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_labels_are_looked_at_before_anything_is_encoded(finished, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    flags = [run, *SHORT, "--beton-dir", tmp_path / "beton", "--fine-tune", 0.1]

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(protocols, "encode_splits", stopped)
    assert judge(*flags) == 130
    (labels,) = (tmp_path / "beton").glob("digits-train-labels-0.1-seed0-*.txt")
    labels.write_text("5000000\n")
    assert judge(*flags) == 2
    assert f"{labels} is of another set" in capsys.readouterr().err

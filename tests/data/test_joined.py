"""Images that lie in several places are one set."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from effssl import InputError, cli
from effssl.data.sources import names_of
from effssl.data.stored import find_split, open_data, open_split, reopen_data
from effssl.embed import embed_set
from effssl.evaluate import run as evaluate
from effssl.image_config import Images, Storage
from effssl.train import loop as train
from tests.conftest import QUICK, write_class_folders


@pytest.fixture
def places(tmp_path):
    """Two class folders with test, and one folder of loose images in two classes of its own."""
    first = write_class_folders(tmp_path / "first" / "train", classes=2).parent
    write_class_folders(first / "test", classes=2, per_class=2)
    second = write_class_folders(tmp_path / "second" / "train", classes=2).parent
    write_class_folders(second / "test", classes=2, per_class=3)
    for split in ("train", "test"):
        (second / split / "class-0").rename(second / split / "another")
    third = write_class_folders(tmp_path / "third", classes=1, per_class=4)
    return [first, second, third]


def joined(places, **more) -> Images:
    first, *others = places
    return Images("folder", first, more_dirs=tuple(others), workers=1, **more)


def test_images_of_all_places_are_there_with_classes_by_name(places):
    source = find_split(joined(places), "train")
    one_by_one = [find_split(Storage("folder", place), "train") for place in places]
    assert source.classes == ["another", "class-0", "class-1"]
    assert len(source.images) == 12 + 12 + 4
    every = [image for each in one_by_one for image in each.images]
    for ours, theirs in zip(source.images, every, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # another of the second place is a class before class-0 of the first; one class alone is none.
    expected = [*[1] * 6, *[2] * 6, *[0] * 6, *[2] * 6, *[-1] * 4]
    assert source.labels.tolist() == expected
    assert source.side == 12
    assert (
        "train: 28 images in 3 classes (another, class-0, class-1), 4 without a label in all"
        in (source.notes)
    )
    test = find_split(joined(places), "test")
    assert test.labels.tolist() == [1, 1, 2, 2, 0, 0, 0, 2, 2, 2]
    assert find_split(joined([places[2], places[0] / "train"]), "test") is None


def test_they_are_called_as_without_the_others_or_by_their_whole_paths(places, tmp_path):
    source = find_split(joined(places), "train")
    names = names_of(source, np.arange(len(source.images)), places[0], "train")
    assert names[0] == "train/class-0/0.png" and len({*names}) == len(names)
    assert names[12] == str(tmp_path / "second" / "train" / "another" / "0.png")
    assert names[-1] == str(tmp_path / "third" / "class-0" / "3.png")


def test_a_change_in_any_place_is_stored_anew_and_none_is_not(places):
    _, first = open_split(joined(places), "train")
    assert first.is_new and first.path.parent == places[0] / "beton"
    _, again = open_split(joined(places), "train")
    assert not again.is_new and again.identity == first.identity
    Image.new("RGB", (12, 12)).save(places[2] / "class-0" / "more.png")
    _, other = open_split(joined(places), "train")
    assert other.is_new and other.identity != first.identity
    _, swapped = open_split(joined(places[::-1]), "train")
    assert swapped.identity != other.identity


def test_archives_lists_and_folders_of_squares_of_other_sizes(places, tmp_path):
    archive = tmp_path / "set.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", places[1])
    within = joined([places[0], archive])
    source = find_split(within, "train")
    assert source.classes == ["another", "class-0", "class-1"] and len(source.images) == 24
    name = names_of(source, np.array([12]), places[0], "train")[0]
    assert name == str(archive / "train" / "another" / "0.png")
    larger = write_class_folders(tmp_path / "larger", side=20)
    assert find_split(joined([places[0], larger]), "train").side is None
    for i in (1, 2):
        table = pd.DataFrame({"path": [f"larger/class-{i - 1}/{n}.png" for n in range(6)]})
        table["label"] = [str(n % 2 + 9 * (i - 1)) for n in range(6)]
        table.to_csv(tmp_path / f"{i}.csv", index=False)
    lists = Storage("list", tmp_path / "1.csv", more_dirs=(tmp_path / "2.csv",))
    source = find_split(lists, "train")
    assert source.classes == ["0", "1", "9", "10"]  # as numbers
    names = names_of(source, np.array([0, 6]), tmp_path, "train")
    assert names == ["larger/class-0/0.png", str(tmp_path / "larger" / "class-1" / "0.png")]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["first"], "lies within"),
        (["second", "second/train"], "lies within"),
        (["first/train"], "lies within"),
        (["link"], "lies within"),
        (["nowhere"], "no such folder"),
        (["empty"], "no images in"),
    ],
)
def test_places_that_overlap_or_have_nothing_are_one_line(places, tmp_path, more, why):
    (tmp_path / "link").symlink_to(places[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=why) as told:
        find_split(joined([places[0], *(tmp_path / name for name in more)]), "train")
    assert "\n" not in str(told.value)


def test_sets_of_torchvision_are_in_one_place(places):
    storage = Storage("cifar10", places[0], more_dirs=(places[1],))
    with pytest.raises(InputError, match="--more-dirs is for --data folder, list, hf, not cifar10"):
        find_split(storage, "train")


def test_a_run_trains_on_all_goes_on_elsewhere_and_is_evaluated(places, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*QUICK, "--data", "folder", "--data-dir", str(places[0]), "--batch-size", "8"]
    more = ["--more-dirs", *map(str, places[1:])]
    assert train.main(cli.parse([*flags, *more, "--epochs", "2", "--out", str(run)])) == 0
    cfg = cli.load(run / "config.yaml")
    assert cfg.images.more_dirs == tuple(places[1:])
    assert "28 images in 3 classes" in capsys.readouterr().out
    assert reopen_data(cfg.images).train.classes == ["another", "class-0", "class-1"]
    judge = [str(run), "--num-averaged-views", "0", "--no-untrained"]
    tuned = ["--fine-tune", "1", "--fine-tune-epochs", "1", "--device", "cpu"]
    assert evaluate.main(cli.parse_evaluation([*judge, *tuned])) == 0
    moved = tmp_path / "moved"
    places[1].rename(moved)
    with pytest.raises(InputError, match=f"the run's images .folder. are not in {places[1]}"):
        reopen_data(cfg.images)
    there = ["--more-dirs", str(moved), str(places[2])]
    assert train.main(cli.parse(["--resume", str(run), "--epochs", "3", *there])) == 0
    assert json.loads((run / "result.json").read_text())["steps"] == 9
    assert evaluate.main(cli.parse_evaluation([*judge, *there])) == 2
    assert "--more-dirs is for the set in --data-dir, which is not given" in capsys.readouterr().err
    there += ["--data-dir", str(places[0]), "--device", "cpu"]
    assert evaluate.main(cli.parse_evaluation([*judge, *there])) == 0


def test_their_representations_are_named(places, tmp_path):
    run = tmp_path / "run"
    flags = [*QUICK, "--data", "folder", "--data-dir", str(places[0]), "--batch-size", "8"]
    assert train.main(cli.parse([*flags, "--epochs", "1", "--out", str(run)])) == 0
    embedded = embed_set(run, joined(places), device="cpu")
    assert len(embedded.names) == len({*embedded.names}) == 28
    assert embedded.names[-1] == str(tmp_path / "third" / "class-0" / "3.png")
    assert len(open_data(joined(places)).train.labels) == 28

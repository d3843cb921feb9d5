"""Runs on a user's own images, which all have one name."""

import argparse
import json
from pathlib import Path

import pytest

from analysis.harness import own_images, records, training
from effssl import InputError, cli
from effssl.config import flat
from tests.conftest import write_class_folders


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """Two folders of images."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    return write_class_folders(ours), write_class_folders(theirs, side=13)


def flags_of(place: Path) -> list[str]:
    return ["--data", "folder", "--image-size", "12", "--data-dir", str(place)]


def noted_of(place: Path) -> dict[str, str | None]:
    """Return what a result says of images; nothing, as before it was noted, if they are gone."""
    images = own_images.identity(cli.parse(flags_of(place)).images)
    return {"images": images} if images else {}


def write_run(runs: Path, place: Path, result: dict | None) -> None:
    (runs / "one").mkdir(parents=True)
    (runs / "one" / "config.yaml").write_text(cli.dump(cli.parse(flags_of(place))))
    if result is not None:
        (runs / "one" / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_folder_with_a_run_of_other_images_is_refused(is_noted, places, tmp_path):
    write_run(tmp_path / "runs", places[0], noted_of(places[0]) if is_noted else {})
    asked = [{"one": flags_of(place)} for place in places]
    assert training.complete(asked[0], tmp_path / "runs", seconds=0) == ["one"]
    with pytest.raises(InputError, match="one holds a run of other images; move it away"):
        training.complete(asked[1], tmp_path / "runs", seconds=0)


def test_a_set_that_moved_is_the_same_and_one_that_grew_is_another(places, tmp_path):
    ours, theirs = places
    write_run(tmp_path / "runs", ours, noted_of(ours))
    moved = ours.rename(tmp_path / "moved")
    asked = {"one": flags_of(moved)}
    assert training.complete(asked, tmp_path / "runs", seconds=0) == ["one"]
    (theirs / "class-0" / "0.png").rename(moved / "class-0" / "more.png")
    with pytest.raises(InputError, match="of other images"):
        training.complete(asked, tmp_path / "runs", seconds=0)


def test_a_run_that_is_not_finished_goes_on_with_images_of_its_own_place(places, tmp_path):
    write_run(tmp_path / "runs", places[0], None)
    assert training.complete({"one": flags_of(places[0])}, tmp_path / "runs", seconds=0) == []
    with pytest.raises(InputError, match="of other images"):
        training.complete({"one": flags_of(places[1])}, tmp_path / "runs", seconds=0)


def test_a_record_is_of_the_images_that_it_notes(places, tmp_path):
    ours, theirs = places
    config = flat(cli.parse(flags_of(ours)))

    def found(place: Path, result: dict) -> list[str]:
        known = {"one": {"name": "one", "config": config, "result": result}}
        return training.complete({"one": flags_of(place)}, tmp_path, records=known, seconds=0)

    assert found(ours, noted_of(ours)) == ["one"]
    assert found(theirs, noted_of(ours)) == []
    assert found(theirs, {}) == ["one"]  # nothing tells, and the user names the file
    assert found(tmp_path / "none", noted_of(ours)) == ["one"]


def test_records_of_own_sets_are_only_those_of_a_file_that_is_named(tmp_path):
    file = tmp_path / "set.jsonl"
    made = {name: {"name": name, "config": {"data": name}} for name in ("folder", "cifar10")}
    records.save(file, made.values())
    args = argparse.Namespace(records=None, save_records=False)
    assert set(records.known(args, file)) == {"cifar10"}
    args.records = file
    assert records.known(args, file) == made

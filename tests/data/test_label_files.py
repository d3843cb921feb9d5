"""Parts of the labels in text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effssl import InputError
from effssl.data.beton import Beton
from effssl.data.label_files import label_fraction


def labels_of(identity: str = "one") -> Beton:
    """90 images of three classes, the last 30 unlabelled; every third is not trained on."""
    labels = np.concatenate([np.repeat([0, 1, 2], 30), np.full(30, -1)])
    return Beton(Path("x"), labels, ["a", "b", "c"], 8, identity, np.arange(120), False)


TRAIN = np.array([i for i in range(120) if i % 3])  # 20 of every class


def drawn(folder, fraction=0.25, seed=0, *, beton=None, positions=TRAIN):
    return label_fraction(
        folder, "mine", beton or labels_of(), positions, fraction=fraction, seed=seed
    )


def test_a_part_of_the_labels_is_balanced_seeded_and_of_the_training_images(tmp_path):
    positions = drawn(tmp_path)
    assert np.bincount(labels_of().labels[positions]).tolist() == [5, 5, 5]
    assert np.isin(positions, TRAIN).all() and (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(drawn(tmp_path / "elsewhere"), positions)
    assert not np.array_equal(drawn(tmp_path, seed=1), positions)
    np.testing.assert_array_equal(drawn(tmp_path, 1.0), TRAIN[TRAIN < 90])
    assert len(drawn(tmp_path, 0.01)) == 3  # one of every class at least


def test_the_file_says_what_it_is_and_is_used_again_byte_for_byte(tmp_path):
    positions = drawn(tmp_path)
    (file,) = tmp_path.glob("*.txt")
    assert file.name.startswith("mine-labels-0.25-seed0-")
    content = file.read_bytes()
    lines = content.decode().splitlines()
    assert lines[:4] == ["# set: mine", "# identity: one", "# fraction: 0.25", "# seed: 0"]
    assert lines[4].startswith("# split: ")
    assert lines[5:] == [str(p) for p in positions]
    stamp = file.stat().st_mtime_ns
    np.testing.assert_array_equal(drawn(tmp_path), positions)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (content, stamp)
    others = [p for p in TRAIN if p not in positions and p < 90][
        :4
    ]  # what is in the file counts, not the draw
    file.write_text("\n".join([*lines[:5], *map(str, reversed(others))]) + "\n")
    np.testing.assert_array_equal(drawn(tmp_path), others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: [*lines, "3"],
            "position 3 is no labelled training image",
        ),  # it is a validation image
        (lambda lines: [*lines, "100"], "position 100 is no labelled training image"),
        (lambda lines: [*lines, "5000"], "position 5000 is no labelled training image"),
        (lambda lines: lines + lines[-1:], "repeats some"),
        (lambda lines: lines[:5], "it is empty"),
        (lambda lines: lines[:4] + lines[5:], "of another split: None"),
        (lambda lines: [*lines, "five"], "one position a line"),
        (lambda lines: ["# set: other", *lines[1:]], "of another set: other, not mine"),
        (lambda lines: lines[:2] + lines[3:], "of another fraction: None, not 0.25"),
        (lambda lines: [*lines[:3], "# seed: 9", *lines[4:]], "of another seed: 9, not 0"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_stays(change, message, tmp_path):
    drawn(tmp_path)
    (file,) = tmp_path.glob("*.txt")
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    content = file.read_bytes()
    with pytest.raises(InputError, match=message):
        drawn(tmp_path)
    assert file.read_bytes() == content


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be read or written.*; --beton-dir"):
        drawn(tmp_path / "file")


def test_sets_and_splits_in_one_folder_have_files_of_their_own(tmp_path):
    """A part of half of the images would pass for one of all."""
    half = TRAIN[::2]
    of_half, of_all = drawn(tmp_path, positions=half), drawn(tmp_path)
    assert (len(of_half), len(of_all)) == (6, 15)
    drawn(tmp_path, beton=labels_of("two"))
    np.testing.assert_array_equal(drawn(tmp_path, positions=half), of_half)
    assert len([*tmp_path.glob("*.txt")]) == 3


def test_a_class_with_one_label_has_it_in_every_part(tmp_path):
    beton = labels_of()
    positions = TRAIN[(TRAIN < 60) | (TRAIN == 61)]  # class c once
    chosen = drawn(tmp_path, 0.1, beton=beton, positions=positions)
    assert np.bincount(beton.labels[chosen]).tolist() == [2, 2, 1]

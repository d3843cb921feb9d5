"""Parts of the labels in text files, and augmented views with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effssl import InputError
from effssl.data.beton import Beton, ensure_beton
from effssl.data.sources import open_source
from effssl.data.splits import epoch_order
from effssl.evaluation.labelled_views import NO_COLOURS, even_batch_size, label_fraction, labelled_views
from effssl.views import draws as sampling
from effssl.views import ops as augment
from tests.conftest import STORE, write_class_folders

CPU = torch.device("cpu")
STRENGTHS = {
    "crop_scale": (0.5, 1.0), "crop_ratio": (0.75, 4 / 3), "hflip_prob": 0.5, "jitter_prob": 0.8, "brightness": 0.4,
    "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "gray_prob": 0.2, "blur_prob": 0.5, "blur_sigma": (0.1, 2.0),
    "solarize_prob": 0.1,
}  # fmt: skip
WHOLE = STRENGTHS | NO_COLOURS | {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "hflip_prob": 0.0}
NEUTRAL = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "workers": 2, "device": CPU}


def labels_of(identity: str = "one") -> Beton:
    """90 images of three classes, the last 30 unlabelled; every third is not trained on."""
    labels = np.concatenate([np.repeat([0, 1, 2], 30), np.full(30, -1)])
    return Beton(Path("x"), labels, ["a", "b", "c"], 8, identity, np.arange(120), False)


TRAIN = np.array([i for i in range(120) if i % 3])  # 20 of every class


def drawn(folder, fraction=0.25, seed=0, *, beton=None, positions=TRAIN):
    return label_fraction(folder, "mine", beton or labels_of(), positions, fraction=fraction, seed=seed)


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
    (file,) = tmp_path.iterdir()
    assert file.name == "mine-labels-0.25-seed0.txt"
    content = file.read_bytes()
    lines = content.decode().splitlines()
    assert lines[:4] == ["# set: mine", "# identity: one", "# fraction: 0.25", "# seed: 0"]
    assert lines[4:] == [str(p) for p in positions]
    stamp = file.stat().st_mtime_ns
    np.testing.assert_array_equal(drawn(tmp_path), positions)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (content, stamp)
    others = [p for p in TRAIN if p not in positions and p < 90][:4]  # what is in the file counts, not the draw
    file.write_text("\n".join([*lines[:4], *map(str, reversed(others))]) + "\n")
    np.testing.assert_array_equal(drawn(tmp_path), others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, "3"], "position 3 is no labelled training image"),  # it is a validation image
        (lambda lines: [*lines, "100"], "position 100 is no labelled training image"),
        (lambda lines: [*lines, "5000"], "position 5000 is no labelled training image"),
        (lambda lines: lines + lines[-1:], "repeats some"),
        (lambda lines: lines[:4], "it is empty"),
        (lambda lines: [*lines, "five"], "one position a line"),
        (lambda lines: ["# set: other", *lines[1:]], "of another set: other, not mine"),
        (lambda lines: lines[:2] + lines[3:], "of another fraction: None, not 0.25"),
        (lambda lines: [*lines[:3], "# seed: 9", *lines[4:]], "of another seed: 9, not 0"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_stays(change, message, tmp_path):
    drawn(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    content = file.read_bytes()
    with pytest.raises(InputError, match=message):
        drawn(tmp_path)
    assert file.read_bytes() == content


def test_the_file_of_another_set_or_an_unwritable_folder_is_refused(tmp_path):
    drawn(tmp_path)
    with pytest.raises(InputError, match="of another identity: one, not two"):
        drawn(tmp_path, beton=labels_of("two"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be read or written"):
        drawn(tmp_path / "file")


@pytest.mark.parametrize(("count", "at_most", "size"), [(450, 256, 225), (451, 256, 225), (10, 3, 2), (9, 64, 9)])
def test_even_batches_leave_out_fewer_images_than_there_are_batches(count, at_most, size):
    assert even_batch_size(count, at_most) == size
    assert count - count // size * size < -(-count // at_most)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """24 images of 12 px, and the same in various sizes, of two classes told apart by their shade."""
    stored = []
    for name in ("same", "varied"):
        root = tmp_path_factory.mktemp(name)
        write_class_folders(root / "train", per_class=12)
        if name == "varied":
            for i, path in enumerate(sorted(root.rglob("*.png"))):
                Image.open(path).resize((20 + i % 5, 24)).save(path)
        stored.append(ensure_beton(open_source("folder", root, "train"), root / "beton", name, **STORE))
    return stored


def test_views_are_those_of_pretraining_with_the_labels_of_their_images(squares):
    beton, positions = squares[0], np.arange(1, 24)
    made = labelled_views(beton, positions, batch_size=5, views=1, size=12, strengths=WHOLE, seed=3, **NEUTRAL)
    assert made.steps_per_epoch == 4
    source = open_source("folder", beton.path.parents[1], "train")
    for epoch in range(2):
        order = epoch_order(positions, 3, epoch)[:20]
        for i, (x, y) in enumerate(made.epoch(epoch)):
            at = order[5 * i : 5 * i + 5]
            assert x.shape == (1, 5, 3, 12, 12)
            pixels = torch.from_numpy(np.stack([source.images[p] for p in at])).permute(0, 3, 1, 2) / 255
            torch.testing.assert_close(x[0], pixels, rtol=0, atol=1e-5)
            assert y.tolist() == beton.labels[at].tolist()
    strong = labelled_views(beton, positions, batch_size=5, views=3, size=8, strengths=STRENGTHS, seed=3, **NEUTRAL)
    x, _ = next(strong.epoch(1))
    first = torch.from_numpy(epoch_order(positions, 3, 1)[:5])
    images = torch.from_numpy(np.stack([source.images[p] for p in first]))
    draws = sampling.draw(first, stored=(12, 12), views=3, seed=3, epoch=1, **STRENGTHS)
    expected = augment.make_views(images, draws, size=8, mean=NEUTRAL["mean"], std=NEUTRAL["std"])
    torch.testing.assert_close(x, expected)


def test_views_of_images_of_varied_size_have_the_labels_of_their_images_too(squares):
    made = labelled_views(squares[1], np.arange(24), batch_size=6, views=2, size=8, strengths=WHOLE, seed=0, **NEUTRAL)
    passes = [list(made.epoch(epoch)) for epoch in (0, 0, 1)]
    for batches in passes:
        x, y = torch.cat([x for x, _ in batches], 1), torch.cat([y for _, y in batches])
        assert x.shape == (2, 24, 3, 8, 8)
        shade = x.mean((0, 2, 3, 4))  # 64 and 124 of 255 on average
        assert y.tolist() == (shade > 94 / 255).long().tolist()
        assert y.sum() == 12
    assert all(torch.equal(a, b) for one, two in zip(*passes[:2], strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(passes[0][0][0], passes[2][0][0])


def test_images_without_a_label_are_left_out(squares):
    labels = squares[0].labels.copy()
    labels[::3] = -1
    made = labelled_views(
        squares[0]._replace(labels=labels),
        np.arange(24),
        batch_size=4,
        views=1,
        size=8,
        strengths=WHOLE,
        seed=0,
        **NEUTRAL,
    )
    assert made.steps_per_epoch == 4
    assert sorted(torch.cat([y for _, y in made.epoch(0)]).tolist()) == sorted(labels[labels >= 0].tolist())


def test_a_batch_larger_than_the_set_is_refused(squares):
    with pytest.raises(InputError, match="a batch of 7 is larger than the set: 6 labelled images"):
        labelled_views(squares[0], np.arange(6), batch_size=7, views=1, size=8, strengths=WHOLE, seed=0, **NEUTRAL)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effssl.data.beton import Beton
from effssl.data.stored import Data
from effssl.evaluation.final_table import final_rows, format_table, validation_probe

PROJECTOR = torch.nn.Linear(8, 6, bias=False)
NAMES = ("effective_rank", "alpha", "off_diagonal", "variance_share", "std")
MEASURES = {f"{x}/{name}" for x in "hz" for name in NAMES}


def stored(name: str, count: int, classes: int = 3, unlabelled: int = 0) -> Beton:
    labels = np.concatenate([np.arange(count) % classes, np.full(unlabelled, -1)]).astype(np.int64)
    return Beton(
        Path(name), labels, [str(c) for c in range(classes)], 8, name, np.arange(len(labels)), False
    )


def make_data(*, test: bool = True, unlabelled: int = 0) -> Data:
    train = stored("train", 150, unlabelled=unlabelled)
    positions = np.arange(120)
    test_split = stored("test", 60) if test else None
    return Data(train, test_split, positions, np.arange(120, 150), positions)


def separable(noise: float, calls: list | None = None):
    """Features of `make_data` that show the class, more or less; every call is noted."""

    def features(split: str, positions: np.ndarray) -> torch.Tensor:
        beton = make_data(unlabelled=100).stored(split)
        if calls is not None:
            calls.append((split, len(positions)))
        generator = torch.Generator().manual_seed(len(positions))
        shown = torch.nn.functional.one_hot(
            torch.from_numpy(beton.labels[positions]).clamp(min=0), 3
        ).float()
        return torch.cat([shown, torch.zeros(len(positions), 5)], 1) + noise * torch.randn(
            len(positions), 8, generator=generator
        )

    return features


def test_the_test_split_is_read_once_and_last():
    calls: list = []
    final = final_rows(
        {"trained": separable(0.1, calls)}, make_data(), max_images=1000, few_labels=5, seed=0
    )
    assert calls == [("train", 120), ("train", 30), ("test", 60)]
    assert final["split"] == "test"
    row = final["rows"]["trained"]
    assert row["linear"] == row["knn"] == 1.0
    assert row["few_labels"] > 0.9


def test_better_features_score_better_and_noise_scores_by_chance():
    final = final_rows(
        {"good": separable(0.5), "noise": separable(50.0)},
        make_data(),
        max_images=1000,
        few_labels=5,
        seed=0,
    )
    good, noise = final["rows"]["good"], final["rows"]["noise"]
    assert good["linear"] > 0.85
    assert noise["linear"] < 0.6
    assert good["few_labels"] > noise["few_labels"]


def test_without_a_test_split_validation_is_reported_and_named():
    calls: list = []
    final = final_rows(
        {"trained": separable(0.1, calls)},
        make_data(test=False),
        max_images=60,
        few_labels=5,
        seed=0,
    )
    assert final["split"] == "validation"
    assert calls == [("train", 60), ("train", 30)]
    assert "validation split" in format_table(final)


def test_random_views_are_measured_beside():
    data = make_data()
    generator = torch.Generator().manual_seed(0)

    def of_views(split, positions):
        assert split == "train" and set(positions) <= set(data.val_positions)
        return torch.randn(len(positions), 4, 8, generator=generator)

    probed = validation_probe(separable(0.1), data, 1000, PROJECTOR, of_views)
    further = probed.keys() - MEASURES - {"linear", "knn"}
    assert further == {f"{x}/{m}" for x in "hz" for m in ("lidar", "alignment", "uniformity")}
    assert 1.5 < probed["h/alignment"] < 2.5  # views differ as images do


def test_unlabelled_test_images_are_left_out_and_counted():
    data = make_data()
    one = stored("test", 60, unlabelled=1)
    calls: list = []
    rows = {"trained": separable(0.1, calls)}
    final = final_rows(rows, data._replace(test=one), max_images=1000, few_labels=5, seed=0)
    assert (final["split"], calls[-1]) == ("test", ("test", 60))
    assert "test split (%) (without 1 of its 61 images, which have no label)" in format_table(final)
    none = stored("test", 0, unlabelled=7)
    final = final_rows(rows, data._replace(test=none), max_images=1000, few_labels=5, seed=0)
    assert final["split"] == "validation"
    assert "validation split (%) (not test: none of its 7 images has" in format_table(final)


def test_unlabelled_images_are_trained_on_and_not_probed():
    data = make_data(unlabelled=50)
    data = data._replace(
        train_positions=np.concatenate([data.train_positions, np.arange(150, 200)])
    )
    calls: list = []
    probed = validation_probe(separable(0.1, calls), data, 1000, PROJECTOR)
    assert probed["linear"] == probed["knn"] == 1.0
    assert calls == [("train", 120), ("train", 30)]


def test_without_any_label_there_are_the_measures_alone():
    train = Beton(Path("train"), np.full(100, -1), [], 8, "train", np.arange(100), False)
    data = Data(train, None, np.arange(80), np.arange(80, 100), np.arange(80))
    calls: list = []
    assert validation_probe(separable(1.0, calls), data, 1000, PROJECTOR).keys() == MEASURES
    assert calls == [("train", 20)]  # of the images that are held out
    one = data._replace(val_positions=np.arange(1))
    assert validation_probe(separable(1.0), one, 1000, PROJECTOR) == {}
    calls.clear()
    none = data._replace(val_positions=np.arange(0))  # of classes of one image nothing is held out
    assert validation_probe(separable(1.0, calls), none, 1000, PROJECTOR) == {} and calls == []
    final = final_rows({"trained": separable(1.0)}, data, max_images=1000, few_labels=5, seed=0)
    assert final["rows"] == {}
    assert "no labels" in format_table(final)


@pytest.mark.parametrize("has_labels", [True, False])
def test_representations_that_are_not_finite_are_a_diverged_training(has_labels):
    data = make_data()
    if not has_labels:
        data = data._replace(train=data.train._replace(labels=np.full(150, -1)))

    def features(split, positions):
        return torch.full((len(positions), 8), torch.nan)

    with pytest.raises(FloatingPointError, match="the training has diverged"):
        validation_probe(features, data, 1000, PROJECTOR)


def test_h_and_z_are_measured_apart():
    doubled = torch.nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        doubled.weight.copy_(torch.eye(8)[[0, 0, 1, 1]])  # z: two dimensions, each twice
    probed = validation_probe(separable(1.0), make_data(), 1000, doubled)
    assert probed.keys() == {"linear", "knn"} | MEASURES - {
        "z/alpha"
    }  # two dimensions have no rank 4 to fit from
    assert probed["z/effective_rank"] <= 2
    assert probed["z/off_diagonal"] > 0.25
    assert probed["h/effective_rank"] > 6
    assert abs(probed["h/off_diagonal"]) < 0.05


def test_without_rows_nothing_is_read():
    final = final_rows({}, make_data(), max_images=0, few_labels=5, seed=0)
    assert final == {"split": None, "rows": {}}


@pytest.mark.parametrize("max_images", [30, 60])
def test_probes_on_the_way_use_a_class_balanced_part(max_images):
    calls: list = []
    validation_probe(separable(0.1, calls), make_data(), max_images, PROJECTOR)
    assert calls[0] == ("train", max_images)


def test_penalties_of_few_labels_are_chosen_within_these_labels():
    """Other validation labels change what is chosen on them, and not what is within the few."""
    data, rows = make_data(), {"trained": separable(1.0)}
    how = {"max_images": 1000, "few_labels": 5, "seed": 0}
    row = final_rows(rows, data, **how)["rows"]["trained"]
    labels = data.train.labels.copy()
    labels[data.val_positions] = (labels[data.val_positions] + 1) % 3
    shuffled = data._replace(train=data.train._replace(labels=labels))
    other = final_rows(rows, shuffled, **how)["rows"]["trained"]
    assert other["few_labels"] == row["few_labels"] > 0.5
    assert other["few_labels_by_validation"] != row["few_labels_by_validation"]


def test_one_label_a_class_is_enough():
    row = final_rows(
        {"trained": separable(0.1)}, make_data(), max_images=1000, few_labels=1, seed=0
    )["rows"]["trained"]
    assert row["few_labels"] > 0.5 and row["few_labels_at_end"] == 0

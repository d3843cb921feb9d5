from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import shortcut
from analysis.harness import planted_patches
from effssl import InputError
from effssl.evaluation.finetune import Near


def test_patches_lie_in_the_corner_and_have_the_colour_asked_for():
    x = torch.zeros(1, 2, 3, 10, 10)
    colours = torch.arange(6.0).reshape(2, 3, 1, 1) + 1
    patched = planted_patches.with_patches(x, torch.tensor([1, 0]), colours)
    assert torch.equal(patched[0, 0, :, 0, 0], torch.tensor([4.0, 5.0, 6.0]))
    assert torch.equal(patched[0, 1, :, 1, 1], torch.tensor([1.0, 2.0, 3.0]))
    assert patched[..., 2:, :].abs().sum() == patched[..., 2:].abs().sum() == 0
    assert x.abs().sum() == 0


def test_colours_agree_with_the_class_as_often_as_said():
    y = torch.arange(20_000) % 10
    which = planted_patches.drawn(y, 10, torch.Generator().manual_seed(0))
    assert (which == y).double().mean() == pytest.approx(planted_patches.AGREES, abs=0.01)
    assert set(which[which != y].tolist()) == set(range(10))


def test_every_method_has_its_recipes():
    fisher = [torch.ones(1)]
    of = {m: list(shortcut.recipes_of(m, 450, 20, fisher)) for m in shortcut.METHODS}
    counts = {"plain": 3, "l2-sp": 12, "fisher": 12, "head": 3, "statistics": 3}
    assert {method: len(set(map(str, recipes))) for method, recipes in of.items()} == counts
    assert all(recipe.near is None for recipe in of["plain"])
    assert all(isinstance(r.near, Near) and r.near.fisher is None for r in of["l2-sp"])
    assert all(r.near.fisher is fisher for r in of["fisher"])
    assert all(r.backbone_lr == 0 < r.head_lr for r in of["head"])
    assert len({recipe.steps for recipes in of.values() for recipe in recipes}) == 1


def test_validation_chooses_by_accuracy_or_by_the_worst_group():
    shortcuts, honest = np.array([[1.0, 1.0], [0.1, 0.2]]), np.array([[0.7, 0.7], [0.6, 0.6]])
    by = shortcut.chosen_by
    assert by("accuracy", shortcuts) > by("accuracy", honest) == pytest.approx(0.695)
    assert by("worst group", shortcuts) == 0.1 < by("worst group", honest) == 0.6


def test_the_summary_pairs_methods_by_seed():
    rows = pd.DataFrame(
        [
            {"method": m, "chosen by": c, "seed": s, "worst": 0.1 * s + 0.01 * i + 0.001 * s * i}
            | {"mean": 0.5, "own colour": 0.6, "other colour": 0.4}
            for i, m in enumerate(shortcut.METHODS)
            for c in shortcut.CHOICES
            for s in range(3)
        ]
    )
    text = shortcut.summary(rows)
    says = "| worst group of {} better than that of plain, chosen by {} | {} | {} | 3 | {} | {} |"
    assert says.format("l2-sp", "accuracy", "+1.1", "+0.9 to +1.3", "0.016", "yes") in text
    assert says.format("fisher", "worst group", "+2.2", "+1.7 to +2.7", "0.016", "yes") in text


@pytest.mark.slow
def test_a_network_that_learns_the_patch_is_caught_by_the_worst_group(
    finished, digits_dir, tmp_path
):
    """End to end on digits, with one rate and one weight."""
    args = Namespace(run=finished, data_dir=digits_dir, out=tmp_path / "out", seeds=1, fraction=0.1)
    args.epochs, args.images, args.command = 10, 200, "shortcut.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortcut, "RATES", ((0.4, 0.4),))
        patch.setattr(shortcut, "WEIGHTS", (0.1,))
        shortcut._study(args)
    rows = pd.read_csv(tmp_path / "out" / "runs.csv").set_index(["method", "chosen by"])
    plain = rows.loc[("plain", "accuracy")]
    assert plain["own colour"] > plain["other colour"] + 0.1
    assert plain["worst"] < plain["mean"]
    assert "fisher better than that of l2-sp" in (tmp_path / "out" / "summary.md").read_text()


def test_recipes_that_diverge_are_left_out_and_counted(monkeypatch):
    def fit(method, recipe, *_, adapts):
        if recipe.near is not None and recipe.near.weight > 0.5:
            raise FloatingPointError("the loss is nan")
        val = np.full((2, 2), 0.5)
        return planted_patches.Fitted(method, recipe, torch.nn.Identity(), val)

    monkeypatch.setattr(shortcut, "fit", fit)
    monkeypatch.setattr(shortcut, "accuracies", lambda *_: np.full((2, 2), 0.4))
    labels = np.arange(200) % 2
    data = Namespace(train=Namespace(labels=labels), train_positions=np.arange(200))
    trial = Namespace(data=data, seed=0, test=np.arange(4))
    args = Namespace(fraction=0.5, epochs=1)
    rows = shortcut.rows_of(Namespace(backbone=None), trial, [torch.ones(1)], args)
    counted = {row["method"]: row["diverged"] for row in rows}
    assert counted == {"plain": 0, "l2-sp": 3, "fisher": 3, "head": 0, "statistics": 0}
    monkeypatch.setattr(shortcut, "WEIGHTS", (1.0,))
    with pytest.raises(InputError, match="l2-sp: the loss is not finite by any recipe"):
        list(shortcut.rows_of(Namespace(backbone=None), trial, [torch.ones(1)], args))

"""Classifiers trained on a backbone, with tiny encoders on digits."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from effssl import InputError, cli
from effssl.evaluation import classifiers, finetune, semi_supervised
from effssl.evaluation.finetune import (
    RATES,
    Near,
    Recipe,
    accuracy,
    best_classifier,
    fine_tune,
)
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.labelled_views import labelled_views
from effssl.evaluation.layers import layer_features
from effssl.evaluation.semi_supervised import _cross_validated, labels_to_tune_on
from effssl.evaluation.ssl_fisher import ssl_fisher
from effssl.models import Projector, create_backbone
from effssl.run import signals
from effssl.run.device import Runtime
from effssl.train import loop as train
from tests.conftest import QUICK, dots_for_pictures
from tests.evaluation.conftest import CPU

SEEDED = {"seed": 0, "runtime": CPU}
TINY = "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}"


def tiny(seed: int = 0, kwargs: str = TINY) -> nn.Module:
    torch.manual_seed(seed)
    return create_backbone("resnet18", 8, kwargs=kwargs)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.fixture(scope="module")
def crops(digits):
    data, stream, _ = digits
    return labelled_views(stream, data.train_positions, seed=0)


def noise(steps: int, views: int = 1, batch: int = 6, seed: int = 0):
    """Epochs of noise in two classes of different brightness."""

    def epoch(number):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        for _ in range(steps):
            y = torch.randint(0, 2, (batch,), generator=generator)
            yield (
                torch.randn(views, batch, 3, 8, 8, generator=generator) + y[:, None, None, None],
                y,
            )

    return epoch


def val_noise(count: int = 40):
    x, y = next(iter(noise(1, batch=count, seed=9)(0)))
    return lambda: x[0].split(16), y


@pytest.mark.slow
def test_all_labels_beat_the_linear_probe_of_an_untrained_backbone(digits, crops):
    data, _, clean = digits
    backbone, labels = tiny(), torch.from_numpy(data.train.labels)
    train_h, val_h = (
        layer_features(backbone, clean(p), CPU)["layer4"]
        for p in (data.train_positions, data.val_positions)
    )
    scale = StandardScaler().fit(train_h)
    probe = LogisticRegression(max_iter=2000).fit(
        scale.transform(train_h), labels[data.train_positions]
    )
    untrained = probe.score(scale.transform(val_h), labels[data.val_positions])
    before = copy.deepcopy(backbone)
    recipes = [Recipe(lr, lr, 8 * crops.steps_per_epoch) for lr in (0.01, 0.3)]
    val = clean(data.val_positions)
    best = best_classifier(
        backbone, 10, crops.epoch, lambda: val, labels[data.val_positions], recipes, **SEEDED
    )
    assert best.val_accuracy > untrained + 0.3, (best.val_accuracy, untrained)
    assert best.val_accuracy > 0.9
    assert best.val_accuracy == max(reached for _, reached in best.tried)
    assert [recipe for recipe, _ in best.tried] == recipes
    assert accuracy(best.model, val, labels[data.val_positions], CPU) == best.val_accuracy
    assert same(backbone, before)
    assert not best.model.training


def test_the_choice_follows_the_validation_labels_alone():
    views, labels = val_noise()
    still, learns = Recipe(0.0, 0.0, 4), Recipe(0.1, 0.1, 30)  # the first says class 0 of all
    chosen = best_classifier(tiny(), 2, noise(10), views, labels, [still, learns], **SEEDED)
    assert chosen.recipe == learns and chosen.val_accuracy > 0.9
    assert chosen.tried[0][1] == pytest.approx(float((labels == 0).double().mean()))
    chosen = best_classifier(
        tiny(), 2, noise(10), views, torch.zeros_like(labels), [learns, still], **SEEDED
    )
    assert chosen.recipe == still and chosen.val_accuracy == 1


def test_one_step_moves_backbone_and_head_each_by_its_rate_times_the_gradient_of_all_views():
    backbone, head = tiny(), nn.Linear(16, 2)
    model = nn.Sequential(backbone, head)
    reference = copy.deepcopy(model).train()
    x, y = next(iter(noise(1, views=3)(0)))
    logits = torch.stack([reference(x.flatten(0, 1))]).unflatten(1, (3, 6))[0]
    loss = torch.stack([nn.functional.cross_entropy(view, y) for view in logits]).mean()
    loss.backward()
    cost = fine_tune(
        model, noise(1, views=3), Recipe(backbone_lr=0.02, head_lr=0.7, steps=1), **SEEDED
    )
    assert cost[:2] == (1, 18)
    for part, rate in ((0, 0.02), (1, 0.7)):
        for p, q in zip(model[part].parameters(), reference[part].parameters(), strict=True):
            torch.testing.assert_close(p, q - rate * q.grad, rtol=1e-4, atol=1e-6)


def test_float16_keeps_gradients_that_it_cannot_hold_unscaled():
    """A head of nearly zero: what the backbone gets of its gradient is below float16's least."""
    backbone, head = tiny(), nn.Linear(16, 2)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.weight[0], 1e-7)
    before = copy.deepcopy(backbone)
    half = Runtime(torch.device("cpu"), torch.float16)
    recipe = Recipe(backbone_lr=1e6, head_lr=0.1, steps=1)
    fine_tune(nn.Sequential(backbone, head), noise(1), recipe, seed=0, runtime=half)
    assert not torch.equal(backbone.conv1.weight, before.conv1.weight)


def test_in_float16_what_weighs_near_is_that_of_float32(digits, digits_dir):
    data, stream, _ = digits
    cfg = cli.parse([*QUICK, "--data-dir", str(digits_dir)])

    def fisher(dtype):
        seen = stream.with_views(stream.augment)
        seen.runtime = Runtime(torch.device("cpu"), dtype)
        projector = Projector(16, 16, 16, 2)
        return ssl_fisher(tiny(), projector, cfg, seen, data.train_positions)

    torch.manual_seed(1)
    whole = fisher(None)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(whole, fisher(torch.float16), strict=True))


def test_both_rates_follow_the_cosine_over_the_steps(monkeypatch):
    rates = []
    original = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        rates.extend({group["lr"] for group in self.param_groups})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    fine_tune(
        nn.Sequential(tiny(), nn.Linear(16, 2)),
        noise(3),
        Recipe(0.1, 1.0, steps=8, warmup_steps=2),
        **SEEDED,
    )
    shape = [0.5, 1.0, *(0.5 * (1 + np.cos(np.pi * i / 6)) for i in range(6))]
    assert rates[::2] == pytest.approx([0.1 * r for r in shape])  # the backbone's
    assert rates[1::2] == pytest.approx(shape)


def test_a_frozen_backbone_stays_bit_for_bit_with_its_statistics():
    backbone, head = tiny(), nn.Linear(16, 2)
    before = copy.deepcopy((backbone, head))
    fine_tune(nn.Sequential(backbone, head), noise(5), Recipe(0.0, 0.5, 10), **SEEDED)
    assert same(backbone, before[0])
    assert not same(head, before[1])
    assert all(p.grad is None for p in backbone.parameters())
    fine_tune(nn.Sequential(backbone, head), noise(5), Recipe(0.01, 0.5, 10), **SEEDED)
    assert not same(backbone, before[0])


def test_the_same_call_gives_the_same_weights_and_leaves_the_callers_random_numbers():
    drops = "{channels: [8, 16, 16, 16], layers: [2, 1, 1, 1], drop_path_rate: 0.5}"
    start, models, states = tiny(kwargs=drops), [], []
    for seed in (0, 0, 1):
        models.append(nn.Sequential(copy.deepcopy(start), nn.Linear(16, 2)))
        nn.init.ones_(models[-1][1].weight), nn.init.zeros_(models[-1][1].bias)
        states.append(torch.get_rng_state())
        fine_tune(models[-1], noise(4), Recipe(0.1, 0.1, 4), seed=seed, runtime=CPU)
        assert torch.equal(torch.get_rng_state(), states[-1])
        torch.rand(3)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_what_diverges_is_not_chosen_and_nothing_but_that_is_an_error():
    views, labels = val_noise()
    wild, tame = Recipe(1e30, 1e30, 6), Recipe(0.1, 0.1, 6)
    chosen = best_classifier(tiny(), 2, noise(3), views, labels, [wild, tame], **SEEDED)
    assert chosen.recipe == tame and np.isnan(chosen.tried[0][1])
    with pytest.raises(FloatingPointError, match=r"not finite at any .* \(1e\+30 and 1e\+30\)"):
        best_classifier(tiny(), 2, noise(3), views, labels, [wild], **SEEDED)
    with pytest.raises(ValueError, match="without a batch"):
        fine_tune(nn.Sequential(tiny(), nn.Linear(16, 2)), noise(0), tame, **SEEDED)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_divergence_names_the_flag_and_the_ways_out_and_has_an_exit_code(
    digits, monkeypatch, capsys, dtype
):
    data, stream, _ = digits
    streams = {"train": stream.with_views(stream.augment, seed=0, batch_size=64)}
    streams["train"].runtime = Runtime(torch.device("cpu"), dtype)
    monkeypatch.setattr(semi_supervised, "RATES", ((1e30, 1e30), (1e31, 1e31)))
    how = {"name": "digits", "fraction": 1.0, "epochs": 1, "max_steps": 3, "folds": None, "seed": 0}

    def work():
        semi_supervised.fine_tuned(tiny(), data, streams, **how)

    assert signals.exit_code(work) == signals.DIVERGED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --fine-tune 1: the loss is not finite at any learning rate")
    assert ("--precision fp32" in line) == (dtype is not None)
    assert line.endswith("leave it out")


def test_of_equally_good_recipes_it_is_one_between_the_ends():
    views, labels = val_noise()
    recipes = [Recipe(0.0, 0.0, steps) for steps in (1, 2, 3)]  # all say class 0
    chosen = best_classifier(tiny(), 2, noise(4), views, labels, recipes, **SEEDED)
    assert chosen.recipe == recipes[1] and len(chosen.tried) == 3


def tried_by(reached: dict[tuple[float, float], float], calls: list):
    """Stand in for training: each pair of rates has the accuracy that `reached` says."""

    def train(positions, rates, held):
        calls.append((positions, held))
        return SimpleNamespace(tried=[(None, reached[pair]) for pair in rates])

    return train


def test_rates_are_cross_validated_within_the_labels():
    positions, labels = np.arange(100, 130), np.arange(200) % 3
    reached = dict(zip(RATES, (0.1, 0.5, 0.8, float("nan"), 0.7), strict=True))
    calls: list = []
    mean = _cross_validated(tried_by(reached, calls), positions, labels, 3, 0)
    assert mean == pytest.approx(list(reached.values()), nan_ok=True)
    assert len(calls) == 3
    for trained_on, held in calls:
        assert sorted([*trained_on, *held]) == positions.tolist()
    assert sorted(np.concatenate([held for _, held in calls])) == positions.tolist()
    nothing = dict.fromkeys(RATES, float("nan"))
    with pytest.raises(FloatingPointError, match="diverged"):
        _cross_validated(tried_by(nothing, []), positions, labels, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize("folds", [None, 2])
def test_validation_labels_choose_rates_only_without_folds(digits, tmp_path, monkeypatch, folds):
    """Two rates, of which one leaves all as it was: 0 of both."""
    data, stream, _ = digits
    monkeypatch.setattr(semi_supervised, "RATES", ((0.0, 0.0), (0.4, 0.4)))
    labels = data.train.labels.copy()
    labels[data.val_positions] = 0  # what is not trained says class 0 of all
    spoilt = data._replace(
        train=data.train._replace(labels=labels, path=tmp_path / "train.beton"), test=None
    )
    streams = {"train": stream}
    columns = semi_supervised.fine_tuned(
        tiny(),
        spoilt,
        streams,
        name="spoilt",
        fraction=0.1,
        epochs=4,
        max_steps=None,
        folds=folds,
        seed=0,
    )
    name = "fine_tuned/0.1" if folds is None else "fine_tuned_within/0.1"
    assert (columns[f"{name}_head_lr"] == 0) == (folds is None)
    assert columns[f"{name}_at_end"] is True


@pytest.mark.slow
def test_supervised_training_has_the_views_and_steps_of_a_run(digits, digits_dir, tmp_path):
    data, stream, clean = digits
    run = tmp_path / "run"
    flags = [
        *QUICK,
        "--data-dir",
        str(digits_dir),
        "--out",
        str(run),
        "--epochs",
        "2",
        "--probe-every",
        "0",
    ]
    with dots_for_pictures():
        assert train.main(cli.parse(flags)) == 0
    result, cfg = (
        json.loads((run / "result.json").read_text()),
        cli.parse(["--config", str(run / "config.yaml")]),
    )
    stream = stream.with_views(cfg.augment, seed=cfg.run.seed, batch_size=cfg.optim.batch_size)
    views = labelled_views(stream, data.train_positions, seed=cfg.run.seed)
    recipe = Recipe(
        cfg.optim.lr, cfg.optim.lr, result["steps"], cfg.optim.optimizer, cfg.optim.weight_decay
    )
    labels = torch.from_numpy(data.train.labels)[data.val_positions]
    val = clean(data.val_positions)
    trained = best_classifier(
        tiny(), 10, views.epoch, lambda: val, labels, [recipe], seed=cfg.run.seed, runtime=CPU
    )
    assert trained.cost[:2] == (result["steps"], result["encoded_views"])
    assert not same(trained.model[0], tiny())
    assert trained.model[0](val[0]).shape == (142, 16)


def moved_by(near: Near | None) -> list[torch.Tensor]:
    """Fine-tune on noise; returns how far each of the backbone's parameters went."""
    model = nn.Sequential(tiny(), nn.Linear(16, 2))
    before = [p.detach().clone() for p in model[0].parameters()]
    fine_tune(model, noise(10), Recipe(0.1, 0.1, 30, near=near), **SEEDED)
    return [(p - b).detach() for p, b in zip(model[0].parameters(), before, strict=True)]


def test_a_backbone_that_is_kept_near_goes_less_far_where_it_matters():
    """With F = 1 all of it; with F of one parameter that one, and the others go their way."""

    def length(steps) -> float:
        return float(sum(s.square().sum() for s in steps)) ** 0.5

    freely, hardly = moved_by(None), moved_by(Near(1.0, None))
    assert length(hardly) < 0.3 * length(freely)
    fisher = [torch.zeros_like(s) for s in freely]
    fisher[0] += 1.0
    weighed = moved_by(Near(1.0, fisher))
    assert length(weighed[:1]) < 0.5 * length(freely[:1])
    assert length(weighed[1:]) > 0.7 * length(freely[1:])
    assert all(torch.equal(a, b) for a, b in zip(freely, moved_by(Near(0.0, None)), strict=True))


def test_too_few_labels_to_normalise_are_told(digits, tmp_path):
    data, _, _ = digits
    two = data.train_positions[:2]
    few = data._replace(
        train=data.train._replace(path=tmp_path / "x.beton"),
        train_positions=two,
    )
    assert labels_to_tune_on(few, "few", 1.0, None, 0).tolist() == two.tolist()
    with pytest.raises(InputError, match="--fine-tune 1 and --fine-tune-folds 2: 2 labels leave 1"):
        labels_to_tune_on(few, "few", 1.0, 2, 0)
    one = few._replace(train_positions=two[:1])
    for part, folds in ((1.0, None), (0.01, 2), (0.01, 9)):
        with pytest.raises(InputError, match="1 labels leave"):
            labels_to_tune_on(one, "few", part, folds, 0)


def test_a_rate_may_fall_over_more_steps_than_are_made(monkeypatch):
    rates = []
    monkeypatch.setattr(finetune, "set_learning_rate", lambda _, rate: rates.append(rate))
    recipe = Recipe(0.0, 1.0, steps=4, schedule_steps=8, decay="linear")
    fine_tune(nn.Sequential(tiny(), nn.Linear(16, 2)), noise(4), recipe, **SEEDED)
    assert rates == pytest.approx([1, 0.875, 0.75, 0.625])


@pytest.mark.parametrize(("more", "per_epoch"), [([], 20), (["--no-drop-last"], 21)])
def test_the_twin_has_the_schedule_of_the_runs_epochs(
    digits, digits_dir, tmp_path, monkeypatch, more, per_epoch
):
    """Of a run that ended early, on images most of which have no label."""
    data, stream, _ = digits
    labels = data.train.labels.copy()
    labels[data.train_positions[200:]] = -1
    data = data._replace(train=data.train._replace(labels=labels))
    stream = stream.with_views(stream.augment)
    stream.stored = data.train
    flags = [*QUICK, "--data-dir", str(digits_dir), "--batch-size", "64", "--epochs", "10", *more]
    cfg = cli.parse([*flags, "--image-size", "12", "--first-size", "8", "--grow-by", "4"])
    (tmp_path / "result.json").write_text(json.dumps({"steps": 30, "encoded_views": 30 * 64 * 2}))
    given = {}

    def views(*args, size_of, **kwargs):
        given["sizes"] = [size_of(step) for step in range(30)]
        return labelled_views(*args, size_of=size_of, **kwargs)

    def chosen(begun, data, stream, views, recipes, *_):
        (given["recipe"],) = recipes
        raise KeyboardInterrupt

    monkeypatch.setattr(classifiers, "labelled_views", views)
    monkeypatch.setattr(classifiers, "chosen_classifier", chosen)
    with pytest.raises(KeyboardInterrupt):
        classifiers.supervised(
            FinishedRun(tmp_path, cfg, tiny(), None, None), data, {"train": stream}
        )
    recipe = given["recipe"]
    assert recipe.steps == 30  # an epoch and a half of the run's, ten of the labelled images
    assert (recipe.warmup_steps, recipe.schedule_steps) == (per_epoch, 10 * per_epoch)
    assert set(given["sizes"]) == {8}  # these grow after eight of the ten epochs

"""The settings as types: their ranges, their descriptions, and the files that come with them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from effssl import InputError, cli, config, job_config
from effssl.config import Config
from effssl.image_config import Augment, Images, Storage
from effssl.optim_config import AUTO_RATES, Optim

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
VIEWS = sorted((ROOT / "configs" / "views").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_parses_and_says_how_to_use_it(path):
    cfg = cli.parse(["--config", str(path)])
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"configs/{path.name}" in line for line in header), "the header gives no command"
    assert any("ardware" in line for line in header), "the header names no hardware"
    assert cfg.augment.views >= 2


@pytest.mark.parametrize(
    "path", sorted(CONFIGS[0].parent.glob("views/*.yaml")), ids=lambda p: p.stem
)
def test_views_of_a_kind_of_image_change_nothing_else_and_give_reasons(path):
    settings = yaml.safe_load(path.read_text())
    assert set(settings) <= {field.name for field in dataclasses.fields(Augment)}
    lines = [line for line in path.read_text().splitlines() if ":" in line and line[0] != "#"]
    assert sum("#" in line for line in lines) >= 4  # reasons
    cfg = cli.parse(["--config", str(CONFIGS[0]), "--config", str(path), "--image-size", "32"])
    plain = cli.parse(["--config", str(CONFIGS[0]), "--image-size", "32"])
    assert cfg.optim == plain.optim
    # Each says all that it has an opinion on: the defaults of a set must not shine through.
    assert {"crop_scale", "hflip_prob", "jitter_prob", "gray_prob", "blur_prob"} <= set(settings)
    assert {"brightness", "contrast", "saturation", "hue", "solarize_prob"} <= set(settings)


def test_there_are_configs_for_every_set_and_the_baseline():
    names = {p.stem for p in CONFIGS}
    assert names >= {"digits", "cifar10", "cifar10_barlow_twins", "cifar10_authors", "cifar10_cpu"}
    assert names >= {"stl10", "imagenet100", "imagenet"}


def test_configs_with_lars_have_the_rates_of_the_official_code():
    """For 256 images: facebookresearch/barlowtwins, main.py."""
    lars = [optim for p in CONFIGS if (optim := cli.load(p).optim).optimizer == "lars"]
    assert lars
    for optim in lars:
        per_256 = 256 / optim.batch_size
        assert optim.lr * per_256 == pytest.approx(0.2)
        assert optim.lr_bias * per_256 == pytest.approx(0.0048)


@pytest.mark.parametrize("module", [config, job_config])
def test_every_field_has_a_docstring(module):
    source = Path(module.__file__).read_text().splitlines()
    kinds = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
    own = [kind for kind in kinds if kind.__module__ == module.__name__ and kind is not Config]
    for name in [field.name for kind in own for field in dataclasses.fields(kind)]:
        at = next(i for i, line in enumerate(source) if line.startswith(f"    {name}: "))
        assert source[at + 1].strip().startswith('"""'), name


def test_a_name_is_a_field_of_one_group():
    assert len(set(config.FIELDS)) == len(config.FIELDS)
    assert "image_size" in [field.name for field in dataclasses.fields(Augment)]


def test_settings_are_validated_wherever_they_are_made():
    with pytest.raises(ValidationError, match="lr"):
        Optim(lr=float("inf"))
    for epochs in (float("inf"), 1e308):  # as steps they would be no whole number
        with pytest.raises(ValidationError, match="warmup_epochs"):
            Optim(warmup_epochs=epochs)
    with pytest.raises(ValidationError, match="workers"):
        dataclasses.replace(Images(), workers=0)
    with pytest.raises(ValidationError, match="low <= high"):
        dataclasses.replace(Augment(), crop_scale=(0.9, 0.1))
    for std in (0.0, -1.0, float("nan"), float("inf")):  # views are divided by it
        with pytest.raises(ValidationError, match="std"):
            dataclasses.replace(Augment(), std=(0.2, std, 0.2))
    with pytest.raises(ValidationError, match="one is the clean view"):
        job_config.Evaluation(runs=(Path("run"),), num_averaged_views=1)
    for folds in (0, 1):
        with pytest.raises(ValidationError, match="fine_tune_folds"):
            job_config.Evaluation(runs=(Path("run"),), fine_tune_folds=folds)
    with pytest.raises(ValidationError, match="at least 2"):
        dataclasses.replace(Config(), augment=Augment(views=1))
    with pytest.raises(ValidationError, match="lrr"):  # pydantic would leave it out without a word
        dataclasses.replace(Optim(), lrr=1.0)


def test_one_view_can_be_made_but_not_trained_on():
    assert dataclasses.replace(Augment(), views=1).views == 1  # a classifier is fitted on these


def test_settings_do_not_change_and_travel_to_other_processes():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Storage().workers = 3  # type: ignore[misc]
    cfg = cli.parse(["--views", "6"])
    assert pickle.loads(pickle.dumps(cfg)) == cfg


def test_a_rate_is_given_or_the_one_that_was_measured():
    assert cli.parse(["--optimizer", "muon", "--lr", "auto"]).lr == AUTO_RATES["muon"]
    assert cli.parse(["--optimizer", "muon", "--lr", "0.007"]).lr == 0.007
    summary = (ROOT / "analysis" / "results" / "rates" / "summary.md").read_text()
    assert f"rate = {AUTO_RATES['muon']:g} " in summary


def test_a_rate_that_was_measured_is_saved_as_a_number(tmp_path):
    cfg = cli.parse(["--optimizer", "muon", "--lr", "auto", "--batch-size", "128"])
    (tmp_path / "config.yaml").write_text(cli.dump(cfg))
    assert cli.load(tmp_path / "config.yaml").optim.lr == cfg.lr


def test_no_rate_is_made_up_where_none_was_measured():
    with pytest.raises(InputError, match="--lr auto: measured for muon; for lars give a number"):
        cli.parse(["--optimizer", "lars", "--lr", "auto"])

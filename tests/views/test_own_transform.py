"""A function of the user's own among the views: what it gets and returns, and who may run it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from effssl import InputError, cli
from effssl.evaluation.finished_run import open_run
from effssl.image_config import Augment
from effssl.train import loop as train
from effssl.views.own_transform import load_transform, transformed
from tests.conftest import QUICK
from tests.views.test_stream import AUGMENT, CPU, ViewStream, squares  # noqa: F401

WRITTEN = """
import torch
from torchvision.transforms import v2

SEEN = []
def same(x):
    SEEN.append(x)
    return x
def darker(x): return x / 2
def noisy(x): return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
posterised = v2.RandomPosterize(3, p=1)
def broken(x):
    return x[:, 7]
def smaller(x): return x[:, :, 1:]
def bytes_of(x): return (255 * x).byte()
def short(x): return x.bfloat16()
def listed(x): return list(x)
def divided(x): return x / 0
"""


@pytest.fixture
def own(tmp_path):
    """The beginning of what --transform names: a file of functions."""
    (tmp_path / "own.py").write_text(WRITTEN)
    return f"{tmp_path}/own.py:"


def first_batch(stored, augment, epoch=1, batch_size=8, at=0):
    stream = ViewStream(stored, augment, seed=3, batch_size=batch_size, workers=1, runtime=CPU)
    ((views,), _) = next(stream.epoch(np.arange(at, at + batch_size), epoch))
    return views


def test_it_gets_whole_views_in_0_to_1_and_its_result_is_normalised(squares, own):  # noqa: F811
    plain = first_batch(squares, AUGMENT)
    same = first_batch(squares, replace(AUGMENT, transform=own + "same"))
    torch.testing.assert_close(same, plain, rtol=0, atol=1e-5)
    (seen,) = load_transform(own + "same").__globals__["SEEN"]
    assert seen.shape == (3 * 8, 3, 16, 16)
    assert 0 <= seen.min() < 0.1
    assert 0.9 < seen.max() <= 1
    darker = first_batch(squares, replace(AUGMENT, transform=own + "darker"))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (AUGMENT.mean, AUGMENT.std))
    torch.testing.assert_close(darker * std + mean, (plain * std + mean) / 2, rtol=0, atol=1e-5)


def test_its_draws_repeat_with_the_views_and_move_no_others(squares, own):  # noqa: F811
    noisy = replace(AUGMENT, transform=own + "noisy")
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    views = first_batch(squares, noisy)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(first_batch(squares, noisy), views)
    plain, again = first_batch(squares, AUGMENT), first_batch(squares, noisy, epoch=2)
    noise = views - plain
    assert 0.3 < noise.std() < 0.6  # 0.1 over a standard deviation of 0.2 to 0.4, cut at 0 and 1
    other = again - first_batch(squares, AUGMENT, epoch=2)
    assert torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].abs() < 0.1


def test_torchvisions_transforms_are_functions(squares, own):  # noqa: F811
    as_it_is = replace(AUGMENT, transform=own + "posterised", mean=(0.0,) * 3, std=(1.0,) * 3)
    views = first_batch(squares, as_it_is)
    assert len(views.unique()) <= 8  # values of three bits


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", r"IndexError: index 7 is out of bounds.*own\.py, line 13"),
        ("smaller", r"the function returned \[24, 3, 15, 16\] for \[24, 3, 16, 16\]"),
        ("bytes_of", "the function returned torch.uint8, not floats"),
        ("listed", "the function returned a list, not a tensor"),
        ("divided", "the function returned values that are not finite"),
        ("missing", r"own\.py has no function missing"),
    ],
)
def test_its_faults_are_told_in_one_line(squares, own, name, said):  # noqa: F811
    with pytest.raises(InputError, match=f"--transform .*own.py:{name}: .*{said}") as told:
        first_batch(squares, replace(AUGMENT, transform=own + name))
    assert "\n" not in str(told.value)


def test_a_name_that_leads_nowhere_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in_this_folder.py").write_text("def f(x): return x\n")
    assert load_transform("in_this_folder:f")(3) == 3
    (tmp_path / "wrong.py").write_text("x = 1\ny = z\n")
    for name, said in {
        "own": "must be MODULE:FUNCTION",
        "own:": "must be MODULE:FUNCTION",
        "no_such_module:f": "ModuleNotFoundError: No module named 'no_such_module'",
        "none.py:f": "none.py is not there",
        "wrong.py:f": r"NameError: name 'z' is not defined \(.*wrong.py, line 2\)",
        "wrong:f": r"NameError: name 'z' is not defined \(.*wrong.py, line 2\)",
    }.items():
        with pytest.raises(InputError, match=said):
            load_transform(name)


def test_a_dtype_below_float32_is_taken(own):
    views = torch.rand(2, 3, 3, 4, 4)
    augment = Augment(mean=(0.0,) * 3, std=(1.0,) * 3, transform=own + "short")
    made = transformed(views, augment, seed=1)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, views, rtol=0, atol=4e-3)


@pytest.mark.slow
def test_files_of_settings_run_no_code(own, digits_dir, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*QUICK, "--data-dir", str(digits_dir), "--transform", own + "same"]
    asked = cli.parse([*flags, "--epochs", "1", "--out", str(run)])
    assert train.main(asked) == 0
    saved = str(run / "config.yaml")
    for again in (["--config", saved], ["--resume", str(run)]):
        with pytest.raises(InputError, match="no file runs any: give that flag too"):
            cli.parse(again)
        assert cli.parse([*again, *flags[-2:]]).augment.transform == own + "same"
    with pytest.raises(InputError, match="--transform"):
        cli.parse(["--resume", str(run), "--transform", own + "darker"])
    assert cli.parse(["--config", saved, "--transform", "None"]).augment.transform is None
    capsys.readouterr()
    assert open_run(run).cfg.augment.transform is None
    assert "without the run's --transform" in capsys.readouterr().out


@pytest.mark.slow
def test_a_broken_one_ends_the_command_before_training(own, digits_dir, tmp_path, capsys):
    flags = [*QUICK, "--data-dir", str(digits_dir), "--transform", own + "broken"]
    assert train.main(cli.parse([*flags, "--out", str(tmp_path / "run")])) == 2
    assert "own.py, line 13" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

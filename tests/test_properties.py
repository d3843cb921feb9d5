"""Properties of all settings together, on settings drawn at random: what is accepted works, and
what is not is refused in one line."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effssl import InputError, cli
from effssl.config import FIELDS, Config, flag_of, flat
from effssl.evaluation import protocols
from effssl.flags import types_of
from effssl.run import signals
from effssl.train import loop
from effssl.train import probe as probes

# The same examples each time: what fails, fails for everyone.
FEW = {"database": None, "derandomize": True, "deadline": None}
FEW |= {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
HINTS = {
    name: hint for group in types_of(Config).values() for name, hint in types_of(group).items()
}
NUMBERS = ("0", "1", "2", "3", "8", "64", "-1", "0.5", "0.1", "1e-3", "-0.0", "1e30", "9" * 25)
ODD = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "",
    " ",
    "None",
    "null",
    "true",
    "auto",
    "0x10",
    "1_0",
    "é",
    "[]",
)


def literals(hint: Any) -> list[str]:
    """Return the words that a type names."""
    if get_origin(hint) is Literal:
        return [str(each) for each in get_args(hint)]
    return [word for part in get_args(hint) for word in literals(part)]


def values(name: str) -> st.SearchStrategy[list[str]]:
    """Draw what may stand behind a flag: a number, a word of its type, several, nonsense, none."""
    words = (*NUMBERS, *literals(HINTS[name]))
    one = st.sampled_from(words).map(lambda word: [word])
    several = st.lists(st.sampled_from(words), min_size=0, max_size=4)
    return st.one_of(one, one, several, st.sampled_from(ODD).map(lambda word: [word]))


# What reads or writes files has tests of its own.
FREE = [
    name for name in FIELDS if name not in ("resume", "go_on", "look", "plan", "out", "transform")
]
FLAGS = st.lists(st.sampled_from(FREE), max_size=5, unique=True).flatmap(
    lambda names: st.tuples(*(values(n).map(lambda v, n=n: [flag_of(n), *v]) for n in names))
)


def parsed(flags: list[str]) -> Config | None:
    """Return the settings, or None for an InputError, whose message has to be one line."""
    try:
        return cli.parse(flags)
    except InputError as error:
        assert str(error).strip() and "\n" not in str(error), flags
        return None


@settings(max_examples=500, **FEW)
@given(FLAGS)
def test_flags_are_settings_or_one_line(flags):
    words = [word for flag in flags for word in flag]
    cfg = parsed(words)
    if cfg is not None:  # a file of it says the same
        with tempfile.TemporaryDirectory() as folder:
            (file := Path(folder) / "config.yaml").write_text(cli.dump(cfg))
            again = cli.load(file)
            gone_on = cli.parse([*words, "--out", folder, "--go-on"])
        assert cli.dump(gone_on) == cli.dump(cfg)  # the same command is the same run
        places = ("data_dir", "more_dirs", "beton_dir", "paired", "init", "teacher", "out", "lr")
        assert [k for k, v in flat(cfg).items() if flat(again)[k] != v and k not in places] == []
        assert again.lr == cfg.lr


YAML = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=300, **FEW)
@given(st.dictionaries(st.sampled_from(FREE) | st.text(max_size=6), YAML, max_size=3))
def test_files_are_settings_or_one_line(capsys, given_settings):
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "config.yaml").write_text(yaml.safe_dump(given_settings))
        code = signals.exit_code(lambda: cli.parse(["--config", str(file)]) and None)
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) in ((0, 0), (2, 1)), lines


# Settings of a training that takes a second; "" is a flag by itself.
SOME = {
    "method": ("vicreg", "barlow_twins", "simclr", "entropy_reconstruction"),
    "pairing": ("pooled", "authors"),
    "views": ("1", "2", "3", "5"),
    "small-views": ("1", "2"),
    "image-size": ("8", "9", "8 12", "16"),
    "first-size": ("8",),
    "proj-dim": ("1", "2", "16"),
    "proj-layers": ("1", "3"),
    "proj-norm": ("layer", "none"),
    "norm-by-view": ("",),
    "batch-size": ("2", "3", "64", "1000"),
    "micro-batch": ("1", "2", "7", "auto"),
    "optimizer": ("adam", "sgd", "lars", "muon"),
    "lr": ("auto", "1e-6", "1"),
    "ema": ("0.9",),
    "clip-grad": ("0.1",),
    "fraction": ("0.01", "0.05", "1"),
    "val-fraction": ("0.001", "0.5"),
    "weight-ortho": ("1",),
    "warmup-epochs": ("0", "0.5", "9"),
    "freeze-epochs": ("1", "5"),
    "rand-augment": ("2 9",),
    "rotate": ("30",),
    "erase-prob": ("1",),
    "no-labels": ("",),
    "no-drop-last": ("",),
    "no-hold-out": ("",),
    "checkpoint-activations": ("",),
    "precision": ("bf16", "fp16"),
    "probe-labels": ("1", "50"),
    "final-images": ("0", "1", "20"),
    "backbone": ("resnet10t", "vit_tiny_patch16_224", "convnext_atto"),
}
TRAININGS = st.lists(st.sampled_from(sorted(SOME)), min_size=1, max_size=5, unique=True).flatmap(
    lambda names: st.tuples(
        *(st.sampled_from(SOME[n]).map(lambda v, n=n: [f"--{n}", *v.split()]) for n in names)
    ).map(lambda each: [word for words in each for word in words])
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=30, **FEW)
@given(TRAININGS)
def test_a_training_ends_well_or_in_one_line(digits_dir, capsys, flags):
    folder = Path(tempfile.mkdtemp())
    base = ["--data-dir", str(digits_dir), "--epochs", "1", "--max-seconds", "0.1"]
    base += ["--workers", "1", "--image-size", "8", "--probe-images", "50", "--final-images", "20"]
    if "--backbone" not in flags:
        base += ["--backbone-kwargs", "{channels: [4, 4, 4, 8], layers: [1, 1, 1, 1]}"]
    try:
        cfg = parsed([*base, *flags, "--out", str(folder / "run")])
        if cfg is not None:
            capsys.readouterr()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(probes.pictures, "save_views", lambda *_: None)
                patch.setattr(probes.pictures, "save_curves", lambda *_: None)
                patch.setattr(protocols, "FEW_LABEL_DRAWS", 2)  # five are half of what it takes
                code = loop.main(cfg)
            said = capsys.readouterr().err
            lines = [line for line in said.splitlines() if line.startswith("error: ")]
            assert (code, len(lines)) in ((0, 0), (2, 1)) or "diverged" in said, (flags, said)
            assert (code == 0) == (folder / "run" / "result.json").is_file(), flags
    finally:
        shutil.rmtree(folder)

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from effssl import InputError, cli, config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_flags_beat_yaml_beats_set_defaults_beat_defaults(tmp_path):
    assert cli.parse(["--data", "folder"]).augment.image_size == 224
    assert cli.parse(["--data", "cifar10"]).augment.image_size == 32
    file = write(tmp_path / "c.yaml", "data: cifar10\nimage_size: 40\nviews: 6\n")
    assert cli.parse(["--config", file]).augment.image_size == 40
    both = cli.parse(["--config", file, "--image-size", "48"])
    assert (both.augment.image_size, both.augment.views, both.augment.blur_prob) == (48, 6, 0.0)
    assert cli.parse(["--image-size=48", f"--config={file}"]).augment.image_size == 48


@pytest.mark.parametrize("text", ["lr: 3e-4", "lr: 0.0003", "lr: '3e-4'"])
def test_yaml_numbers_are_numbers(tmp_path, text):
    assert cli.parse(["--config", write(tmp_path / "c.yaml", text)]).optim.lr == 3e-4


def test_yaml_values_of_every_kind(tmp_path):
    text = "backbone_kwargs: {channels: [8, 16]}\ncompile: true\nmax_seconds: null\ncrop_scale: [0.2, 0.9]\n"
    cfg = cli.parse(["--config", write(tmp_path / "c.yaml", text)])
    assert yaml.safe_load(cfg.model.backbone_kwargs) == {"channels": [8, 16]}
    assert (cfg.run.compile, cfg.optim.max_seconds, cfg.augment.crop_scale) == ("true", None, (0.2, 0.9))


@pytest.mark.parametrize("flags", [[], ["--data", "cifar10"], ["--max-seconds", "9.5", "--redundancy-weight", "1e-4"]])
def test_saved_config_is_a_valid_config(tmp_path, flags):
    cfg = cli.parse(flags)
    cli.save(cfg, tmp_path / "config.yaml")
    assert cli.parse(["--config", str(tmp_path / "config.yaml")]) == cfg


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--proj-dmi", "64"], "--proj-dim"),
        (["--veiws", "4"], "--views"),
        (["--views", "1"], "--views must be at least 2"),
        (["--views", "two"], "--views"),
        (["--data", "cifar11"], "cifar10"),
        (["--fraction", "0"], "--fraction"),
        (["--fraction", "nan"], "--fraction"),
        (["--lr", "-1"], "--lr"),
        (["--proj-layers", "0"], "--proj-layers must be at least 1"),
        (["--projector", "other"], "official"),
        (["--redundancy-weight", "-1"], "--redundancy-weight must be auto or not negative"),
        (["--cov-weight", "nan"], "--cov-weight"),
        (["--var-weight", "much"], "--var-weight"),
        (["--weight-ortho", "-1"], "--weight-ortho must not be negative"),
        (["--temperature", "0"], "--temperature must be positive"),
        (["--crop-scale", "0.9", "0.1"], "--crop-scale"),
        (["--crop-scale", "0.5"], "--crop-scale"),
        (["--config"], "--config"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--resume", "absent"], "absent"),
        (["stray"], "stray"),
    ],
)
def test_bad_flags_say_what_was_meant_in_one_line(flags, message):
    with pytest.raises(InputError, match=message) as caught:
        cli.parse(flags)
    assert "\n" not in str(caught.value)
    assert "──" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proj_dmi: 64", "did you mean proj_dim"),
        ("proj_dim: many", "--proj-dim"),
        ("- views", "key: value"),
        ("views: [", "not valid YAML"),
        ("out: somewhere", "unknown key out"),
    ],
)
def test_bad_yaml_names_the_key_or_the_file(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        cli.parse(["--config", write(tmp_path / "c.yaml", text)])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_parses_and_says_how_to_use_it(path):
    cfg = cli.parse(["--config", str(path)])
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"configs/{path.name}" in line for line in header), "the header gives no command"
    assert any("ardware" in line for line in header), "the header names no hardware"
    assert cfg.augment.views >= 2


def test_there_are_configs_for_every_set_and_the_baseline():
    names = {p.stem for p in CONFIGS}
    assert names >= {"digits", "cifar10", "cifar10_vicreg", "cifar10_baseline", "cifar10_cpu"}
    assert names >= {"stl10", "imagenet100", "imagenet"}


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [config.flag_of(name) for name in config.FIELDS if config.flag_of(name) not in text] == []


def test_every_field_has_a_docstring():
    source = Path(config.__file__).read_text().splitlines()
    for name in config.FIELDS:
        at = next(i for i, line in enumerate(source) if line.startswith(f"    {name}: "))
        assert source[at + 1].strip().startswith('"""'), name


def test_resume_takes_the_runs_own_settings_and_shows_a_difference(tmp_path):
    cli.save(cli.parse(["--views", "6", "--epochs", "7"]), tmp_path / "config.yaml")
    cfg = cli.parse(["--resume", str(tmp_path), "--workers", "1", "--max-seconds", "5"])
    assert (cfg.augment.views, cfg.optim.epochs, cfg.images.workers, cfg.run.out) == (6, 7, 1, tmp_path)
    with pytest.raises(InputError, match=r"--epochs 7 -> 8.*"):
        cli.parse(["--resume", str(tmp_path), "--epochs", "8"])

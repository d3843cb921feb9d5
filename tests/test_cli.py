"""Flags and YAML files -> settings, in process; what the commands do with bad ones is tested in
test_main.py.
"""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
import yaml

from effssl import InputError, cli, config
from effssl.config import Run
from effssl.image_config import Augment, Images, Storage
from effssl.job_config import Embed, Evaluation, Export


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
    later = write(tmp_path / "later.yaml", "views: 8\n")
    two = cli.parse(["--config", file, "--config", later]).augment
    assert (two.image_size, two.views) == (40, 8)


def test_a_size_is_one_number_for_a_square_and_two_else(tmp_path):
    def size_of(*flags):
        return cli.parse(list(flags)).augment.image_size

    assert size_of("--image-size", "48", "--views", "3") == 48
    assert size_of("--image-size", "24", "40") == (24, 40)
    assert size_of("--image-size", "40", "40") == 40  # as files of squares have it
    cfg = cli.parse(["--image-size", "24", "40", "--data-dir", str(tmp_path)])
    file = write(tmp_path / "c.yaml", cli.dump(cfg))
    assert yaml.safe_load(Path(file).read_text())["image_size"] == [24, 40]
    assert cli.load(Path(file)) == cfg
    assert config.flat(cli.parse(["--image-size", "40"]))["image_size"] == 40
    for flags, complaint in {
        ("4",): "4: must be at least 8",
        ("24", "4"): "4: must be at least 8",
        ("24", "x"): "x: must be a whole number",
        ("8", "8", "8"): "8 8 8: has too many values",
        (): ": expected at least one argument",
    }.items():
        with pytest.raises(InputError, match=f"^--image-size ?{complaint}$"):
            size_of("--image-size", *flags)


@pytest.mark.parametrize("text", ["lr: 3e-4", "lr: 0.0003", "lr: '3e-4'"])
def test_yaml_numbers_are_numbers(tmp_path, text):
    assert cli.parse(["--config", write(tmp_path / "c.yaml", text)]).optim.lr == 3e-4


def test_yaml_values_of_every_kind(tmp_path):
    text = """
        backbone_kwargs: {channels: [8, 16]}
        compile: true
        max_seconds: null
        crop_scale: [0.2, 0.9]
        skip_corrupt: yes
        redundancy_weight: 1e-3
        cov_weight: auto
    """
    cfg = cli.parse(["--config", write(tmp_path / "c.yaml", text)])
    assert yaml.safe_load(cfg.model.backbone_kwargs) == {"channels": [8, 16]}
    assert (cfg.run.compile, cfg.optim.max_seconds) == ("true", None)
    assert (cfg.augment.crop_scale, cfg.images.skip_corrupt) == ((0.2, 0.9), True)
    assert (cfg.loss.redundancy_weight, cfg.loss.cov_weight) == (1e-3, "auto")


def test_flags_of_every_kind():
    cfg = cli.parse(
        [
            *(
                "--proj_dim",
                "7",
                "--skip-corrupt",
                "--crop-scale",
                "0.2",
                "1",
                "--max-seconds",
                "None",
            ),
            *(
                "--var-weight",
                "3",
                "--beton-dir",
                "b",
                "--mean",
                "-1",
                "0",
                "0.5",
                "--save-every-s",
                "inf",
            ),
            *("--views", "3", "--views=5"),
        ]
    )
    assert (cfg.model.proj_dim, cfg.images.skip_corrupt) == (7, True)
    assert (cfg.augment.crop_scale, cfg.augment.mean) == ((0.2, 1.0), (-1.0, 0.0, 0.5))
    assert (cfg.optim.max_seconds, cfg.loss.var_weight) == (None, 3.0)
    assert (cfg.images.beton_dir, cfg.run.save_every_s) == (Path("b"), float("inf"))
    assert cfg.augment.views == 5  # the last one counts
    assert not cli.parse(["--skip-corrupt", "--no-skip-corrupt"]).images.skip_corrupt


@pytest.mark.parametrize(
    "flags",
    [[], ["--data", "cifar10"], ["--max-seconds", "9.5", "--cov-weight", "1e-4"]],
)
def test_saved_config_is_a_valid_config(tmp_path, flags):
    cfg = cli.parse([*flags, "--data-dir", str(tmp_path / "data")])
    file = write(tmp_path / "config.yaml", cli.dump(cfg))
    assert cli.parse(["--config", file]) == cfg
    assert cli.load(Path(file)) == cfg


def test_a_file_may_hold_what_does_nothing_beside_a_flag(tmp_path):
    file = write(tmp_path / "own.yaml", "method: barlow_twins\nredundancy_weight: 1e-3\n")
    assert cli.parse(["--config", file, "--method", "vicreg"]).loss.method == "vicreg"
    given = cli.parse(["--config", file, "--redundancy-weight", "0.1", "--var-weight", "1"])
    assert given.loss.redundancy_weight == 0.1


def test_a_saved_config_says_where_its_folders_are_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    cfg = cli.parse(["--data-dir", "../images", "--beton-dir", "stored"])
    file = Path(write(tmp_path / "config.yaml", cli.dump(cfg)))
    assert cli.load(file).images.data_dir == tmp_path / "images"
    assert cli.load(file).images.beton_dir == tmp_path / "there" / "stored"
    assert cli.load(Path(write(file, cli.dump(cli.parse([]))))).images.beton_dir is None


def test_a_tilde_is_the_home_folder_wherever_no_shell_sees_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "c.yaml", "data_dir: ~/x\nbeton_dir: ~/y\n")
    cfg = cli.parse(["--config=~/c.yaml", "--out=~/run"])
    assert (cfg.images.data_dir, cfg.images.beton_dir) == (tmp_path / "x", tmp_path / "y")
    assert cfg.run.out == tmp_path / "run"
    assert cli.parse_storage(["--data-dir=~/x"]).data_dir == tmp_path / "x"
    flags = ["--to=~/t", "--robustness-dir=~/r", "--checkpoint", "a=~/w.pth"]
    settings = cli.parse_evaluation(["~/run", *flags])
    assert (settings.runs, settings.to) == ((tmp_path / "run",), tmp_path / "t")
    assert settings.robustness_dir == tmp_path / "r"
    assert settings.checkpoint == (f"a={tmp_path}/w.pth",)
    assert cli.parse_export(["~/run", "--to=~/t"]) == Export(tmp_path / "run", tmp_path / "t")
    embed = cli.parse_embed(["~/run", "--to=~/h.npz", "--images=~/i", "--beton-dir=~/b"])
    assert (embed.run, embed.to) == (tmp_path / "run", tmp_path / "h.npz")
    assert (embed.images, embed.beton_dir) == (tmp_path / "i", tmp_path / "b")
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "config.yaml", "views: 6\n")
    assert cli.parse(["--resume=~/run"]).run.out == tmp_path / "run"


def test_every_path_is_of_this_machine():
    hints = [
        (name, hint)
        for kind in (Images, Run, Evaluation, Export, Embed, Storage)
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
    ]
    paths = [(name, hint) for name, hint in hints if "Path" in str(hint)]
    assert len(paths) >= 15
    assert [name for name, hint in paths if "local_path" not in str(hint)] == []


def test_settings_added_since_a_run_get_their_defaults_not_those_of_the_set(tmp_path):
    file = write(tmp_path / "config.yaml", "data: cifar10\nviews: 6\n")
    cfg = cli.load(Path(file))
    assert (cfg.augment.views, cfg.augment.image_size) == (6, Augment().image_size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proj_dmi: 64", "unknown key proj_dmi; did you mean proj_dim"),
        ("proj_dim: many", "proj_dim many: must be a whole number"),
        ("views: true", "views true: must be a whole number"),
        ("crop_scale: [0.1, 0.2, 0.3]", "crop_scale 0.1 0.2 0.3: has too many values"),
        ("crop_scale: [0.1]", "crop_scale 0.1: has too few values"),
        ("crop_scale: 0.1", "crop_scale 0.1: must be a list"),
        ("- views", "key: value"),
        ("views: [", "not valid YAML"),
        ("out: somewhere", "unknown key out"),
        ("1: 2", "unknown key 1"),
        ("views: 1", "at least 2"),
        ("data_dir: ~", "data_dir has no value"),
        ("views:", "views has no value"),
        ("data_dir: s3://bucket", "data_dir s3://bucket: must be a path on this machine"),
    ],
)
def test_bad_yaml_names_the_file_and_the_key(tmp_path, text, message):
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(InputError, match=message) as caught:
        cli.parse(["--config", file])
    assert "\n" not in str(caught.value)
    assert file in str(caught.value) or "--views" in str(caught.value)
    with pytest.raises(InputError, match=message):
        cli.load(Path(file))


@pytest.mark.parametrize("data", ["folder", "list", "hf"])
def test_images_of_a_users_own_have_muon_from_random_weights(tmp_path, data):
    def optimizer(*flags):
        optim = cli.parse(["--data", data, *flags]).optim
        return optim.optimizer, optim.lr, optim.decay

    assert optimizer() == optimizer("--optimizer", "muon") == ("muon", 0.02, "linear")
    assert optimizer("--lr", "1e-2") == ("muon", 0.01, "linear")
    assert optimizer("--init", "timm") == ("adamw", 1e-3, "cosine")
    (tmp_path / "x.yaml").write_text("init: null")
    without = optimizer("--init", "None"), optimizer("--config", str(tmp_path / "x.yaml"))
    assert without == (optimizer(), optimizer())


@pytest.mark.parametrize("data", ["folder", "digits"])
def test_the_rate_of_a_sets_optimizer_is_not_that_of_another(data):
    for flags in (["--optimizer", "adamw"], ["--optimizer", "sgd"]):
        optim = cli.parse(["--data", data, *flags]).optim
        assert (optim.lr, optim.decay) == (1e-3, "cosine")
    assert cli.parse(["--data", data, "--optimizer", "adamw", "--lr", "3e-3"]).optim.lr == 3e-3


def test_help_explains_every_field_with_the_defaults_of_the_set(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--data", "cifar10", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert [flag for name in config.FIELDS if (flag := config.flag_of(name)) not in text] == []
    assert "--config FILE" in text
    assert "for views that are not square. (default: 32)" in text
    assert "--stem {auto,timm,small,small-s2}" in text
    assert "Where the images come from." in text  # what the group is about


@pytest.mark.parametrize(
    ("parse", "expected"),
    [
        (cli.parse_storage, ["--beton-dir PATH", "JPEG quality of what is stored"]),
        (cli.parse_evaluation, ["evaluate RUN [RUN ...]", "--checkpoint NAME=FILE", "--no-pixels"]),
        (cli.parse_export, ["export RUN", "--to PATH", "(default: False)"]),
        (cli.parse_embed, ["embed RUN", "--split {train,test}", "(default: train)"]),
    ],
)
def test_help_of_the_other_jobs(capsys, parse, expected):
    with pytest.raises(SystemExit):
        parse(["-h"])
    text = " ".join(capsys.readouterr().out.split())
    assert [part for part in expected if part not in text] == []


def test_resume_takes_the_runs_own_settings_and_shows_a_difference(tmp_path):
    write(tmp_path / "config.yaml", cli.dump(cli.parse(["--views", "6", "--epochs", "7"])))
    cfg = cli.parse(["--resume", str(tmp_path), "--workers", "1", "--max-seconds", "5"])
    assert (cfg.augment.views, cfg.optim.epochs, cfg.images.workers) == (6, 7, 1)
    assert (cfg.run.out, cfg.run.resume) == (tmp_path, tmp_path)
    assert cli.parse(["--resume", str(tmp_path), "--epochs", "8"]).optim.epochs == 8
    for flags, change in ((["--epochs", "6"], "--epochs 7 -> 6"), (["--lr", "1"], "--lr 0.03 ->")):
        with pytest.raises(InputError, match=change):
            cli.parse(["--resume", str(tmp_path), *flags])
    with pytest.raises(InputError, match="leave --out away"):
        cli.parse(["--resume", str(tmp_path), "--out", "elsewhere"])
    assert cli.parse(["--resume", str(tmp_path), "--out", str(tmp_path)]).run.out == tmp_path


def test_the_flags_of_prepare_are_trains():
    stored = Storage(data="stl10", skip_corrupt=True)
    assert cli.parse_storage(["--data", "stl10", "--skip-corrupt"]) == stored
    assert cli.parse(["--skip-corrupt"]).images.skip_corrupt


def test_the_flags_of_evaluate():
    expected = Evaluation(
        runs=(Path("a"), Path("b")),
        fine_tune=(0.1, 1.0),
        checkpoint=("x=1", "y=2"),
        untrained=False,
    )
    flags = ["--fine-tune", "0.1", "1", "--checkpoint", "x=1", "--checkpoint", "y=2"]
    assert cli.parse_evaluation(["a", *flags, "--no-untrained", "b"]) == expected


def test_the_flags_of_export_and_embed():
    expected = Export(Path("runs/a"), Path("b"), onnx=True)
    assert cli.parse_export(["runs/a", "--to", "b", "--onnx"]) == expected
    assert cli.parse_embed(["a", "--to", "h.npz", "--images", "DIR"]) == Embed(
        Path("a"), Path("h.npz"), Path("DIR")
    )


def test_negative_numbers_may_have_exponents():
    for low, value in {"-1e3": -1000, "-2.5E+2": -250, "-.5": -0.5, "-1.": -1, "-7": -7}.items():
        assert cli.parse(["--gray-range", low, "3e3"]).images.gray_range == (value, 3000)
    with pytest.raises(InputError, match="expected at least one argument"):
        cli.parse(["--gray-range", "-1e", "3"])


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_the_seed_of_splits_has_the_bounds_of_the_other(seed):
    rules = []
    for flag in ("--seed", "--split-seed"):
        with pytest.raises(InputError, match=f"^{flag} ") as error:
            cli.parse([flag, seed])
        rules.append(str(error.value).removeprefix(flag))
    assert rules[0] == rules[1]

import csv
import itertools

import numpy as np
import pytest
import timm
import torch

from analysis.benchmarks import backbones, channels, loading, other_loaders, probes, start, step
from analysis.benchmarks.bare import passes, peak_mb
from analysis.benchmarks.timm_families import FAMILIES
from effssl.cli import parse
from tests.conftest import QUICK


@pytest.mark.slow
def test_throughput_compares_loaders_by_turns(digits_dir, tmp_path, capsys):
    sets = [
        "--set",
        "16",
        "digits",
        str(digits_dir),
        "--views",
        "2",
        "--images",
        "4",
        "--loaders",
        "torchvision",
    ]
    assert (
        loading.main(
            [*sets, "--rounds", "2", "--turn-s", "0", "--device", "cpu", "--out", str(tmp_path)]
        )
        == 0
    )
    with (tmp_path / "throughput.csv").open() as file:
        rows = {(r["views"], r["augmentations"], r["loader"]): r for r in csv.DictReader(file)}
    both = ("effssl", "torchvision")
    assert set(rows) == {("0", "crops", "effssl"), *itertools.product("2", ("crops", "all"), both)}
    for row in rows.values():
        assert 0 < float(row["lowest"]) <= float(row["images_per_s"]) <= float(row["highest"])
        assert (row["loader"] == "effssl") == (float(row["effssl_over_it"]) == 1)
    assert rows["0", "crops", "effssl"]["images"] == "1437"
    assert "K = 2" in capsys.readouterr().out
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "flags", [["--set", "a", "digits", "."], ["--set", "8", "folder", "."], ["--rounds", "0"]]
)
def test_throughput_says_what_it_cannot_do(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = loading.main(["--set", "8", "folder", str(tmp_path), *flags])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ffcv_compiles_once_what_is_the_same_in_all_pipelines():
    from ffcv.pipeline.compiler import Compiler

    def scaling(by):
        def scaled(x):
            return x * by.sum()

        return scaled

    with other_loaders.each_compiled_once():
        first, again, other = (
            Compiler.compile(scaling(np.array([2.0, x]))) for x in (1.0, 1.0, 3.0)
        )
    assert again is first
    assert (first(2.0), other(2.0)) == (6.0, 10.0)


@pytest.mark.slow
def test_probe_cost_compares_equals(finished, tmp_path):
    assert probes.main([str(finished), "--out", str(tmp_path), "--repeats", "1"]) == 0
    lines = [
        line.split("|")
        for line in (tmp_path / "summary.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    rows = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines}
    assert set(rows) >= {"effssl", "scikit-learn", "scikit-learn, warm"}
    for way in ("effssl", "scikit-learn, warm"):
        validation, test = map(float, rows[way][-2:])
        # Of 142 and 360 images by an encoder of five steps: another penalty can win by one image.
        assert abs(validation - float(rows["scikit-learn"][-2])) < 5
        assert abs(test - float(rows["scikit-learn"][-1])) < 5


def test_probe_cost_of_no_run_is_one_line(tmp_path, capsys):
    assert probes.main([str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("family", "side"), [("resnet", 1), ("vision_transformer", 16), ("convnext", 4)]
)
def test_the_step_of_a_family_is_that_of_the_sizes_it_takes(family, side):
    assert backbones.step_of(FAMILIES[family]) == side


def test_families_are_listed_by_the_sizes_that_work():
    text = backbones.summary(
        {"resnet": 1, "eva": 14, "byoanet": None},
        {"resnet": [32, 64], "eva": [32, 64], "byoanet": []},
    )
    assert "| any | 1 | resnet |" in text
    assert "| multiples of 14 px | 1 | eva |" in text
    assert "| few | 1 | byoanet** |" in text
    assert "| byoanet | halonet26t | 256 |" in text
    assert "; torch " in text and f"timm {timm.__version__}" in text


def test_the_peak_of_memory_is_that_of_what_is_there_at_once():
    def work():
        for _ in range(3):
            torch.ones(1_000_000)
        both = torch.ones(1_000_000), torch.ones(500_000)
        return both

    assert peak_mb(work, "cpu") == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("sizes", [[], ["--small-views", "2", "--small-size", "8"]])
def test_the_bare_backbone_is_a_part_of_a_step(digits_dir, sizes):
    cfg = parse([*QUICK, *sizes, "--data-dir", str(digits_dir)])
    (ms,) = step.measure({"a": cfg}, rounds=3, threads=1, bare=True).values()
    bare, whole = step.memory_mb(cfg)
    assert set(ms) == {*step.PARTS, step.BARE} and 0 < bare < 2 * whole
    assert float(step.shown(ms)["part of a step"]) > 0
    row = step.shown_memory(bare, whole)
    assert float(row["times"]) == pytest.approx(whole / bare, abs=0.01)
    steps = next(passes(cfg))
    assert len(steps) == 1 and steps[0] > 0


def test_a_start_without_images_is_one_line(tmp_path, capfd):
    flags = ["--data-dir", str(tmp_path / "none"), "--", "--data", "folder"]
    with pytest.raises(SystemExit) as ended:
        start.main(flags)
    said = capfd.readouterr().err
    assert ended.value.code == 2 and said.count("error: ") == 1 and "Traceback" not in said


def test_a_starts_parts_add_up_to_all():
    ends = {part: [1.0 + i, 2.0 + i] for i, part in enumerate(start.PARTS)} | {"numba": [3, 0.5]}
    row = start.shown([ends] * 3)
    assert row["to the first step"] == "4.0 (5.0)" and row[start.PARTS[1]] == "1.0 (1.0)"
    assert row["of these numba"] == "3 functions, 0.5 s"


def test_channels_are_timed_beside_rgb(capsys, monkeypatch):
    # Each is compiled by itself, which takes seconds.
    monkeypatch.setattr(channels, "KINDS", [(3, "uint8"), (1, "uint16"), (5, "float32")])
    flags = ["--size", "16", "--views", "2", "--images", "2", "--rounds", "2", "--workers", "1"]
    assert channels.main(flags) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 and rows[2].endswith(" 1.00 |")

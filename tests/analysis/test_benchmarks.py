import csv
import itertools

import pytest
import timm

from analysis.benchmarks import backbones, loading, probes
from analysis.benchmarks.timm_families import FAMILIES


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
    ("family", "step"), [("resnet", 1), ("vision_transformer", 16), ("convnext", 4)]
)
def test_the_step_of_a_family_is_that_of_the_sizes_it_takes(family, step):
    assert backbones.step_of(FAMILIES[family]) == step


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

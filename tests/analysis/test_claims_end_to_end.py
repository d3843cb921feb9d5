"""The four commands of the claims as they train; minutes in all."""

import csv
import json
import os
import time
from pathlib import Path

import pytest
import torch

from analysis import projector, subset, views, wallclock
from analysis.benchmarks import step
from analysis.harness import recipes, training
from analysis.harness.recipes import Recipe
from effssl import cli
from effssl.run.log import read_metrics
from tests.analysis.made_runs import NO_RECORDS, TINY, scale_of, trained_here

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("empty_pictures")]


def test_a_script_that_is_interrupted_goes_on_and_ends(digits_dir, tmp_path, monkeypatch, capfd):
    flags = [*on(tmp_path, digits_dir, "--views", "2"), "--epochs", "15"]
    run, sleep = tmp_path / "bt_k2_d16_f1_e15_s0", time.sleep

    def until_it_trains(seconds: float) -> None:
        sleep(seconds)
        if len(read_metrics(run)) > 1:  # a probe, and the first steps
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.time, "sleep", until_it_trains)
        assert views.main(flags) == 130
    assert "interrupted; the same command goes on" in capfd.readouterr().err
    before = read_metrics(run)
    assert len(before) > 1 and not (run / "result.json").exists()
    assert views.main(flags) == 0
    said = capfd.readouterr()
    assert "1 of 1 runs are finished" in said.out and "1 of 1 runs: 100%" in said.err
    assert read_metrics(run)[: len(before)] == before
    # There is no K = 4 or 8 to judge.
    assert "not measured yet" in (tmp_path / "views" / "summary.md").read_text()


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """Return the folder of runs that the four commands share."""
    folder = tmp_path_factory.mktemp("claims") / "runs"
    with trained_here():
        assert views.main(on(folder, digits_dir, "--views", "2", "4")) == 0
        yield folder


def on(runs: Path, data_dir: Path, *flags: str) -> list[str]:
    return [
        *NO_RECORDS,
        "--runs",
        str(runs),
        "--data-dir",
        str(data_dir),
        "--seeds",
        "1",
        *flags,
        "--",
        *TINY,
    ]


def test_views_end_to_end(trained):
    rows = list(csv.DictReader((trained / "views" / "runs.csv").open()))
    assert [(r["views"], r["epochs"]) for r in rows] == [("2", "1"), ("2", "2"), ("4", "1")]
    steps = [int(r["steps"]) for r in rows]
    assert steps[1] == 2 * steps[0] == 2 * steps[2]
    assert len({int(r["encoded_views"]) for r in rows[1:]}) == 1


def test_subset_end_to_end(trained, digits_dir):
    shared = trained / "bt_k2_d16_f1_e2_s0" / "result.json"
    before = shared.stat().st_mtime_ns
    assert subset.main(on(trained, digits_dir, "--views", "2", "4", "--parts", "0.5", "1")) == 0
    assert shared.stat().st_mtime_ns == before
    rows = {r["name"]: r for r in csv.DictReader((trained / "subset" / "runs.csv").open())}
    assert set(rows) == {
        f"bt_k{k}_d16_f{f}_e{e}_s0"
        for k, f, e in ((2, "1", 2), (4, "1", 1), (2, "0.5", 4), (4, "0.5", 2))
    }
    half = trained / "bt_k4_d16_f0.5_e2_s0"
    assert json.loads((half / "linear_all_labels.json").read_text())["linear"] == float(
        rows[half.name]["linear"]
    )
    # On the labels of its own part it is what the run found while training; on all of a whole run
    # too.
    assert subset.on_all_labels(half, 0.2) == float(rows[half.name]["linear_own"])
    whole = "bt_k2_d16_f1_e2_s0"
    assert subset.on_all_labels(trained / whole, 0.4) == float(rows[whole]["linear"])


def test_projector_end_to_end(trained, digits_dir):
    assert projector.main(on(trained, digits_dir, "--widths", "8", "16")) == 0
    rows = list(csv.DictReader((trained / "projector" / "runs.csv").open()))
    assert [(r["dim"], float(r["weight"])) for r in rows] == [
        ("8", 3.4 / 16),
        ("8", 3.4 / 8),
        ("16", 3.4 / 16),
    ]


def test_wallclock_end_to_end(trained, digits_dir):
    flags = ["--wide", "24", "--rates", "1", "--weights", "1"]
    assert wallclock.main(on(trained, digits_dir, *flags)) == 0
    steps = {r["recipe"]: r for r in csv.DictReader((trained / "wallclock" / "steps.csv").open())}
    assert list(steps) == [
        "K = 2, d = 24",
        "K = 4, d = 16",
        "K = 2, d = 16",
        "K = 4, d = 24",
    ]
    assert all(float(r[part]) > 0 for r in steps.values() for part in step.PARTS)
    rows = {r["name"]: r for r in csv.DictReader((trained / "wallclock" / "runs.csv").open())}
    assert len(rows) == 9
    row = rows["bt_k4_d16_f1_e2_s0"]
    (tuned,) = [r for r in rows.values() if r["recipe"] == "baseline, tuned: K = 2, d = 24"]
    assert tuned["name"] == "bt_k2_d24_f1_e4_s0"
    tried = list(csv.DictReader((trained / "wallclock" / "trials.csv").open()))
    assert {(r["views"], r["seed"], r["split_seed"]) for r in tried} == {
        ("2", "1000", "1000"),
        ("4", "1000", "1000"),
    }
    ms = sum(float(steps["K = 4, d = 16"][part]) for part in step.PARTS)
    assert float(row["seconds_by_steps"]) == pytest.approx(int(row["steps"]) * ms / 1000, abs=0.01)
    kept = (trained / "step_cost_barlow_twins.json").read_text()
    assert wallclock.main(on(trained, digits_dir, *flags)) == 0  # nothing is measured again
    assert (trained / "step_cost_barlow_twins.json").read_text() == kept


def test_other_settings_under_the_same_name_are_refused(trained, digits_dir, capsys):
    assert views.main([*on(trained, digits_dir, "--views", "2", "4"), "--lr", "0.5"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "holds a run with other settings (lr 0.003 -> 0.5)" in said


def test_no_time_at_all_trains_nothing(trained, digits_dir, capsys):
    assert (
        views.main([*on(trained, digits_dir, "--views", "2", "--seconds", "0"), "--epochs", "3"])
        == 0
    )
    assert "0 of 1 runs are finished" in capsys.readouterr().out


def test_large_checkpoints_of_finished_runs_are_removed(trained, digits_dir):
    name = "bt_k2_d16_f1_e1_s0"
    flags = recipes.runs_of(
        scale_of("--data-dir", str(digits_dir), "--seeds", "1", "--", *TINY), [Recipe(2, 16, 1)]
    )[name]
    size = (trained / name / "checkpoint.pt").stat().st_size / 1e6
    training.remove_large_checkpoint(trained / name, size * 1.1)
    assert (trained / name / "checkpoint.pt").exists()
    training.remove_large_checkpoint(trained / name, size * 0.9)
    assert not (trained / name / "checkpoint.pt").exists()
    assert training.complete({name: flags}, trained) == [name]


def test_parts_of_a_step_add_up_and_it_trains(digits_dir):
    cfg = cli.parse([*TINY, "--data-dir", str(digits_dir), "--views", "2"])
    began = time.monotonic()
    found = step.measure({"a": cfg, "b": cfg}, rounds=6, threads=1)
    whole_ms = 1000 * (time.monotonic() - began)
    assert set(found) == {"a", "b"}
    for parts in found.values():
        assert set(parts) == set(step.PARTS) and all(ms > 0 for ms in parts.values())
        assert sum(parts.values()) * 6 < whole_ms
    assert torch.get_num_threads() == int(
        os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    )

"""Where numbers go beside metrics.jsonl: in files, and in the packages' own offline modes."""

from __future__ import annotations

import csv
import sys

import pytest

from effssl import InputError, cli
from effssl.run import trackers
from effssl.run.log import RunLog, read_metrics
from effssl.train import loop as train
from tests.conftest import QUICK

START = {"step": 0, "epoch": 0.0, "seconds": 0.0, "encoded_views": 0}


def rows(file):
    return list(csv.DictReader(file.open()))


def test_csv_has_a_row_a_record_and_takes_new_columns(tmp_path):
    log = trackers.Csv(tmp_path, {})
    log.log("train", {"loss": 1.5}, 1)
    log.log("probe", {"knn": 0.5}, 1)
    log.log("train", {"loss": 1.25}, 2)
    log.log("train", {"loss": 1.0, "skipped": 3}, 3)
    assert [(r["step"], r["loss"], r["skipped"]) for r in rows(tmp_path / "train.csv")] == [
        ("1", "1.5", ""),
        ("2", "1.25", ""),
        ("3", "1.0", "3"),
    ]
    assert rows(tmp_path / "probe.csv") == [{"step": "1", "knn": "0.5"}]
    again = trackers.Csv(tmp_path, {})  # a run that goes on from step 1
    again.log("train", {"loss": 9.0, "skipped": 0}, 2)
    assert [r["loss"] for r in rows(tmp_path / "train.csv")] == ["1.5", "9.0"]


def test_a_tracker_that_fails_is_told_of_and_left_out(tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise RuntimeError("the server\nis gone")

    log = RunLog(tmp_path, start=START, total_steps=2, log_to=("csv",))
    monkeypatch.setattr(trackers.Csv, "log", fail)
    for step in (1, 2):
        axes = {"step": step, "epoch": 0.1, "seconds": 1.0 * step, "encoded_views": 10 * step}
        log.train(axes | {"loss": 1.0})
    log.close()
    said = capsys.readouterr().out
    assert said.count("--log-to csv failed and is left out: the server is gone") == 1
    assert len(read_metrics(tmp_path)) == 2


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    trackers.check_trackers(("csv",))
    with pytest.raises(InputError, match=r"--log-to wandb needs its package: pip install -e"):
        trackers.check_trackers(("csv", "wandb"))


def trained(digits_dir, out, *more):
    flags = [*QUICK, "--data-dir", digits_dir, "--out", out, "--final-images", 0, *more]
    assert train.main(cli.parse([*map(str, flags)])) == 0
    return [r for r in read_metrics(out) if r["kind"] == "train"]


@pytest.mark.slow
def test_a_run_and_one_that_went_on_have_the_same_csv(digits_dir, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    records = trained(digits_dir, whole, "--epochs", 2, "--log-to", "csv")
    trained(digits_dir, halves, "--epochs", 2, "--log-to", "csv", "--max-seconds", "1e-6")
    assert train.main(cli.parse(["--resume", str(halves), "--max-seconds", "1000"])) == 0
    for run in (whole, halves):
        assert [float(r["loss"]) for r in rows(run / "train.csv")] == [r["loss"] for r in records]
        assert len(rows(run / "probe.csv")) >= 2


@pytest.mark.slow
def test_wandb_keeps_a_run_offline_in_its_folder(digits_dir, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc there
    records = trained(digits_dir, tmp_path / "run", "--epochs", 1, "--log-to", "wandb")
    (file,) = (tmp_path / "run").rglob("*.wandb")
    kept = file.read_bytes()
    assert b"train/loss" in kept and b"probe/linear" in kept and b"proj_dim" in kept
    assert f"{records[-1]['loss']}"[:8].encode() in kept


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_a_file_and_goes_on_in_it(digits_dir, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "run"
    trained(digits_dir, out, "--epochs", 2, "--log-to", "mlflow", "--max-seconds", "1e-6")
    assert train.main(cli.parse(["--resume", str(out), "--max-seconds", "1000"])) == 0
    records = [r for r in read_metrics(out) if r["kind"] == "train"]
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "effssl"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["proj_dim"] == "16"
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "train/loss")}
    assert history == {r["step"]: r["loss"] for r in records}

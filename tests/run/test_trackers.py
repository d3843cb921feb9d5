"""Where numbers go beside metrics.jsonl: in files, and in the packages' own offline modes."""

from __future__ import annotations

import csv
import importlib.util
import sys

import pytest

from effssl import InputError, cli
from effssl.run import trackers
from effssl.run.log import RunLog, read_metrics
from effssl.train import loop as train
from tests.conftest import QUICK, dots_for_pictures

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


def test_a_tracker_that_cannot_be_opened_is_told_of_and_left_out(tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise ConnectionError("the server\nis down")

    monkeypatch.setattr(trackers.Csv, "__init__", fail)
    log = RunLog(tmp_path, start=START, total_steps=1, log_to=("csv",))
    log.train({"step": 1, "epoch": 0.1, "seconds": 1.0, "encoded_views": 10, "loss": 1.0})
    log.close()
    said = capsys.readouterr().out
    assert said.count("--log-to csv failed and is left out: the server is down") == 1
    assert len(read_metrics(tmp_path)) == 1 and not (tmp_path / "train.csv").exists()


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    trackers.check_trackers(("csv",))
    with pytest.raises(InputError, match=r"--log-to wandb needs its package: pip install -e"):
        trackers.check_trackers(("csv", "wandb"))


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    """A run of two epochs that was stopped and went on, kept by every tracker that is installed."""
    out = tmp_path_factory.mktemp("trackers") / "run"
    names = [n for n in ("csv", "wandb", "mlflow") if importlib.util.find_spec(n)]
    flags = [*QUICK, "--data-dir", digits_dir, "--out", out, "--final-images", 0, "--epochs", 2]
    with dots_for_pictures(), pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(out.parent))  # no netrc there
        flags += ["--max-seconds", "1e-6", "--log-to", *names]
        assert train.main(cli.parse([*map(str, flags)])) == 0
        assert train.main(cli.parse(["--resume", str(out), "--max-seconds", "1000"])) == 0
    return out


def records_of(run, kind):
    return [r for r in read_metrics(run) if r["kind"] == kind]


@pytest.mark.slow
def test_the_csv_has_what_the_log_has(run):
    for kind, name in (("train", "loss"), ("probe", "linear")):
        kept = {int(r["step"]): float(r[name]) for r in rows(run / f"{kind}.csv")}
        assert kept == {r["step"]: r[name] for r in records_of(run, kind)}
        assert len(kept) >= 2


@pytest.mark.slow
def test_wandb_keeps_a_run_offline_in_its_folder_and_goes_on_in_it(run):
    pytest.importorskip("wandb")
    files = sorted((run / "wandb").rglob("*.wandb"), key=lambda file: file.stat().st_mtime)
    assert len(files) == 2  # the stopped part and the rest
    assert {file.stem for file in files} == {f"run-{(run / 'wandb-id').read_text()}"}
    kept = files[-1].read_bytes()
    assert all(name in kept for name in (b"train/loss", b"probe/linear", b"proj_dim"))
    assert str(records_of(run, "train")[-1]["loss"])[:8].encode() in kept


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_a_file_and_goes_on_in_it(run):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "effssl"]
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED" and kept.data.params["proj_dim"] == "16"
    history = {m.step: m.value for m in client.get_metric_history(kept.info.run_id, "train/loss")}
    assert history == {r["step"]: r["loss"] for r in records_of(run, "train")}

import math
import os
import subprocess
import time
import types

import pytest

from analysis.harness import training
from analysis.harness.runs import changed
from effssl import InputError, cli
from effssl.config import flat
from effssl.run.log import read_metrics

TINY = [
    *(
        "--data",
        "digits",
        "--image-size",
        "8",
        "--fraction",
        "0.2",
        "--epochs",
        "1",
        "--precision",
        "fp32",
    ),
    *(
        "--backbone-kwargs",
        "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}",
        "--probe-every",
        "0",
    ),
]


def test_a_run_with_other_settings_is_not_taken_for_the_one_asked_for(digits_dir, tmp_path):
    flags = [*TINY, "--data-dir", str(digits_dir)]
    (tmp_path / "one").mkdir()
    other = cli.parse([*flags, "--lr", "0.5"])
    (tmp_path / "one" / "config.yaml").write_text(cli.dump(other))
    with pytest.raises(InputError, match=r"one holds a run with other settings.*lr 0.5 -> "):
        training.complete({"one": flags}, tmp_path)


@pytest.mark.parametrize("flag", [None, "--norm-by-view", "--probe-images 9", "--normalize auto"])
def test_a_record_has_the_defaults_of_settings_that_were_added_since(flag, digits_dir, tmp_path):
    flags = [*TINY, "--data-dir", str(digits_dir)]
    added = {"norm_by_view", "probe_images", "normalize"}
    was = {name: value for name, value in flat(cli.parse(flags)).items() if name not in added}
    known = {"one": {"name": "one", "config": was, "result": {}}}
    asked = {"one": [*flags, *(flag or "").split()]}
    found = training.complete(asked, tmp_path, records=known, seconds=0)
    assert found == (["one"] if flag is None else [])


@pytest.mark.parametrize("flags", ["--on-collapse stop", "--stop-when-flat 3", "--probe-images 9"])
def test_a_run_whose_figures_are_of_something_else_is_another(flags):
    was, now = (flat(cli.parse([*TINY, *more])) for more in ([], flags.split()))
    assert len(changed(was, now)) == 1


def test_a_failing_run_is_named_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(r"print('1\n2\n3\nno image'); raise SystemExit(2)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    trainers = {"bad": training.Trainer("failing", resumes=False)}
    with pytest.raises(training.RunFailed, match=r"bad failed: 2 \| 3 \| no image$"):
        training.complete({"bad": []}, tmp_path, trainers=trainers)


def test_a_run_that_diverges_ends_no_other_and_is_not_tried_again(tmp_path, monkeypatch, capsys):
    begun = []

    def start(run, *_):
        begun.append(run.name)
        (tmp_path / f"{run.name}.log").write_text("the loss is nan\n")
        if run.name != "b":
            run.mkdir()
            (run / "result.json").write_text("{}")
        return subprocess.Popen(["false" if run.name == "b" else "true"])

    monkeypatch.setattr(training, "start_process", start)
    monkeypatch.setattr(training, "DIVERGED", 1)
    for _ in range(2):
        assert training.complete({"a": [], "b": [], "c": []}, tmp_path, parallel=3) == ["a", "c"]
        assert f"{tmp_path / 'b'} diverged and is left out; remove" in capsys.readouterr().out
    assert begun == ["a", "b", "c"]
    assert training.diverged(tmp_path / "b")
    assert (tmp_path / "b.diverged").read_text().endswith("b failed: the loss is nan\n")


def test_a_run_that_another_script_finishes_meanwhile_is_not_begun_again(
    digits_dir, tmp_path, monkeypatch
):
    begun = []

    def start(run, *_):
        begun.append(run.name)
        for name in ("a", "b"):  # b is the other script's
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "result.json").write_text("{}")
        return subprocess.Popen(["true"])

    monkeypatch.setattr(training, "start_process", start)
    flags = [*TINY, "--data-dir", str(digits_dir)]
    assert training.complete({"a": flags, "b": flags}, tmp_path, parallel=1) == ["a", "b"]
    assert begun == ["a"]


@pytest.mark.slow
def test_runs_stopped_by_the_clock_go_on_at_the_next_call(digits_dir, tmp_path, monkeypatch):
    flags = {
        "long": [*TINY, "--data-dir", str(digits_dir), "--epochs", "4000", "--final-images", "0"]
    }
    seen = 0

    def until_it_has_trained() -> float:  # a busy machine takes long to begin
        return math.inf if len(read_metrics(tmp_path / "long")) > seen + 1 else 0.0

    clock = types.SimpleNamespace(monotonic=until_it_has_trained, sleep=time.sleep)
    monkeypatch.setattr(training, "time", clock)
    logs = []
    for calls in (1, 2):
        assert training.complete(flags, tmp_path, seconds=1) == []
        logs.append((tmp_path / "long.log").read_text())
        assert logs[-1].count("stopped at step") == calls and "Traceback" not in logs[-1]
        seen = len(read_metrics(tmp_path / "long"))
    assert logs[1].startswith(logs[0])


def test_a_trainer_of_the_checkout_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    trainer = training.Trainer("analysis.peers", resumes=False)
    process = training.start_process(tmp_path / "run", [], 0, 1, trainer)
    assert process.wait() != 0
    # A package without a main part: it was found, which is what is asked here.
    assert "analysis.peers.__main__" in (tmp_path / "run.log").read_text()


def test_runs_share_the_cores_that_this_process_may_use(digits_dir, tmp_path, monkeypatch):
    slots = []

    def start(run, flags, slot, of, trainer):
        slots.append(of)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(training, "start_process", start)
    monkeypatch.setattr(training.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    training.complete({"one": [*TINY, "--data-dir", str(digits_dir)]}, tmp_path)
    assert slots == [3]
    assert [training.threads_each(parallel) for parallel in (None, 1, 2)] == [1, 3, 1]

"""Training that starts from weights: what it keeps of them, freezes, and compares itself with."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from effssl import InputError, cli
from effssl.evaluate import run as evaluate
from effssl.models import load_backbone
from effssl.run.log import read_metrics
from effssl.train import loop as train
from effssl.train.job import build_job
from tests.conftest import QUICK, WITH_TABLE

pytestmark = pytest.mark.slow


def flags_of(digits_dir, out, *more):
    return [*map(str, [*QUICK, "--data-dir", digits_dir, "--out", out, *more])]


def test_a_run_that_starts_from_another_keeps_its_start_as_a_row(
    digits_dir, finished, tmp_path, capsys
):
    run = tmp_path / "run"
    flags = flags_of(digits_dir, run, "--init", finished, "--epochs", 1, *WITH_TABLE)
    assert train.main(cli.parse(flags)) == 0
    said = capsys.readouterr().out
    assert f"--init {finished}: the backbone's weights, all" in said
    assert "the projector is the run's" in said
    begun, given = (load_backbone(f)[0].state_dict() for f in (run / "start.safetensors", finished))
    assert all(torch.equal(v, given[k]) for k, v in begun.items())
    rows = json.loads((run / "result.json").read_text())["final"]["rows"]
    assert list(rows) == ["trained", "start", "untrained", "pixels"]
    assert len({row["linear"] for row in rows.values()}) > 2
    assert f"init: {finished.resolve()}" in (run / "config.yaml").read_text()
    assert evaluate.main(cli.parse_evaluation([str(run), "--num-averaged-views", "0"])) == 0
    judged = json.loads((run / "evaluation.json").read_text())["rows"]
    assert list(judged) == ["trained", "start", "untrained"]
    ranks = rows["start"]["effective_rank"], rows["trained"]["effective_rank"]
    assert judged["start"]["h/effective_rank"] == pytest.approx(ranks[0]) != ranks[1]


def test_it_goes_on_after_what_it_started_from_is_gone(digits_dir, finished, tmp_path):
    copy, run = tmp_path / "copy.safetensors", tmp_path / "run"
    copy.write_bytes((finished / "backbone.safetensors").read_bytes())
    flags = flags_of(digits_dir, run, "--init", f"mine={copy}", "--epochs", 2, *WITH_TABLE)
    assert train.main(cli.parse([*flags, "--max-seconds", "1e-6"])) == 0
    copy.unlink()
    assert train.main(cli.parse(["--resume", str(run), "--max-seconds", "1000"])) == 0
    rows = json.loads((run / "result.json").read_text())["final"]["rows"]
    assert "start" in rows


def test_frozen_weights_stay_and_batch_norms_statistics_follow(digits_dir, finished, tmp_path):
    flags = ["--init", finished, "--freeze-epochs", 1, "--epochs", 2, "--final-images", 0]
    job = build_job(cli.parse(flags_of(digits_dir, tmp_path / "run", *flags)))
    given, _ = load_backbone(finished)
    seen = []

    def note(step):
        moved = {
            k: not torch.equal(v, given.state_dict()[k])
            for k, v in job.encoder.backbone.state_dict().items()
        }
        weights = [name for name, _ in given.named_parameters()]
        averages = [k for k in moved if k.endswith("running_mean")]
        seen.append((any(moved[k] for k in weights), any(moved[k] for k in averages)))
        return schedule(step)

    schedule, job.schedule = job.schedule, note
    before = job.encoder.projector[0].weight.clone()
    assert train.train(job) == 0
    assert seen[0] == (False, False)
    # The rate is asked for before a step, and again for the log after it.
    assert set(seen[2:10]) == {(False, True)} and set(seen[-4:]) == {(True, True)}
    assert not torch.equal(before, job.encoder.projector[0].weight)


def moved(digits_dir, finished, out, *more) -> tuple[float, list]:
    """Train from a finished run; returns how far the backbone went, and the training's records."""
    flags = flags_of(digits_dir, out, "--init", finished, "--final-images", 0, *more)
    assert train.main(cli.parse(flags)) == 0
    before, after = (dict(load_backbone(r)[0].named_parameters()) for r in (finished, out))
    squares = sum(float((after[k] - before[k]).detach().square().sum()) for k in before)
    return squares, [r for r in read_metrics(out) if r["kind"] == "train"]


@pytest.mark.parametrize("fisher", ["ssl", "none"])
def test_what_is_kept_moves_less(digits_dir, finished, tmp_path, fisher):
    keep = ["--keep", 1000, "--keep-fisher", fisher]
    freely, free = moved(digits_dir, finished, tmp_path / "free", "--epochs", 2)
    hardly, kept = moved(digits_dir, finished, tmp_path / "kept", "--epochs", 2, *keep)
    assert hardly < 0.5 * freely
    assert "loss/keep" not in free[0]
    assert kept[0]["loss/keep"] == 0  # and nothing else has moved before the first step
    assert kept[0]["loss"] == free[0]["loss"]
    last = kept[-1]
    assert last["loss/keep"] > 0 and 1000 * last["loss/keep"] < last["loss"]
    assert (tmp_path / "kept" / "fisher.safetensors").is_file() == (fisher == "ssl")


def test_with_information_the_distance_is_weighed_by_it(digits_dir, finished, tmp_path):
    flags = ["--epochs", 1, "--keep", 0.1, "--freeze-epochs", 0]
    _, records = moved(digits_dir, finished, tmp_path / "run", *flags)
    fisher = load_file(tmp_path / "run" / "fisher.safetensors")
    numbers = torch.cat([f.flatten() for f in fisher.values()])
    assert numbers.mean() == pytest.approx(1, rel=1e-3) and numbers.min() >= 0
    assert numbers.std() > 1
    assert records[-1]["loss/keep"] > 0


def test_a_run_that_keeps_its_start_ends_the_same_if_it_was_stopped(digits_dir, finished, tmp_path):
    flags = ["--init", finished, "--keep", 1, "--freeze-epochs", 1, "--epochs", 2]
    flags += ["--final-images", 0]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main(cli.parse(flags_of(digits_dir, whole, *flags))) == 0
    for seconds in ("1e-6", "0.5", "1000"):
        argv = (
            ["--resume", str(halves)] if halves.exists() else flags_of(digits_dir, halves, *flags)
        )
        assert train.main(cli.parse([*argv, "--max-seconds", seconds])) == 0
    ends = [(run / "backbone.safetensors").read_bytes() for run in (whole, halves)]
    assert ends[0] == ends[1]


def test_a_run_that_died_before_its_start_was_kept_begins_again(
    digits_dir, finished, tmp_path, monkeypatch
):
    def full(job):
        raise InputError("the disk is full")

    flags = ["--init", finished, "--keep", 1, "--epochs", 1, "--probe-every", 0]
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_start", full)
        assert train.main(cli.parse(flags_of(digits_dir, tmp_path / "run", *flags))) == 2
    assert train.main(cli.parse(["--resume", str(tmp_path / "run")])) == 0


def test_there_is_nothing_to_keep_without_a_start():
    with pytest.raises(InputError, match="--keep: there is nothing to keep without --init"):
        cli.parse(["--keep", "1"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("timm", "timm"),
        ("runs/lr=1", "runs/lr=1"),
        ("./lr=1", "./lr=1"),
        ("resnet18=a/b.pth", "resnet18=a/b.pth"),
    ],
)
def test_what_training_starts_from_is_read_as_a_name_a_file_or_a_folder(
    given, kept, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    cfg = cli.parse(["--init", given])
    assert cfg.start.init == kept
    (tmp_path / "saved.yaml").write_text(cli.dump(cfg))
    again = cli.parse(["--config", str(tmp_path / "saved.yaml")]).start.init
    name, equals, path = kept.rpartition("=") if "b.pth" in kept else ("", "", kept)
    assert again == (kept if kept == "timm" else f"{name}{equals}{tmp_path.resolve() / path}")

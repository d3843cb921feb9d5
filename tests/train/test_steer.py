"""What the probes of a run say of it, and what is done about it."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from effssl import cli
from effssl.config import Loss
from effssl.models import load_backbone, save_backbone
from effssl.run import signals
from effssl.run.log import read_metrics
from effssl.train import loop as train
from effssl.train.probe import has_been_flat
from effssl.train.steer import UNLABELLED, state_of_probes
from effssl.train.steer import probes_of as steered
from tests.conftest import QUICK, write_class_folders

VARIED = {"h/variance_share": 0.5, "z/variance_share": 0.9, "z/std": 0.9}


def probes_of(*values, name="linear", **more):
    return [{"epoch": e, name: v} | VARIED | more for e, v in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "line", "is_best", "flat_for"),
    [
        ((0.3,), "linear is 0.3 before training", True, 0),
        ((0.3, 0.4), "still improving: linear 0.4, before 0.3", True, 0),
        ((0.3, 0.4, 0.35), "flat for 1 probe: the best linear is 0.4 at epoch 1", False, 1),
        ((0.3, 0.4, 0.401, 0.4015), "flat for 2 probes: the best linear is 0.4015", True, 2),
        ((0.3, 0.4, 0.35, 0.5), "still improving: linear 0.5, before 0.35", True, 0),
        ((0.4, 0.3, 0.3), "flat for 2 probes: the best linear is 0.4 at epoch 0", False, 2),
        ((0.3, 0.3015, 0.303, 0.3045), "flat for 1 probe", True, 1),  # slowly is improving too
    ],
)
def test_a_run_improves_or_is_flat(values, line, is_best, flat_for):
    state = state_of_probes(probes_of(*values))
    assert state.line.startswith(line)
    assert (state.is_best, state.flat_for, state.is_collapsed) == (is_best, flat_for, False)


def test_without_labels_the_measure_that_earned_it_judges():
    name, sign = UNLABELLED
    better, worse = (sorted((0.2, 0.4), reverse=sign < 0)[i] for i in (1, 0))
    assert state_of_probes(probes_of(worse, better, name=name)).is_best
    assert not state_of_probes(probes_of(better, worse, name=name)).is_best
    assert state_of_probes([{"epoch": 0, "something": 1.0}]) is None


def test_the_loss_is_that_of_the_last_record_since_the_probe_before():
    kinds = [("probe", 0), ("train", 1), ("train", 2), ("probe", 2), ("probe", 3)]
    metrics = [{"kind": kind, "step": step} for kind, step in kinds]
    for record in metrics:
        if record["kind"] == "train":
            record["loss"] = 10.0 * record["step"]
    assert [p.get("loss") for p in steered(metrics)] == [None, 20.0, None]
    assert "loss" not in metrics[3]


@pytest.mark.parametrize("at_most", [1, 7, None])
def test_each_probe_is_judged_by_its_own_loss_however_few_records_are_read(tmp_path, at_most):
    write_metrics(tmp_path, [20.0, 18.0, 16.0])
    probes = steered(read_metrics(tmp_path, at_most=at_most))
    assert [p.get("loss") for p in probes] == [None, 20.0, 18.0, 16.0]


@pytest.mark.parametrize(
    ("losses", "is_flat"),
    [((20, 18, 16, 14, 12), False), ((20, 18, 18, 18, 18), True), ((20, 18, 18, 18), False)],
)
def test_an_unlabelled_run_has_been_flat_only_if_it_was(tmp_path, losses, is_flat):
    write_metrics(tmp_path, losses)
    job = SimpleNamespace(out=tmp_path, cfg=cli.parse(["--stop-when-flat", "3"]))
    assert has_been_flat(job) == is_flat


def test_probes_closer_than_records_do_not_make_an_improving_run_flat():
    metrics = [{"kind": "probe", "epoch": 0}]
    for epoch in range(1, 13):
        metrics += [{"kind": "train", "loss": 40.0 - epoch}] * (epoch % 4 == 1)
        metrics.append({"kind": "probe", "epoch": epoch})
        state = state_of_probes(steered(metrics))
        assert state.flat_for == 0 and state.is_best == (epoch % 4 == 1)
    assert state.line == "still improving: loss 31, before 35"


def write_metrics(folder, losses):
    """Write a probe before training, and one after every 50 steps, the last of which has the
    loss."""
    rows = [{"kind": "probe", "step": 0, "epoch": 0}]
    for epoch, loss in enumerate(losses, 1):
        steps = range(50 * epoch - 49, 50 * epoch + 1)
        rows += [{"kind": "train", "step": s, "loss": loss + 50 * epoch - s} for s in steps]
        rows.append({"kind": "probe", "step": steps[-1], "epoch": epoch})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_only_what_was_measured_before_training_is_called_so():
    (before,), (after,) = probes_of(0.3), [{"epoch": 2, "loss": 5.0}]
    assert state_of_probes([before]).line == "linear is 0.3 before training"
    assert state_of_probes([{"epoch": 0}, after]).line == "loss is 5 at epoch 2"


def test_a_hundredth_of_the_loss_is_a_gain():
    lines = [state_of_probes(probes_of(*v, name="loss")).line for v in ((20, 19.85), (20, 19.75))]
    assert lines[0].startswith("flat for 1 probe") and lines[1].startswith("still improving: loss")


@pytest.mark.parametrize("letter", ["h", "z"])
def test_a_collapse_is_told_whatever_the_probe_says_but_not_before_training(letter):
    collapsed = probes_of(0.3, 0.4, **{f"{letter}/variance_share": 1e-4})
    state = state_of_probes(collapsed)
    assert state.is_collapsed and state.line.startswith("collapsing: the ")
    assert "1.0e-04 of their mean square" in state.line and "--lr" in state.line
    assert not state_of_probes(collapsed[:1]).is_collapsed


@pytest.mark.parametrize(
    ("method", "pairing", "weights"),
    [
        ("vicreg", "all", {"--var-weight", "--cov-weight"}),
        ("vicreg", "authors", {"--var-weight", "--cov-weight"}),
        ("barlow_twins", "pooled", {"--var-weight"}),
        ("barlow_twins", "authors", set()),
        ("simclr", "all", set()),
        ("entropy_reconstruction", "all", set()),
    ],
)
def test_a_collapse_is_answered_with_flags_that_the_loss_has(method, pairing, weights):
    collapsed = probes_of(0.3, 0.4, **{"h/variance_share": 1e-4})
    state = state_of_probes(collapsed, Loss(method=method, pairing=pairing))
    assert {*re.findall("--[a-z-]+", state.line)} == {"--lr"} | weights


@pytest.mark.parametrize(
    ("method", "stds", "is_collapsed"),
    [
        ("vicreg", (0.02, 0.02), True),
        ("vicreg", (0.5, 0.05), True),
        ("vicreg", (0.02, 0.05), False),  # it grows
        ("vicreg", (0.2, 0.2), False),
        ("barlow_twins", (0.02, 0.02), False),  # no scale is asked for
    ],
)
def test_embeddings_that_shrink_are_told_where_the_loss_asks_for_more(method, stds, is_collapsed):
    given = zip(probes_of(0.3, 0.35, 0.4), (0.01, *stds), strict=True)
    probes = [probe | {"z/std": std} for probe, std in given]
    loss = Loss(method=method)
    assert not state_of_probes(probes[:2], loss).is_collapsed  # too early to say
    state = state_of_probes(probes, loss)
    assert state.is_collapsed == is_collapsed
    assert state.line.startswith("collapsing: the embeddings z shrink") == is_collapsed


def flags_of(out, *more):
    return [*map(str, [*QUICK, "--out", out, "--final-images", 0, *more])]


def lines_of_probes(out, said):
    return [line for line in said.splitlines() if line.startswith(("collapsing", "still", "flat"))]


PLANTED = {
    "rate": ["--optimizer", "sgd", "--lr", "30", "--warmup-epochs", "0"],
    "weights": ["--var-weight", "0", "--cov-weight", "0", "--lr", "1e-2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED)
def test_planted_collapses_are_recognised_within_two_probes(digits_dir, tmp_path, capsys, planted):
    flags = ["--data-dir", digits_dir, "--epochs", 8, "--probe-every", 4, *PLANTED[planted]]
    code = train.main(cli.parse(flags_of(tmp_path / "run", *flags, "--on-collapse", "stop")))
    said = capsys.readouterr()
    assert code == signals.DIVERGED
    assert "collapsing: the" in said.err or "is not finite" in said.err or "loss is" in said.err
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_images_that_are_all_alike_are_a_collapse(tmp_path, capsys):
    root = write_class_folders(tmp_path / "set", per_class=40, classes=2)
    first = next(root.rglob("*.png")).read_bytes()
    for path in root.rglob("*.png"):
        path.write_bytes(first)
    flags = ["--data", "folder", "--data-dir", root, "--batch-size", 16, "--probe-every", 1]
    flags += ["--epochs", 2]
    assert train.main(cli.parse(flags_of(tmp_path / "run", *flags))) == 0
    lines = lines_of_probes(tmp_path / "run", capsys.readouterr().out)
    assert lines and all(line.startswith("collapsing: the representations h") for line in lines)


@pytest.mark.slow
def test_an_ordinary_run_is_no_collapse_and_keeps_its_best(digits_dir, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--data-dir", digits_dir, "--epochs", 4, "--probe-every", 1]
    assert train.main(cli.parse(flags_of(out, *flags, "--on-collapse", "stop"))) == 0
    lines = lines_of_probes(out, capsys.readouterr().out)
    assert len(lines) == 4 and not any(line.startswith("collapsing") for line in lines)
    probes = [r for r in read_metrics(out) if r["kind"] == "probe"]
    best = max(range(len(probes)), key=lambda i: probes[i]["linear"])
    same = [
        torch.equal(v, load_backbone(out)[0].state_dict()[k])
        for k, v in load_backbone(out / "backbone-best.safetensors")[0].state_dict().items()
    ]
    assert all(same) == (best == len(probes) - 1)


@pytest.mark.slow
def test_the_best_backbone_is_that_of_the_best_probe_after_a_kill(
    digits_dir, tmp_path, monkeypatch
):
    """One comes between the second probe's backbone and its record, whichever is first."""
    out, saved = tmp_path / "run", []

    def killed(backbone, file, spec):
        saved.append(file)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save_backbone(backbone, file, spec)

    flags = ["--data-dir", digits_dir, "--epochs", 1, "--probe-every", 1, "--lr", "3e-2"]
    with monkeypatch.context() as patch:
        patch.setattr("effssl.train.probe.save_backbone", killed)
        assert train.main(cli.parse(flags_of(out, *flags))) == 130
    assert train.main(cli.parse(["--resume", str(out)])) == 0
    probes = [r for r in read_metrics(out) if r["kind"] == "probe"]
    assert [r["step"] for r in probes] == [0, 5] and probes[0]["linear"] < probes[1]["linear"]
    best, last = (out / f"backbone{name}.safetensors" for name in ("-best", ""))
    assert best.read_bytes() == last.read_bytes()


@pytest.mark.slow
def test_a_flat_run_ends_and_is_finished(digits_dir, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--data-dir", digits_dir, "--epochs", 30, "--probe-every", 1, "--lr", "1e-12"]
    assert train.main(cli.parse(flags_of(out, *flags, "--stop-when-flat", 3))) == 0
    said = capsys.readouterr().out
    assert "flat for 3 probes" in said
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] < 150
    assert train.main(cli.parse(["--resume", str(out)])) == 0
    assert "is finished: --stop-when-flat 3" in capsys.readouterr().out
    resumed = ["--resume", str(out), "--stop-when-flat", "0", "--max-seconds", "1e-6"]
    assert train.main(cli.parse(resumed)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["all", "but the last probe"])
def test_a_flat_run_that_died_before_its_table_makes_it_and_trains_no_further(
    digits_dir, tmp_path, kept
):
    out = tmp_path / "run"
    flags = ["--data-dir", digits_dir, "--epochs", 30, "--probe-every", 1, "--lr", "1e-12"]
    assert train.main(cli.parse(flags_of(out, *flags, "--stop-when-flat", 1))) == 0
    steps = json.loads((out / "result.json").read_text())["steps"]
    (out / "result.json").unlink()
    records = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    if kept != "all":
        assert json.loads(records.pop())["kind"] == "probe"
    (out / "metrics.jsonl").write_text("".join(records))
    assert train.main(cli.parse(["--resume", str(out)])) == 0
    assert json.loads((out / "result.json").read_text())["steps"] == steps
    assert [r["step"] for r in read_metrics(out) if r["kind"] == "train"] == [*range(1, steps + 1)]


@pytest.mark.slow
def test_images_without_labels_are_held_out_and_judged(tmp_path, capsys):
    root = write_class_folders(tmp_path / "set", per_class=40)
    flags = ["--data", "folder", "--data-dir", root, "--no-labels", "--batch-size", 16]
    out = tmp_path / "run"
    assert train.main(cli.parse(flags_of(out, *flags, "--probe-every", 1, "--epochs", 2))) == 0
    said = capsys.readouterr().out
    assert "72 training, 8 validation, 0 test images" in said
    (line,) = lines_of_probes(out, said)  # the first probe has no loss before it
    assert line.startswith("still improving: loss ")
    probe = [r for r in read_metrics(out) if r["kind"] == "probe"][-1]
    assert {"h/lidar", "z/alignment", "z/off_diagonal", "h/variance_share"} <= probe.keys()
    assert (out / "backbone-best.safetensors").is_file()

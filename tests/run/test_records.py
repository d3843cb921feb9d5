"""What a run writes: checkpoint, records and pictures."""

from __future__ import annotations

import gc
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D
from PIL import Image

from effssl import InputError
from effssl.image_config import Augment
from effssl.run import checkpoint, log, pictures
from effssl.run.log import Clock, RunLog, read_metrics


def record(step: int, **more) -> dict:
    return {
        "step": step,
        "epoch": step / 2,
        "seconds": step * 0.5,
        "encoded_views": step * 8,
        **more,
    }


def test_a_checkpoint_whose_optimizer_groups_parameters_otherwise_is_refused():
    net = torch.nn.Linear(2, 2)
    cpu = torch.device("cpu")
    before = torch.optim.SGD([{"params": [net.weight, net.bias]}, {"params": []}], lr=1)
    after = torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias]}], lr=1)
    with pytest.raises(InputError, match="start a new run"):
        checkpoint.restore(checkpoint.capture(net, before, cpu), net, after, cpu)


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1, "weights": torch.arange(4.0)})

    def killed(state, file):
        file.write(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert torch.equal(checkpoint.load(path)["weights"], torch.arange(4.0))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"step": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="is damaged"):
        checkpoint.load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut short"])
def test_a_missing_or_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="checkpoint"):
        checkpoint.load(path)


def test_no_flipped_bit_of_a_checkpoint_becomes_a_wrong_weight(tmp_path):
    path, rng = tmp_path / "checkpoint.pt", np.random.default_rng(0)
    state = {"model": {"w": torch.randn(30, 100), "n": torch.arange(9)}, "step": 3, "loss": 0.25}
    checkpoint.save(path, state)
    whole, found = path.read_bytes(), 0
    places = [*rng.choice(len(whole), 300, replace=False), *range(60), *range(-60, 0)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except InputError as error:
            assert f"{path} is damaged" in str(error) and "\n" not in str(error)
            found += 1
        else:  # a bit that says nothing
            torch.testing.assert_close(loaded, state, rtol=0, atol=0)
    assert found > 0.8 * len(places)


def test_the_clock_leaves_pauses_out_and_goes_on_from_before(monkeypatch):
    now, settled = 7.0, []
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now))
    clock = Clock(100.0, lambda: settled.append(True))
    now += 2
    with clock.paused():
        now += 30
        assert clock.seconds == 102
    now += 3
    assert clock.seconds == 105
    assert settled == [True]


def test_records_after_the_checkpoint_are_dropped_on_resume(tmp_path, capsys):
    log = RunLog(tmp_path, start=record(0), total_steps=10)
    for step in range(1, 6):
        log.train(record(step, loss=1.0 / step))
    log.probe(record(5, linear=0.5))
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "lo')  # a kill cut this line short
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 5]
    assert [r["views_per_s"] for r in read_metrics(tmp_path) if r["kind"] == "train"] == [16.0] * 5
    RunLog(tmp_path, start=record(3), total_steps=10).close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert "probe at epoch 2.5, 2 s: linear 0.5" in capsys.readouterr().out
    assert any(p.name.startswith("events") for p in (tmp_path / "tensorboard").iterdir())


def test_pictures_show_what_they_are_given(tmp_path):
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    red, green, blue = (
        ((torch.tensor(rgb) - torch.tensor(mean)) / torch.tensor(std))[:, None, None].expand(
            3, 6, 6
        )
        for rgb in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    )
    pictures.save_views(
        tmp_path / "views.png",
        red.expand(3, 3, 6, 6),
        [green.expand(2, 3, 3, 6, 6), blue.expand(1, 3, 3, 6, 6)[..., :4, :4]],
        Augment(mean=mean, std=std),
    )
    pixels = np.asarray(Image.open(tmp_path / "views.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colours


@pytest.mark.parametrize(
    ("values", "bands", "shown"),
    [
        ((0.8,), None, (204, 204, 204)),
        ((0.4, 0.8), None, (102, 102, 102)),
        ((0.2, 0.4, 0.6, 0.8, 1.0), None, (51, 102, 153)),
        ((0.2, 0.4, 0.6, 0.8, 1.0), (4, 0, 3), (255, 51, 204)),
    ],
)
def test_pictures_show_any_channels(tmp_path, values, bands, shown):
    count = len(values)
    off = {"hue": 0.0, "saturation": 0.0, "gray_prob": 0.0}
    augment = Augment(mean=count * (0.5,), std=count * (0.5,), picture_bands=bands, **off)
    x = ((torch.tensor(values) - 0.5) / 0.5)[:, None, None].expand(1, count, 6, 6)
    pictures.save_views(tmp_path / "views.png", x, [x[None]], augment)
    pixels = np.asarray(Image.open(tmp_path / "views.png").convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - shown).max(1) <= 1).sum() > 100


def test_a_picture_that_cannot_be_drawn_is_a_line_whatever_the_reason(tmp_path):
    for error in (RuntimeError("no\nroom"), InputError("full"), MemoryError(), ValueError("x")):
        lines = []
        with pictures.or_a_line(tmp_path / "p.png", lines.append):
            raise error
        reason = str(error).replace("\n", " ") or "MemoryError"
        assert lines == [f"{tmp_path / 'p.png'} was not drawn ({reason}); the rest goes on"]
    with pytest.raises(KeyboardInterrupt), pictures.or_a_line(tmp_path / "p.png"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("probes", [[], [{"linear": 0.5, "knn": 0.4}, {"linear": 0.6, "knn": 0.5}]])
def test_curves_are_drawn_with_and_without_probes(tmp_path, probes):
    records = [
        {"kind": "train", **record(s, loss=2.0 / s)} | {"loss/invariance": 1.0} for s in (1, 2, 3)
    ]
    records += [{"kind": "probe", **record(2 * i), **p} for i, p in enumerate(probes)]
    pictures.save_curves(tmp_path / "curves.png", records, "a run")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("cut_short", ["", '{"kind": "tra'])
def test_of_a_long_run_as_many_records_are_read_as_are_asked_for(tmp_path, cut_short):
    """All of the others, each behind what came before it, and the first and the last of training:
    the last is what the next probe is judged by."""
    rows = [{"kind": "train", **record(step)} for step in range(1, 1001)]
    rows[300:300] = [{"kind": "probe", **record(300, linear=0.5)}]
    rows += [{"kind": "extension", **record(1000)}, {"kind": "probe", **record(1000, linear=0.6)}]
    file = tmp_path / "metrics.jsonl"
    rows += [{"kind": "train", **record(step)} for step in (1001, 1002)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + cut_short)
    assert read_metrics(tmp_path) == rows
    others = [row for row in rows if row["kind"] != "train"]
    for at_most in (1, 7, 100, 999, 1000, 2000):
        read = read_metrics(tmp_path, at_most=at_most)
        steps = [row["step"] for row in read if row["kind"] == "train"]
        assert [row for row in read if row["kind"] != "train"] == others
        spread = range(1, 1003, -(-1002 // at_most))
        assert len(spread) <= at_most and (len(spread) > at_most / 2 or at_most == 2000)
        assert steps == sorted({*spread, 300, 1000, 1002})
        assert [row["step"] for row in read] == sorted(row["step"] for row in read)
    assert read_metrics(tmp_path / "none", at_most=5) == []


@pytest.mark.parametrize("is_enabled", [True, False])
def test_pictures_leave_nothing_for_a_collection_of_all_objects(tmp_path, is_enabled):
    rows = [{"kind": "train", "loss": 1.0, **record(step)} for step in range(1, 50)]
    threshold = gc.get_threshold()
    gc.collect()
    gc.set_threshold(threshold[0], threshold[1], 10**6)  # no such collection of itself
    if not is_enabled:
        gc.disable()
    try:
        counts = []
        for _ in range(4):
            with pictures.or_a_line(tmp_path / "curves.png"):
                pictures.save_curves(tmp_path / "curves.png", rows, "a run")
            counts.append(sum(type(each) is Line2D for each in gc.get_objects()))
            assert gc.isenabled() == is_enabled
    finally:
        gc.enable()
        gc.set_threshold(*threshold)
    assert counts == counts[:1] * 4
    assert (tmp_path / "curves.png").exists()

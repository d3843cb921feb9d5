"""The race: what runs, what is chosen, what is judged; and the other tools that are installed."""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import race
from analysis.harness import race_contenders, race_runs, race_tables, records, training
from analysis.harness.race_contenders import OURS, PEER, RACES, Contender, Trial
from analysis.harness.race_runs import Race, Start
from analysis.peers import lejepa, lightly, solo, timed
from effssl import cli
from effssl.run import files
from effssl.run.log import read_metrics
from tests.conftest import TINY

CPU = RACES["cpu"]
EVERY = [(name, each) for name, p in RACES.items() for each in (*p.ours, *p.contenders)]
FAKE = Contender("fake", PEER, ("--views", "2"), training.Trainer("fake", resumes=False))


def race_of(tmp_path: Path, *contenders: Contender, preset: str = "cpu", seeds: int = 2) -> Race:
    args = argparse.Namespace(
        data_dir=tmp_path, runs=tmp_path, further=[], run_seconds=900.0, seeds=seeds, seconds=None,
        command="race.py", out=tmp_path / "race", records=tmp_path / "records.jsonl",
        save_records=False, first_seed=0,
    )  # fmt: skip
    return Race(args, RACES[preset], contenders)


@pytest.mark.parametrize(("preset", "contender"), EVERY, ids=lambda x: getattr(x, "name", x))
def test_every_run_of_every_contender_has_flags_that_can_be_read(preset, contender, tmp_path):
    racing = race_of(tmp_path, contender, preset=preset, seeds=1)
    chosen = {contender.name: len(contender.trials) - 1}
    starts = race_runs.timed(racing, chosen, range(1))
    for start in [*race_runs.trials(racing), *starts]:
        cfg = cli.parse(race_runs.flags_of(racing, start))
        by_clock = None if contender.side == OURS else start.length * 900
        assert cfg.optim.max_seconds == by_clock
        assert cfg.images.split_seed == cfg.run.seed == start.seed
        assert cfg.images.hold_out and cfg.run.precision == "fp32"
    names = [start.name for start in starts]
    assert len(set(names)) == len(names) == len(contender.lengths)


def test_every_other_contender_has_as_many_trials_the_first_as_documented():
    assert {len(each.trials) for _, each in EVERY if each.side != OURS} == {6}
    assert {len(each.trials) for _, each in EVERY if each.side == OURS} == {1}
    assert {each.trials[0] for _, each in EVERY} == {Trial()}


def test_what_is_as_long_as_its_epochs_is_cut_to_whole_schedules(tmp_path):
    today = CPU.ours[0]
    racing = race_of(tmp_path, today)
    for length in CPU.ours[1].lengths:
        cfg = cli.parse(race_runs.flags_of(racing, Start(today, 0, length, 0)))
        assert cfg.images.fraction * cfg.optim.epochs == pytest.approx(3 * length, rel=1e-5)
        assert cfg.optim.warmup_epochs / cfg.optim.epochs == pytest.approx(0.2 / 3, rel=1e-4)


def test_trials_change_rate_batch_weight_and_crops(tmp_path):
    def of(contender: Contender, trial: Trial) -> cli.Config:
        base = [*CPU.flags, *contender.flags]
        return cli.parse([*base, *race_runs.trial_flags(cli.parse(base), trial)])

    sgd = next(each for each in CPU.contenders if each.name == "lightly-barlow")
    changed = of(sgd, Trial("", rate=4, batch=1 / 4, weight=4, crop=0.3))
    # Linear in the batch: 0.06 for 128 images.
    assert (changed.optim.batch_size, changed.optim.lr) == (32, pytest.approx(0.06))
    assert changed.loss.redundancy_weight == pytest.approx(0.02)
    assert changed.augment.crop_scale == (0.3, 1.0)
    adamw = of(CPU.ours[0], Trial("", batch=2, weight=1 / 4))
    assert (adamw.optim.batch_size, adamw.optim.lr) == (128, 3e-3)  # no rule of the batch
    assert adamw.loss.cov_weight == pytest.approx(40 * 25 / 256 / 4)


def test_contenders_and_seeds_come_by_turns(tmp_path):
    other = FAKE._replace(name="other")
    racing = race_of(tmp_path, CPU.ours[1], FAKE, other)
    assert [s.name for s in race_runs.trials(racing)[:3]] == [
        *("fake_t0_x0.25_s1000", "other_t0_x0.25_s1000", "fake_t1_x0.25_s1000"),
    ]
    started = race_runs.timed(racing, {"best": 0, "fake": 1}, range(2))
    assert [s.name for s in started][:3] == ["best_t0_x1_s0", "fake_t1_x1_s0", "best_t0_x0.4_s0"]
    assert [s.seed for s in started] == [0] * 6 + [1] * 6


def _finish(run: Path, seed: int, linear: float, seconds: float, cpu: str = "a CPU") -> None:
    run.mkdir(parents=True)
    files.write_text(run / "config.yaml", f"{{seed: {seed}, split_seed: {seed}}}\n")
    probe = {"kind": "probe", "step": 0, "epoch": 0.0, "seconds": 0.0, "encoded_views": 0}
    probes = [probe | {"linear": 0.3, "knn": 0.25}]
    views = round(seconds)  # the longer, the more
    probes += [probe | {"seconds": seconds, "encoded_views": views, "linear": linear, "knn": 0.3}]
    files.write_text(run / "metrics.jsonl", "".join(json.dumps(p) + "\n" for p in probes))
    hardware = {"cpu": cpu, "cpu_vectors": "AVX2", "gpu": None, "cpu_cores": 2}
    result = {"steps": 9, "seconds": seconds, "encoded_views": views, "views_per_s": 9.0}
    result |= {"hardware": hardware, "versions": {"torch": "2", "commit": "abc"}}
    files.write_json(run / "result.json", result | {"finished": "2026-01-01 00:00 UTC"})


def _made(racing: Race, starts: list[Start], linear_of, cpu: str = "a CPU") -> None:
    for start in starts:
        seconds = (800 if start.contender.side == OURS else 900) * start.length
        _finish(racing.args.runs / start.name, start.seed, linear_of(start), seconds, cpu)


def test_the_best_trial_of_all_is_chosen_and_the_ratio_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "complete", lambda left, *_, **__: list(left))
    racing = race_of(tmp_path, *CPU.ours, FAKE, seeds=3)
    _made(racing, race_runs.trials(racing), lambda start: 0.3 + 0.01 * (start.trial == 4))
    chosen = race.choose(racing, race_runs.trials(racing))
    assert chosen == {"today": 0, "best": 0, "fake": 4}

    def linear(start: Start) -> float:
        """Give `best` at 1/8 what the peer has after 900 s, so 9 times sooner, by seed a little
        off; and `today` 58% at its end, which `best` has at once."""
        if start.contender.name == "fake":
            return 0.40 + 0.001 * start.seed
        return {1 / 16: 0.35, 1 / 8: 0.40, 1 / 4: 0.45, 0.4: 0.5, 1.0: 0.58}[start.length]

    _made(racing, race_runs.timed(racing, chosen, range(racing.args.seeds)), linear)
    race._race(racing, [*CPU.ours, FAKE])
    text = (tmp_path / "race" / "summary.md").read_text()
    assert "3 times sooner than the best peer (fake): **yes**" in text
    assert "2.5 times sooner than today's recipe: **no**, 1.00 times" in text
    assert "21 of 21 timed runs are finished" in capsys.readouterr().out
    # `today` has one length, of which every ratio would be a bound.
    ratios = pd.read_csv(tmp_path / "race" / "ratios.csv")
    assert list(ratios["recipe"]) == ["best", "best"]
    assert list(ratios["to the accuracy of"]) == ["today", "fake"]
    curves = pd.read_csv(tmp_path / "race" / "curves.csv")
    assert len(curves) == 2 * 21
    assert (tmp_path / "race" / "race.png").is_file()


@pytest.mark.usefixtures("empty_pictures")
def test_records_carry_seeds_from_one_machine_to_the_next(tmp_path, monkeypatch):
    def complete(left, folder, *, records, **_):
        return [n for n in left if n in records or training.has_result(folder / n)]

    monkeypatch.setattr(training, "complete", complete)
    first = race_of(tmp_path / "first", *CPU.ours, seeds=1)
    first.args.save_records = True
    chosen, linear = {"today": 0, "best": 0}, lambda start: 0.3 + 0.2 * start.length
    _made(first, race_runs.timed(first, chosen, [0]), linear)
    race._race(first, [*CPU.ours])
    known = records.read(first.args.records)
    assert len(known) == 6
    second = race_of(tmp_path / "second", *CPU.ours)._replace(known=known)
    of_second = race_runs.timed(second, chosen, [1])
    _made(second, of_second[:-1], linear, cpu="another")
    _made(second, of_second[-1:], linear, cpu="a third")
    race._race(second, [*CPU.ours])
    out = second.args.out
    assert len(pd.read_csv(out / "runs.csv")) == 12
    assert set(pd.read_csv(out / "ratios.csv")["seeds"]) == {2}
    text = (out / "summary.md").read_text()
    assert "Ratios of seeds 1 are no figures: their runs are of several machines." in text
    machines = "a CPU with AVX2, 2 cores and a third with AVX2, 2 cores and another with AVX2, 2"
    assert machines in text


def test_a_record_of_other_seconds_is_another_run(tmp_path):
    """The committed records of other tools are of 900 seconds, those of their trials of 225."""
    known = records.read(records.FOLDER / "race-cpu.jsonl")
    racing = race_of(tmp_path, *CPU.ours, *CPU.contenders, seeds=4)
    chosen = {"today": 0, "best": 0, "lightly-barlow": 0, "solo-vicreg": 2, "lejepa": 5}
    starts = [*race_runs.trials(racing), *race_runs.timed(racing, chosen, range(4))]

    def found(seconds: float) -> set[str]:
        racing.args.run_seconds = seconds
        flags = {start.name: race_runs.flags_of(racing, start) for start in starts}
        return set(training.complete(flags, tmp_path, records=known, seconds=0))

    assert found(900) == set(known)
    assert found(200) == {name for name in known if name.startswith(("today", "best"))}


@pytest.mark.usefixtures("empty_pictures")
def test_a_machine_may_begin_with_another_seed(tmp_path, monkeypatch):
    asked = []

    def complete(left, *_, **__):
        asked.append([*left])
        return [name for name in left if name.endswith("_s1") or "_s2" in name]

    monkeypatch.setattr(training, "complete", complete)
    racing = race_of(tmp_path, *CPU.ours, seeds=3)
    racing.args.first_seed = 1
    chosen = {"today": 0, "best": 0}
    _made(racing, race_runs.timed(racing, chosen, [1, 2]), lambda start: 0.3 + 0.2 * start.length)
    race._race(racing, [*CPU.ours])
    _, first, further = asked
    assert {name[-3:] for name in first} == {"_s1"}
    assert [name[-3:] for name in further] == ["_s2"] * 6 + ["_s0"] * 6
    assert set(pd.read_csv(tmp_path / "race" / "ratios.csv")["seeds"]) == {2}


def test_tools_that_end_far_below_the_best_have_no_further_seeds():
    near, far = FAKE._replace(name="near"), FAKE._replace(name="far")
    authors = race_contenders.AUTHORS_WAY
    racing = [CPU.ours[0], FAKE, near, far, authors]
    ended = {"today": 0.58, "fake": 0.45, "near": 0.421, "far": 0.419, "authors": 0.44}
    rows = pd.DataFrame([{"contender": n, "length": 1.0, "linear": x} for n, x in ended.items()])
    on = race_tables.in_reach(rows, racing, race.IN_REACH)
    assert [each.name for each in on] == ["today", "fake", "near"]


def test_a_trial_that_diverges_is_one_without_accuracy(tmp_path):
    racing, lost = race_of(tmp_path, FAKE), "fake_t1_x0.25_s1000"
    starts = [start for start in race_runs.trials(racing) if start.name != lost]
    _made(racing, starts, lambda start: 0.3)
    assert race.choose(racing, starts) == {}
    (tmp_path / f"{lost}.diverged").write_text("the loss is nan\n")
    assert race.choose(racing, starts) == {"fake": 0}


@pytest.mark.parametrize(("load", "is_said"), [(0.1, False), (2.3, True)])
def test_other_work_is_warned_of_in_one_line(load, is_said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(race_runs.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(training, "complete", lambda *_, **__: [])
    racing = race_of(tmp_path, FAKE)
    race_runs.trained(racing, race_runs.trials(racing), 0.0)
    said = capsys.readouterr().err
    assert said.count("\n") == is_said and ("load average of 2.3" in said) == is_said


def test_a_tool_that_is_not_installed_stands_in_the_table_with_the_way_to_it():
    absent = FAKE._replace(package="no_such_package", install="pip install it")
    text = race_tables.standings(pd.DataFrame(), pd.DataFrame(), [absent], {})
    assert "not installed: pip install it" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--parallel", "2"], "one at a time"),
        (["--only", "somebody"], "contenders are"),
        (["--run-seconds", "-1"], "--run-seconds"),
        (["--records", "pyproject.toml"], "does not hold a record in each line"),
        (["--records", "nowhere.jsonl"], "cannot be read"),
        (["--save-records"], "--save-records needs --records FILE"),
    ],
)
def test_bad_flags_are_one_line(flags, said, capsys):
    try:
        code = race.main(["--preset", "digits", *flags])
    except SystemExit as error:
        code = error.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1


def test_a_cosine_begins_at_the_start_reaches_the_peak_and_ends_at_the_end():
    rate = [timed.cosine(x, 0.3, warmup=0.1, start=0.003, end=0.01) for x in (0, 0.1, 1, 1.5)]
    assert rate == pytest.approx([0.003, 0.3, 0.01, 0.01])


def fake_peer(cfg, dim_h: int) -> timed.Peer:
    """Build a peer that needs no package: two noisy views, brought together."""
    projector = torch.nn.Linear(dim_h, 4)

    def views(image):
        x = torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1) / 255
        return [x + 0.1 * torch.randn_like(x) for _ in range(2)]

    return timed.Peer(
        "no-such-package", views, projector, lambda z: (z[0] - z[1]).square().mean(),
        lambda parameters: torch.optim.SGD(parameters, lr=1.0), lambda share: 0.1 * (1 - share),
    )  # fmt: skip


def quick(digits_dir: Path, out: Path, *flags: str) -> list[str]:
    flags = ("--data", "digits", "--data-dir", str(digits_dir), *flags, "--max-seconds", "1.5")
    tiny = ("--backbone-kwargs", TINY, "--image-size", "8", "--precision", "fp32")
    return [*flags, *tiny, "--probe-images", "300", "--log-every", "1", "--out", str(out)]


def _looks_like_a_run(out: Path) -> None:
    records = read_metrics(out)
    probes = [r for r in records if r["kind"] == "probe"]
    assert probes[0]["encoded_views"] == probes[0]["seconds"].__trunc__() == 0
    assert all({"linear", "knn", "seconds", "step", "epoch"} <= set(probe) for probe in probes)
    seconds = [r["seconds"] for r in records]
    assert seconds == sorted(seconds)
    result = json.loads((out / "result.json").read_text())
    assert result["encoded_views"] == probes[-1]["encoded_views"] > 0
    assert result["seconds"] >= 1.5


def test_a_peer_leaves_what_a_run_of_effssl_leaves(digits_dir, tmp_path, monkeypatch, capsys):
    # Without processes for loading: forks of a process with many threads are slow in tests.
    monkeypatch.setattr(timed, "WORKERS", 0)
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text("left by a run that was stopped\n")
    assert timed.main(fake_peer, quick(digits_dir, out, "--batch-size", "64")) == 0
    _looks_like_a_run(out)
    assert timed.main(fake_peer, quick(digits_dir, out, "--batch-size", "64")) == 2
    assert "already holds a finished run" in capsys.readouterr().err


def test_a_peer_without_a_length_or_a_folder_is_told_so(tmp_path, capsys):
    assert timed.main(fake_peer, ["--data", "digits", "--out", str(tmp_path)]) == 2
    assert timed.main(fake_peer, ["--data", "digits", "--max-seconds", "1"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "--max-seconds is missing" in said[0] and "--out is missing" in said[1]


def test_a_peer_that_diverges_says_so_and_has_no_result(digits_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(timed, "WORKERS", 0)

    def build(cfg, dim_h):
        return fake_peer(cfg, dim_h)._replace(loss_of=lambda z: z[0].mean() * float("nan"))

    assert timed.main(build, quick(digits_dir, tmp_path / "run", "--batch-size", "64")) == 3
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_peer_that_diverges_where_its_loss_does_not_show_it_says_so(
    digits_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(timed, "WORKERS", 0)

    def build(cfg, dim_h):
        return fake_peer(cfg, dim_h)._replace(
            loss_of=lambda z: (z[0] - z[1]).square().mean().nan_to_num(),
            rate=lambda share: float("inf"),
        )

    assert timed.main(build, quick(digits_dir, tmp_path / "run", "--batch-size", "64")) == 3
    said = capsys.readouterr().err
    assert "not finite" in said and "Traceback" not in said
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("contender", race_contenders.PEERS, ids=lambda each: each.name)
def test_each_installed_tool_builds_what_it_trains_with(contender):
    if importlib.util.find_spec(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed: {contender.install}")
    module = {"analysis.peers.lightly": lightly, "analysis.peers.solo": solo}
    cfg = cli.parse([*CPU.flags, *contender.flags])
    peer = module.get(contender.trainer.module, lejepa).build(cfg, 8)
    views = peer.transform(Image.new("RGB", (32, 32), (200, 90, 10)))
    assert [tuple(view.shape) for view in views] == [(3, 32, 32)] * cfg.augment.views
    h = [torch.randn(16, 8, requires_grad=True) for _ in views]
    optimizer = peer.optimizer(list(peer.projector.parameters()))
    loss = peer.loss_of([peer.projector(each) for each in h])
    loss.backward()
    before = next(peer.projector.parameters()).detach().clone()
    optimizer.step()
    assert torch.isfinite(loss) and not torch.equal(before, next(peer.projector.parameters()))
    assert 0 < peer.rate(0.5) < cfg.lr


def test_parts_of_solo_learn_are_imported_without_its_package(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "solo"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "solo" / "losses"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").write_text("raise ImportError('lightning-bolts is missing')\n")
    (folder / "barlow.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(part := solo.part("losses.barlow"), types.ModuleType) and part.ANSWER == 42
    for name in ("solo", "solo.losses", "solo.losses.barlow"):
        monkeypatch.delitem(sys.modules, name)

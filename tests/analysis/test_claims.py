import csv
import dataclasses
import itertools
import json
import math
import os
import sys
import time
import types
from pathlib import Path

import pytest
import scipy.stats
import torch
from PIL import Image

ANALYSIS = Path(__file__).parent.parent / "analysis"
sys.path.insert(0, str(ANALYSIS))

import claims  # noqa: E402
import experiments  # noqa: E402
import figures  # noqa: E402
import intervals  # noqa: E402
import projector  # noqa: E402
import step_cost  # noqa: E402
import subset  # noqa: E402
import views  # noqa: E402
import wallclock  # noqa: E402
from claims import Recipe  # noqa: E402
from intervals import Estimate, Question  # noqa: E402

from effssl import InputError, cli  # noqa: E402
from effssl.models import backbones as models  # noqa: E402
from effssl.train import loop as train  # noqa: E402

TINY = [
    *(
        "--data",
        "digits",
        "--image-size",
        "8",
        "--precision",
        "fp32",
        "--proj-dim",
        "16",
        "--probe-images",
        "200",
    ),
    *("--backbone-kwargs", "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}"),
]


def scale_of(*flags: str, name: str = "views") -> claims.Scale:
    return claims.scale(experiments.read_flags(claims.parser(""), flags), name)


@pytest.fixture(scope="module")
def cpu() -> claims.Scale:
    return scale_of()


def test_intervals_are_students():
    found = intervals.estimate([1, 2, 3])
    assert found == Estimate(
        2, 1, pytest.approx(4.302652729911275 / 3**0.5), 3
    )  # the table's t for two degrees
    values = [3.1, 4.7, 2.2, 9.0, 5.5]
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = intervals.estimate(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert intervals.estimate([]) is None
    one = intervals.estimate([7])
    assert one.mean == 7 and math.isnan(one.std) and one.half == math.inf
    assert intervals.mean_std([7]) == "7.0"
    assert intervals.mean_std([1, 2, 3]) == "2.0 +- 1.0"


def test_differences_are_paired_by_seed():
    a, b = {0: 50.0, 1: 61.0, 2: 70.0, 3: 1.0}, {2: 69.0, 1: 59.0, 0: 49.5, 7: 0.0}
    found = intervals.difference(a, b)
    low, high = scipy.stats.ttest_rel([50, 61, 70], [49.5, 59, 69]).confidence_interval(0.95)
    assert found.n == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_accuracy_between_runs_is_linear_in_log_seconds():
    points = [(1000.0, 70.0), (10.0, 40.0), (100.0, 60.0)]  # in any order
    assert intervals.at_seconds(points, 10 * 10**0.5) == (pytest.approx(50), True)
    assert intervals.at_seconds(points, 100) == (pytest.approx(60), True)
    assert intervals.at_seconds(points, 1000) == (pytest.approx(70), True)
    assert intervals.at_seconds(points, 5) == (40, False)
    assert intervals.at_seconds(points, 2000) == (70, False)


def test_seconds_to_an_accuracy_invert_that():
    points = [(10.0, 40.0), (100.0, 60.0), (1000.0, 70.0)]
    for accuracy in (40, 45, 60, 61, 70):
        seconds, said = intervals.seconds_to(points, accuracy)
        assert said == "at"
        assert intervals.at_seconds(points, seconds)[0] == pytest.approx(accuracy)
    assert intervals.seconds_to(points, 39) == (10, "by")
    assert intervals.seconds_to(points, 71) == (1000, "not by")
    assert intervals.seconds_to([(1.0, 10.0), (2.0, 30.0), (4.0, 20.0), (8.0, 40.0)], 20)[
        0
    ] == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("mean", "half", "margin", "answer"),
    [
        (1.0, 0.9, 0, "yes"),
        (1.0, 1.1, 0, "open"),
        (-1.0, 0.9, 0, "no"),
        (-0.5, 0.4, 1, "yes"),
        (-0.5, 0.6, 1, "open"),
        (-2.0, 0.9, 1, "no"),
        (9.0, math.inf, 0, "open"),
    ],
)
def test_an_answer_needs_the_whole_interval_on_one_side(mean, half, margin, answer):
    assert Question("", Estimate(mean, 1, half, 3), margin).answer == answer


def test_verdicts():
    assert intervals.verdict(["yes", "yes"]) == "holds"
    assert intervals.verdict(["yes", "no"]) == intervals.verdict(["open", "yes"]) == "holds in part"
    assert intervals.verdict(["no", "open"]) == "does not hold"
    assert intervals.verdict(["open"]) == intervals.verdict([]) == "not decided"
    assert Question("", None, 0).answer == "open"


def test_epochs_for_equal_views_are_whole_or_an_error():
    whole = {
        (k, f): claims.epochs_for(k, f, 8)
        for k, f in itertools.product((2, 4, 8), (0.25, 0.5, 1.0))
    }
    assert whole == {
        **{(2, 0.25): 16, (2, 0.5): 8, (2, 1.0): 4, (4, 0.25): 8, (4, 0.5): 4},
        **{(4, 1.0): 2, (8, 0.25): 4, (8, 0.5): 2, (8, 1.0): 1},
    }
    assert claims.epochs_for(6, 1 / 3, 8) == 4  # a third is no binary fraction
    with pytest.raises(InputError, match=r"K = 3 on 0.5 of the images would take 5.33333 epochs"):
        claims.epochs_for(3, 0.5, 8)


def test_each_script_trains_what_its_claim_needs(cpu):
    lengths = {(r.views, r.epochs) for r in views.recipes(cpu, [2, 4, 8])}
    assert lengths == {(8, 1), (4, 1), (4, 2), (2, 1), (2, 2), (2, 4)}
    needed, grid = subset.recipes(cpu, [2, 4, 8], [0.25, 0.5, 1.0])
    assert len(set(grid)) == 9
    assert {r.views * r.part * r.epochs for r in grid} == {8}
    assert {(r.views, r.part) for r in needed} == {(2, 0.25), (2, 0.5), (2, 1), (4, 0.5), (8, 0.25)}
    sweep = projector.recipes(cpu, [64, 256, 1024, 8192])
    by_rule, fixed = ([cli.parse(claims.flags_of(cpu, r, 0)).loss for r in sweep[k]] for k in sweep)
    assert [loss.redundancy_weight for loss in by_rule] == ["auto"] * 4
    assert [loss.redundancy_weight for loss in fixed[:-1]] == [3.4 / 8192] * 3
    assert sweep[projector.RULE][-1] == sweep[projector.FIXED][-1]
    assert wallclock.recipes(scale_of_wallclock())["baseline: K = 2, d = 8192"][0].weight == 0.0008


def scale_of_wallclock(*flags: str) -> claims.Scale:
    args = experiments.read_flags(claims.parser(""), flags)
    args.wide, args.recipe = 8192, [["fast", "--lr 0.01"]]
    return claims.scale(args, "wallclock")


@pytest.mark.parametrize("preset", claims.PRESETS)
@pytest.mark.parametrize("method", claims.SHORT)
def test_every_run_of_every_scale_has_valid_flags_and_names_that_tell_them_apart(preset, method):
    scale = scale_of_wallclock("--preset", preset, "--method", method, "--seeds", "1")
    every = [
        *views.recipes(scale, [2, 4, 8]),
        *subset.recipes(scale, [2, 4, 8], [0.25, 0.5, 1.0])[1],
    ]
    every += itertools.chain(*projector.recipes(scale, list(projector.WIDTHS[preset])).values())
    every += itertools.chain(*wallclock.recipes(scale).values())
    unique = list(dict.fromkeys(every))
    assert len(unique) < len(every) - 5  # shared
    wanted = claims.runs(scale, unique)
    assert len(wanted) == len(unique)
    whole = cli.parse(list(scale.flags))
    for recipe, flags in zip(
        unique[:: 6 if preset == "paper" else 3],
        list(wanted.values())[:: 6 if preset == "paper" else 3],
        strict=True,
    ):
        cfg = cli.parse(flags)
        assert (cfg.augment.views, cfg.model.proj_dim, cfg.model.proj_hidden_dim) == (
            recipe.views,
            *[recipe.dim] * 2,
        )
        assert cfg.images.fraction == pytest.approx(whole.images.fraction * recipe.part)
        assert cfg.optim.warmup_epochs == pytest.approx(
            cfg.optim.epochs * (0 if preset == "paper" else 0.1)
        )
        assert (cfg.loss.method, cfg.probe.final_images, cfg.probe.probe_every) == (method, 0, 0)
        weight = claims.weight_of(experiments.flat(cfg))
        assert weight == pytest.approx(
            recipe.weight or (40 if method == "vicreg" else 3.4) / recipe.dim
        )


def test_names_say_what_a_run_is(cpu):
    assert (
        scale_of("--method", "vicreg").args.out
        == Path("runs/claims-cpu/views-vicreg")
        != cpu.args.out
    )
    assert claims.name_of(cpu, Recipe(2, 256, 4), 0) == "bt_k2_d256_f1_e4_s0"
    recipe = Recipe(4, 8192, 100, 0.5, 0.0008, 512, ("--lr", "1"), "fast")
    assert (
        claims.name_of(scale_of("--method", "vicreg"), recipe, 2)
        == "vr_k4_d8192_w0.0008_f0.5_e100_b512_fast_s2"
    )


def test_the_command_that_is_noted_names_no_folder_of_this_machine():
    given = [
        "--data-dir",
        "/a b",
        "--seeds",
        "2",
        "--runs=/c",
        "--seconds",
        "9",
        "--parallel",
        "2",
        "--out",
        "/d",
    ]
    args = experiments.read_flags(claims.parser(""), [*given, "--", "--lr", "0.1"])
    assert args.command.split(" ", 1)[1] == "--data-dir DIR --seeds 2 --parallel 2 -- --lr 0.1"
    assert (args.data_dir, args.seeds, args.further) == ("/a b", 2, ["--lr", "0.1"])


@pytest.mark.parametrize("script", [views, subset, projector, wallclock])
@pytest.mark.parametrize(
    "flags", [["--seeds", "0"], ["--seds", "3"], ["--preset", "tpu"], ["--parallel", "x"],
    ["--", "--lr", "fast"],
              ["--", "--views", "3"], ["--out", "/dev/null/x"]],
)  # fmt: skip
def test_bad_flags_are_one_line_and_exit_code_2(script, flags, tmp_path, capsys):
    try:
        code = script.main(["--runs", str(tmp_path), *flags])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert not said.out and not list(tmp_path.iterdir())


def write_runs(scale: claims.Scale, recipes, figures_of) -> None:
    """Finished runs as effssl.train leaves them, less the weights. figures_of(recipe, seed):
    accuracy in %, seconds.
    """
    parsed = {
        recipe: cli.parse(claims.flags_of(scale, recipe, 0)) for recipe in dict.fromkeys(recipes)
    }
    for (recipe, cfg), seed in itertools.product(parsed.items(), range(scale.args.seeds)):
        folder = scale.args.runs / claims.name_of(scale, recipe, seed)
        folder.mkdir(parents=True)
        seeded = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, seed=seed))
        (folder / "config.yaml").write_text(cli.dump(seeded))
        accuracy, seconds = figures_of(recipe, seed)
        encoded = round(18_000 * recipe.part) * recipe.epochs * recipe.views
        steps = round(18_000 * recipe.part) * recipe.epochs // 64
        probe = {
            "kind": "probe",
            "step": steps,
            "epoch": recipe.epochs,
            "seconds": seconds,
            "encoded_views": encoded,
        }
        probe |= {"linear": accuracy / 100, "knn": accuracy / 110}
        probe |= {
            f"{x}/{m}": 1.0 + recipe.dim for x in "hz" for m in ("effective_rank", "off_diagonal")
        }
        (folder / "metrics.jsonl").write_text(json.dumps(probe) + "\n")
        result = {
            "final": {"split": None, "rows": {}},
            "steps": steps,
            "seconds": seconds,
            "encoded_views": encoded,
            "views_per_s": encoded / seconds,
            "hardware": {"cpu": "a CPU", "cpu_cores": 2, "threads": 1, "gpu": None},
            "versions": {"effssl": "0", "commit": "abc", "torch": "2", "python": "3"},
            "finished": "2026-01-01 00:00 UTC",
        }
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "linear_all_labels.json").write_text(
            json.dumps({"fraction": scale.cfg.images.fraction, "linear": accuracy / 100 + 0.01})
        )


def cells(summary: str, begins: str) -> list[str]:
    (line,) = [line for line in summary.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_views_at_equal_epochs_views_and_seconds(tmp_path, capsys):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "3")
    # K = 2: 40, 44, 48 % in 50, 100, 200 s; K = 8 reaches 47 + seed / 10 in 141.42 s, where K = 2
    # has 46.
    of = {(8, 1): (47, 141.42136), (4, 1): (43, 70), (4, 2): (46.5, 300)}
    of |= {(2, 1): (40, 50), (2, 2): (44, 100), (2, 4): (48, 200)}

    def figures_of(r, seed):
        accuracy, seconds = of[r.views, r.epochs]
        return accuracy + seed / 10 * (r.views == 8), seconds

    write_runs(scale, views.recipes(scale, [2, 4, 8]), figures_of)
    assert views.main(["--runs", str(tmp_path), "--seeds", "3"]) == 0
    said = (tmp_path / "views" / "summary.md").read_text()
    half = 4.302652729911275 * 0.1 / 3**0.5
    for where, mean, answer in (
        ("epochs", 7.1, "yes"),
        ("encoded views", -0.9, "no"),
        ("seconds", 1.1, "yes"),
    ):
        row = cells(said, f"K = 8 better than K = 2 at equal {where}")
        assert row[1:5] == [
            f"{mean:+.1f}",
            f"{mean - half:+.1f} to {mean + half:+.1f}",
            "3",
            answer,
        ]
    assert cells(said, "K = 4 better than K = 2 at equal seconds")[1] == "-1.5"
    assert "3 outside K = 2's runs" in cells(said, "K = 4 better than K = 2 at equal seconds")[5]
    assert "more views give features earlier: holds in part." in said
    assert (
        "18 of 18 runs finished; a CPU, 2 cores; torch 2; commit abc; 2026-01-01; `python analysis/"
        in said
    )
    assert "18 of 18 runs are finished" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "views" / "runs.csv").open()))
    assert len(rows) == 18 and {r["part"] for r in rows} == {"1.0"}
    assert Image.open(tmp_path / "views" / "views.png").size == (2000, 740)
    assert sorted(p.name for p in (tmp_path / "views").iterdir()) == [
        "runs.csv",
        "summary.md",
        "views.png",
    ]


def test_projector_compares_the_rule_with_a_fixed_weight(tmp_path):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "2")
    planned = projector.recipes(scale, [64, 256, 1024, 8192])
    accuracy = {(64, None): 41, (256, None): 42.2, (1024, None): 42.1, (8192, None): 42.5}

    def figures_of(r, seed):
        seconds = 200.0 + 2 * seed if r.dim == 8192 else 50.0
        return accuracy.get((r.dim, r.weight), 36) - seed * 0.04 * (r.dim == 256), seconds

    write_runs(scale, itertools.chain(*planned.values()), figures_of)
    assert projector.main(["--runs", str(tmp_path), "--seeds", "2"]) == 0
    said = (tmp_path / "projector" / "summary.md").read_text()
    row = cells(said, "d = 256 no more than 1 point worse than d = 8192")
    low, high = scipy.stats.ttest_1samp([-0.3, -0.34], 0).confidence_interval(0.95)
    assert row[1:5] == ["-0.3", f"{low:+.1f} to {high:+.1f}", "2", "yes"]
    assert cells(said, "d = 64: the rule's weight better")[1:5] == [
        "+5.0",
        "+5.0 to +5.0",
        "2",
        "yes",
    ]
    assert "as well, and cheaper: holds.**" in said
    assert "d = 8192 took 4.02 times the seconds of d = 256" in said
    assert "| one fixed weight | 64 | 0.0266 | 2 | 36.0" in said
    assert "| the rule's weight | 8192 | 3.4 | 2 | 42.5" in said
    counted = (
        256 * 8192 + 2 * 8192 + 8192**2
    )  # linear, batch normalisation, linear; the backbone gives 256
    assert f"{counted:,} |" in said
    built = models.Projector(256, 4, 4, 2)
    assert projector.parameters(scale, Recipe(4, 4, 1)) == sum(
        p.numel() for p in built.parameters()
    )
    assert Image.open(tmp_path / "projector" / "projector.png").size == (2000, 1400)


def test_subset_compares_parts_on_the_same_labels(tmp_path):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "2")
    of = {(8, 0.25): 46.0, (4, 0.5): 47.5, (2, 1.0): 47.0, (2, 0.25): 44.0, (2, 0.5): 46.0}
    _, grid = subset.recipes(scale, [2, 4, 8], [0.25, 0.5, 1.0])
    write_runs(
        scale, grid, lambda r, s: (of.get((r.views, r.part), 40) + s * 0.002 * r.views, 100.0)
    )
    assert subset.main(["--runs", str(tmp_path), "--seeds", "2"]) == 0
    said = (tmp_path / "subset" / "summary.md").read_text()
    # Parts of the images have a point more in linear_all_labels.json, which counts.
    assert cells(said, "K = 8 on 25% no more than 1 point worse than K = 2 on 100%")[1] == "+0.0"
    assert cells(said, "K = 8 on 25% better than K = 2 on 25%")[1] == "+2.0"
    assert cells(said, "K = 4 on 50% no more")[1:2] + cells(said, "K = 4 on 50% better")[1:2] == [
        "+1.5",
        "+1.5",
    ]
    assert "fewer images suffice: holds.**" in said
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "subset" / "runs.csv").open())}
    row = rows["bt_k8_d256_f0.25_e4_s0"]
    assert (row["linear"], row["linear_own"]) == ("0.47", "0.46")


def test_wallclock_ratios(tmp_path, monkeypatch):
    cost = {
        "loader": 1.0,
        "augmentation": 2.0,
        "encoder": 3.0,
        "projector and loss": 4.0,
        "optimizer": 5.0,
    }
    monkeypatch.setattr(step_cost, "measure", lambda settings, **how: dict.fromkeys(settings, cost))
    scale = scale_of("--runs", str(tmp_path), "--seeds", "2")
    scale.args.wide, scale.args.recipe = 8192, [["fast", "--lr 0.01"]]
    # The recipe has 48 % between 50 s (46 %) and 200 s (50 %): at 100 s. The baseline takes 4 times
    # that, and 4.2.
    seconds = {1: 50.0, 2: 200.0, 3: 300.0, 4: 400.0}
    accuracy = {1: 46.0, 2: 50.0, 3: 52.0, 4: 48.0}

    def figures_of(r, seed):
        if r.dim == 8192:
            return (48.0, 400.0 + 20 * seed) if r.views == 2 else (40.0 + r.epochs, 500.0)
        return accuracy[r.epochs] if r.views == 4 else 49.0, seconds[r.epochs]

    write_runs(scale, itertools.chain(*wallclock.recipes(scale).values()), figures_of)
    flags = ["--runs", str(tmp_path), "--seeds", "2", "--recipe", "fast", "--lr 0.01"]
    assert wallclock.main(flags) == 0
    said = (tmp_path / "wallclock" / "summary.md").read_text()
    logs = [math.log(x) for x in (4, 4.2)]
    low, high = (
        math.exp(x) for x in scipy.stats.t.interval(0.95, 1, sum(logs) / 2, scipy.stats.sem(logs))
    )
    row = cells(said, "K = 4, d = 256, to the accuracy of baseline")
    assert row[1:6] == ["100", f"{16.8**0.5:.2f}", f"{low:.2f} to {high:.2f}", "2", "yes"]
    assert f"training time: holds.** {16.8**0.5:.2f} times faster" in said
    # Steps: 1125 for the baseline; between 281 and 562 for the recipe, half way in log seconds.
    assert row[6] == f"{1125 / (281 * 562) ** 0.5:.2f}"
    row = cells(said, "K = 2, d = 256, to the accuracy of baseline")
    assert row[2] == f">= {16.8**0.5 * 2:.2f}" and "the shortest run has it in 2 seeds" in row[-1]
    row = cells(said, "K = 4, d = 8192, to")
    assert row[2] == f"<= {(16.8**0.5) / 5:.2f}" and row[5] == "no" and "not in 2 seeds" in row[-1]
    assert (
        cells(said, "fast, to the accuracy of baseline")[2]
        == cells(said, "K = 4, d = 256, to the accuracy of b")[2]
    )
    assert cli.load(tmp_path / "bt_k4_d256_f1_e3_fast_s1" / "config.yaml").optim.lr == 0.01
    # K = 2, d = 256 ends at 49 % in 400 s, which the recipe has at 50 * 4 ** 0.75 s.
    assert cells(said, "K = 4, d = 256, to the accuracy of K")[2] == f"{400 / (50 * 4**0.75):.2f}"
    assert "| K = 4, d = 256 | 15.0 | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 59 |" in said
    assert Image.open(tmp_path / "wallclock" / "wallclock.png").size == (2000, 1400)
    # A bound on the wrong side decides nothing.
    sure = wallclock.Speedup("", Estimate(2, 0.1, 0.2, 3), None)
    assert (
        sure.answer == sure._replace(by=1).answer == "yes"
        and sure._replace(not_by=1).answer == "open"
    )
    slow = wallclock.Speedup("", Estimate(0, 0.1, 0.2, 3), None)
    assert (
        slow.answer == slow._replace(not_by=1).answer == "no"
        and slow._replace(by=1).answer == "open"
    )


def test_a_report_of_what_is_finished_says_how_many(tmp_path, monkeypatch):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "3")
    write_runs(scale, [Recipe(8, 256, 1), Recipe(2, 256, 1)], lambda r, s: (40.0 + r.views, 60.0))
    monkeypatch.setattr(
        experiments,
        "complete",
        lambda runs, folder, **how: [n for n in runs if (folder / n).is_dir()],
    )
    assert views.main(["--runs", str(tmp_path), "--seeds", "4"]) == 0
    said = (tmp_path / "views" / "summary.md").read_text()
    assert "6 of 24 runs finished" in said
    assert cells(said, "K = 8 better than K = 2 at equal epochs")[1:5] == [
        "+6.0",
        "+6.0 to +6.0",
        "3",
        "yes",
    ]
    assert cells(said, "K = 8 better than K = 2 at equal encoded views")[1:5] == [
        "",
        "",
        "0",
        "open",
    ]


def test_a_script_that_is_interrupted_goes_on_and_ends(digits_dir, tmp_path, monkeypatch, capfd):
    flags = [*on(tmp_path, digits_dir, "--views", "2"), "--epochs", "15"]
    run, sleep = tmp_path / "bt_k2_d16_f1_e15_s0", time.sleep

    def until_it_trains(seconds: float) -> None:
        sleep(seconds)
        if len(experiments.read_metrics(run)) > 1:  # a probe, and the first steps
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiments.time, "sleep", until_it_trains)
        assert views.main(flags) == 130
    assert "interrupted; the same command goes on" in capfd.readouterr().err
    before = experiments.read_metrics(run)
    assert len(before) > 1 and not (run / "result.json").exists()
    assert views.main(flags) == 0
    said = capfd.readouterr()
    assert "1 of 1 runs are finished" in said.out and "1 of 1 runs: 100%" in said.err
    assert experiments.read_metrics(run)[: len(before)] == before
    assert "not decided" in (tmp_path / "views" / "summary.md").read_text()


@pytest.fixture(scope="module")
def trained(digits_dir, tmp_path_factory):
    """The folder of runs that the four scripts share; they train in this process."""

    def start(
        run: Path, flags: list[str], slot: int, gpus: int, parallel: int
    ) -> types.SimpleNamespace:
        code = train.main(cli.parse([*flags, "--out", str(run)]))
        none = lambda *_: None  # noqa: E731
        return types.SimpleNamespace(
            poll=lambda: code, returncode=code, send_signal=none, wait=none
        )

    folder = tmp_path_factory.mktemp("claims") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "_start", start)
        patch.setattr(train.pictures, "save_views", lambda *_: None)
        patch.setattr(train.pictures, "save_curves", lambda *_: None)
        assert views.main(on(folder, digits_dir, "--views", "2", "4")) == 0
        yield folder


def on(runs: Path, data_dir: Path, *flags: str) -> list[str]:
    return ["--runs", str(runs), "--data-dir", str(data_dir), "--seeds", "1", *flags, "--", *TINY]


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
    assert wallclock.main(on(trained, digits_dir, "--wide", "24")) == 0
    steps = {r["recipe"]: r for r in csv.DictReader((trained / "wallclock" / "steps.csv").open())}
    assert list(steps) == [
        "baseline: K = 2, d = 24",
        "K = 4, d = 16",
        "K = 2, d = 16",
        "K = 4, d = 24",
    ]
    assert all(float(r[part]) > 0 for r in steps.values() for part in step_cost.PARTS)
    rows = {r["name"]: r for r in csv.DictReader((trained / "wallclock" / "runs.csv").open())}
    assert len(rows) == 9
    row = rows["bt_k4_d16_f1_e2_s0"]
    ms = sum(float(steps["K = 4, d = 16"][part]) for part in step_cost.PARTS)
    assert float(row["seconds_by_steps"]) == pytest.approx(int(row["steps"]) * ms / 1000, abs=0.01)
    kept = (trained / "step_cost_barlow_twins.json").read_text()
    assert wallclock.main(on(trained, digits_dir, "--wide", "24")) == 0  # nothing is measured again
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
    flags = claims.runs(
        scale_of("--data-dir", str(digits_dir), "--seeds", "1", "--", *TINY), [Recipe(2, 16, 1)]
    )[name]
    size = (trained / name / "checkpoint.pt").stat().st_size / 1e6
    experiments._remove_large_checkpoint(trained / name, size * 1.1)
    assert (trained / name / "checkpoint.pt").exists()
    experiments._remove_large_checkpoint(trained / name, size * 0.9)
    assert not (trained / name / "checkpoint.pt").exists()
    assert experiments.complete({name: flags}, trained) == [name]


def test_parts_of_a_step_add_up_and_it_trains(digits_dir):
    cfg = cli.parse([*TINY, "--data-dir", str(digits_dir), "--views", "2"])
    began = time.monotonic()
    found = step_cost.measure({"a": cfg, "b": cfg}, rounds=6, threads=1)
    whole_ms = 1000 * (time.monotonic() - began)
    assert set(found) == {"a", "b"}
    for parts in found.values():
        assert set(parts) == set(step_cost.PARTS) and all(ms > 0 for ms in parts.values())
        assert sum(parts.values()) * 6 < whole_ms
    assert torch.get_num_threads() == int(
        os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    )


def test_ticks_are_plain_numbers():
    axis = figures.Figure().subplots()
    axis.plot([30, 400], [1, 2])
    figures.few_log_ticks(axis)
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "30",
        "50",
        "70",
        "100",
        "200",
        "300",
    ]

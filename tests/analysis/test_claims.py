import csv
import itertools
import math

import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from analysis import projector, subset, views, wallclock
from analysis.benchmarks import step
from analysis.harness import recipes, training, trials
from analysis.harness.recipes import Recipe
from effssl import cli
from effssl.models import Projector
from tests.analysis.made_runs import NO_RECORDS, cells, scale_of, scale_of_wallclock, write_runs


@pytest.mark.slow
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
    assert views.main([*NO_RECORDS, "--runs", str(tmp_path), "--seeds", "3"]) == 0
    said = (tmp_path / "views" / "summary.md").read_text()
    half = 4.302652729911275 * 0.1 / 3**0.5
    for where, mean, answer in (
        ("epochs", 7.1, "yes"),
        ("encoded views", -0.9, "no"),
        ("seconds", 1.1, "yes"),
    ):
        row = cells(said, f"K = 8 better than K = 2 at equal {where}")
        assert row[1:4] == [f"{mean:+.1f}", f"{mean - half:+.1f} to {mean + half:+.1f}", "3"]
        assert row[5] == answer and (row[4] == "< 0.001" or float(row[4]) < 0.05)
    assert cells(said, "K = 4 better than K = 2 at equal seconds")[1] == "-1.5"
    at_seconds = cells(said, "K = 4 better than K = 2 at equal seconds")
    assert at_seconds[5] == "no" and "3 after K = 2's runs: at most so much" in at_seconds[6]
    # A `no` is not undone by a `yes`.
    assert "more views give features earlier: does not hold." in said
    assert "Barlow Twins. Accuracies are of the validation split" in said
    assert "Each seed has its own validation split" in said
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


@pytest.mark.slow
def test_projector_compares_the_rule_with_a_fixed_weight(tmp_path):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "2")
    planned = projector.recipes(scale, [64, 256, 1024, 8192])
    accuracy = {(64, None): 41, (256, None): 42.2, (1024, None): 42.1, (8192, None): 42.5}

    def figures_of(r, seed):
        seconds = 200.0 + 2 * seed if r.dim == 8192 else 50.0
        return accuracy.get((r.dim, r.weight), 36) - seed * 0.04 * (r.dim == 256), seconds

    write_runs(scale, itertools.chain(*planned.values()), figures_of)
    assert projector.main([*NO_RECORDS, "--runs", str(tmp_path), "--seeds", "2"]) == 0
    said = (tmp_path / "projector" / "summary.md").read_text()
    row = cells(
        said, "Barlow Twins, the rule's weight, d = 256 against 8192: no more than 1 point worse"
    )
    low, high = scipy.stats.ttest_1samp([-0.3, -0.34], 0).confidence_interval(0.95)
    assert row[1:4] == ["-0.3", f"{low:+.1f} to {high:+.1f}", "2"] and row[5] == "yes"
    row = cells(said, "d = 64: the rule's weight better")
    assert row[1:6] == ["+5.0", "+5.0 to +5.0", "2", "< 0.001", "yes"]
    # The made-up energies of z are alike at all weights.
    assert "as well, and cheaper: holds in part.**" in said
    assert "d = 8192 took 4.02 times the seconds of d = 256" in said
    assert "| one fixed weight | 64 | 0.0266 | 2 | 36.0" in said
    assert "| the rule's weight | 8192 | 3.4 | 2 | 42.5" in said
    counted = (
        256 * 8192 + 2 * 8192 + 8192**2
    )  # linear, batch normalisation, linear; the backbone gives 256
    assert f"{counted:,} |" in said
    built = Projector(256, 4, 4, 2)
    assert projector.parameters(scale, Recipe(4, 4, 1)) == sum(
        p.numel() for p in built.parameters()
    )
    assert Image.open(tmp_path / "projector" / "projector.png").size == (2000, 1400)


@pytest.mark.slow
def test_subset_compares_parts_on_the_same_labels(tmp_path):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "2")
    of = {(8, 0.25): 46.0, (4, 0.5): 47.5, (2, 1.0): 47.0, (2, 0.25): 44.0, (2, 0.5): 44.5}
    _, grid = subset.recipes(scale, [2, 4, 8], [0.25, 0.5, 1.0])
    write_runs(
        scale, grid, lambda r, s: (of.get((r.views, r.part), 40) + s * 0.002 * r.views, 100.0)
    )
    assert subset.main([*NO_RECORDS, "--runs", str(tmp_path), "--seeds", "2"]) == 0
    said = (tmp_path / "subset" / "summary.md").read_text()
    # Parts of the images have a point more in linear_all_labels.json, which counts.
    assert cells(said, "K = 8 on 25%: no more than 1 point worse than K = 2 on all")[1] == "+0.0"
    assert cells(said, "K = 8 on 25%: better than K = 2 on 25%")[1] == "+2.0"
    assert cells(said, "K = 4 on 50%: no more")[1] == "+1.5"
    assert cells(said, "K = 4 on 50%: better")[1] == "+3.0"
    assert "fewer images suffice: holds.**" in said
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "subset" / "runs.csv").open())}
    row = rows["bt_k8_d256_f0.25_e4_s0"]
    assert (row["linear"], row["linear_own"]) == ("0.47", "0.46")


COST = {
    "loader": 1.0,
    "augmentation": 2.0,
    "encoder": 3.0,
    "projector and loss": 4.0,
    "optimizer": 5.0,
}


def made_wallclock(tmp_path, monkeypatch, best, seeds=2):
    """Write the runs of a whole study, whose trials are best at the factors `best` of each side;
    return the summary."""
    monkeypatch.setattr(step, "measure", lambda settings, **how: dict.fromkeys(settings, COST))
    scale = scale_of_wallclock("--runs", str(tmp_path), "--seeds", str(seeds))
    sides = wallclock.sides(scale)
    reached = {
        trial.recipe: 30.0 + 5 * ((trial.rate, trial.weight) == best[side])
        for side, own in sides.items()
        for trial in own
    }
    write_runs(scale, reached, lambda r, seed: (reached[r], 30.0), seeds=[trials.SEED])
    # The recipe has 48 % between 50 s (46 %) and 200 s (50 %): at 100 s. The baseline takes 4 times
    # that, and 4.2.
    seconds = {1: 50.0, 2: 200.0, 3: 300.0, 4: 400.0}
    accuracy = {1: 46.0, 2: 50.0, 3: 52.0, 4: 48.0}

    def figures_of(r, seed):
        if r.dim == 8192:
            return (48.0, 400.0 + 20 * seed) if r.views == 2 else (40.0 + r.epochs, 500.0)
        return accuracy[r.epochs] if r.views == 4 else 49.0, seconds[r.epochs]

    table = pd.DataFrame(
        {
            "name": [recipes.name_of(scale, recipe, trials.SEED) for recipe in reached],
            "linear": list(reached.values()),
        }
    )
    chosen = {side: trials.choose(scale, table, own) for side, own in sides.items()}
    write_runs(scale, itertools.chain(*wallclock.recipes(scale, chosen).values()), figures_of)
    flags = ["--runs", str(tmp_path), "--seeds", str(seeds), "--recipe", "fast", "--lr 0.01"]
    assert wallclock.main([*NO_RECORDS, *flags]) == 0
    return (tmp_path / "wallclock" / "summary.md").read_text()


AS_GIVEN = {wallclock.BASELINE: (1.0, 1.0), wallclock.RECOMMENDED: (1.0, 1.0)}


@pytest.mark.slow
def test_wallclock_ratios(tmp_path, monkeypatch):
    said = made_wallclock(tmp_path, monkeypatch, AS_GIVEN)
    logs = [math.log(x) for x in (4, 4.2)]
    low, high = (
        math.exp(x) for x in scipy.stats.t.interval(0.95, 1, sum(logs) / 2, scipy.stats.sem(logs))
    )
    row = cells(said, "K = 4, d = 256, to the accuracy of baseline")
    assert row[1:6] == ["100", f"{16.8**0.5:.2f}", f"{low:.2f} to {high:.2f}", "2", "yes"]
    assert "training time: holds.** K = 4, d = 256: more than 2 times faster to the" in said
    assert f"tuned baseline: {16.8**0.5:.2f} times, 95% interval {low:.2f} to {high:.2f}" in said
    # Steps: 1125 for the baseline; between 281 and 562 for the recipe, half way in log seconds. A
    # step costs the same and has twice the views, so a view is half as dear, and they need as many.
    by_steps = 1125 / (281 * 562) ** 0.5
    assert row[6] == f"{by_steps:.2f}"
    assert float(row[8]) == pytest.approx(by_steps / 2, abs=0.011) and row[9] == "2.00"
    row = cells(said, "K = 2, d = 256, to the accuracy of baseline")
    assert row[2] == f">= {16.8**0.5 * 2:.2f}" and row[3] == "8.00 (lowest seed) to open above"
    assert row[5] == "open" and "in 2 of 2 seeds the shortest run has the accuracy" in row[-1]
    assert row[1].startswith("<= ")  # at least so much faster takes at most so long
    row = cells(said, "K = 4, d = 8192, to")
    assert row[2] == f"<= {(16.8**0.5) / 5:.2f}" and row[3] == "open below to 0.84 (highest seed)"
    assert row[5] == "open" and "in 2 of 2 seeds the longest run does not" in row[-1]
    assert row[1].startswith(">= ")
    assert (
        cells(said, "fast, to the accuracy of baseline")[2]
        == cells(said, "K = 4, d = 256, to the accuracy of b")[2]
    )
    assert cli.load(tmp_path / "bt_k4_d256_f1_e3_fast_s1" / "config.yaml").optim.lr == 0.01
    # K = 2, d = 256 ends at 49 % in 400 s, which the recipe has at 50 * 4 ** 0.75 s.
    assert cells(said, "K = 4, d = 256, to the accuracy of K")[2] == f"{400 / (50 * 4**0.75):.2f}"
    assert "Milliseconds of the parts of a training step, measured on " in said
    assert "| K = 4, d = 256 | 15.0 | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 59 |" in said
    # In parts, which multiply out: K = 2, d = 256 has it by its shortest run, at least so early.
    small, cheaper, views, halves, whole = (
        cells(said, name)
        for name in (
            "projector, d = 8192 to 256: fewer views",
            "projector, d = 8192 to 256: a cheaper view",
            "views, K = 2 to 4: fewer views",
            "views, K = 2 to 4: a cheaper view",
            "together",
        )
    )
    assert small[1:3] == [">= 4.00", "4.00 (lowest seed) to open above"]
    assert views[1].startswith("<= ") and views[2].startswith("open below to ")
    assert (cheaper[1:], halves[1], whole[1]) == (["1.00", "", "2"], "2.00", f"{by_steps:.2f}")
    product = math.prod(float(row[1].split()[-1]) for row in (small, cheaper, views, halves))
    assert product == pytest.approx(by_steps, rel=0.02)
    assert Image.open(tmp_path / "wallclock" / "wallclock.png").size == (2000, 1900)
    # Both sides have as many trials, and their best are bold.
    assert said.count("of 12 trials the best has 35.0%, with rate 0.003") == 2
    assert cells(said, "the baseline | 0.003")[4] == "**35.0**"


@pytest.mark.slow
@pytest.mark.usefixtures("empty_pictures")
def test_what_the_trials_choose_is_trained(tmp_path, monkeypatch):
    best = {wallclock.BASELINE: (3.0, 0.3), wallclock.RECOMMENDED: (1.0, 3.0)}
    said = made_wallclock(tmp_path, monkeypatch, best, seeds=1)
    assert "rate 0.009 and weight w d = 1.02 (the rate at an end of the grid: widen it)." in said
    assert "rate 0.003 and weight w d = 10.2 (the weight at an end of the grid: widen it)." in said
    rows = {r["name"]: r for r in csv.DictReader((tmp_path / "wallclock" / "runs.csv").open())}
    tuned = rows["bt_k2_d8192_w0.0001245_lr0.009_f1_e4_s0"]
    assert tuned["recipe"] == "baseline, tuned: K = 2, d = 8192" and tuned["lr"] == "0.009"
    assert rows["bt_k2_d256_w0.03984_f1_e4_s0"]["recipe"] == "K = 2, d = 256"
    assert rows["bt_k4_d8192_w0.0001245_lr0.009_f1_e1_s0"]["recipe"] == "K = 4, d = 8192"


@pytest.mark.slow
@pytest.mark.usefixtures("empty_pictures")
def test_step_costs_of_another_machine_are_measured_anew_where_runs_are_trained(
    tmp_path, monkeypatch
):
    made_wallclock(tmp_path, monkeypatch, AS_GIVEN, seeds=1)
    file = tmp_path / "step_cost_barlow_twins.json"
    file.write_text(file.read_text().replace('"cpu": "', '"cpu": "another '))
    flags = [*NO_RECORDS, "--runs", str(tmp_path), "--seeds", "1", "--recipe", "fast", "--lr 0.01"]
    for more, is_kept in ((["--seconds", "0"], True), ([], False)):
        assert wallclock.main([*flags, *more]) == 0
        assert ("another" in file.read_text()) == is_kept
        said = (tmp_path / "wallclock" / "summary.md").read_text()
        assert ("step, measured on another " in said) == is_kept


def made_with_rates(module, tmp_path, rates, best):
    """Write the trials of K = 2 and 4 at `rates`, best at `best` by K, and the runs that follow;
    return the summary of the claim's command."""
    flags = ["--runs", str(tmp_path), "--seeds", "2", "--rates", *map(str, rates)]
    scale = scale_of(*flags[:4])
    scale.args.rates = rates
    sides = trials.by_views(scale, [2, 4])
    assert list(sides) == ["K = 2", "K = 4"]
    reached = {
        trial.recipe: 30.0 + 5 * (trial.rate == best[trial.recipe.views])
        for own in sides.values()
        for trial in own
    }
    write_runs(scale, reached, lambda r, seed: (reached[r], 30.0), seeds=[trials.SEED])
    tried = trials.complete(scale, sides)
    planned = module.recipes(scale, [2, 4], *([[0.5, 1.0]] if module is subset else []))
    every = planned[1] if module is subset else planned
    chosen = tried.at_best_rates(scale, every)
    assert {(r.views, r.lr) for r in chosen} == {
        (k, None if rate == 1 else 0.009) for k, rate in best.items()
    }
    write_runs(scale, chosen, lambda r, seed: (40.0 + r.views, 60.0))
    assert module.main([*NO_RECORDS, *flags, "--views", "2", "4", *parts_of(module)]) == 0
    return (tmp_path / module.__name__.split(".")[-1] / "summary.md").read_text()


def parts_of(module):
    return ["--parts", "0.5", "1"] if module is subset else []


@pytest.mark.slow
@pytest.mark.parametrize("module", [views, subset])
@pytest.mark.usefixtures("empty_pictures")
def test_each_k_has_its_own_best_rate(module, tmp_path):
    said = made_with_rates(module, tmp_path, [1.0, 3.0, 9.0], {2: 1.0, 4: 3.0})
    assert "K = 2: of 3 trials the best has 35.0%, with rate 0.003" in said
    assert "(the rate at an end of the grid: widen it)" in said.split("K = 4: of")[0]
    assert "K = 4: of 3 trials the best has 35.0%, with rate 0.009 and weight w d = 3.4." in said
    assert cells(said, "K = 4 | 0.009")[2] == "**35.0**"
    folder = tmp_path / module.__name__.split(".")[-1]
    rows = list(csv.DictReader((folder / "runs.csv").open()))
    assert {(r["views"], r["lr"]) for r in rows} == {("2", "0.003"), ("4", "0.009")}
    assert "s1000" not in (folder / "runs.csv").read_text()  # trials decide, and are not counted
    count = len(rows) + 6
    assert f"{count} of {count} runs finished" in said


def test_a_trial_that_diverged_is_worse_than_any(tmp_path):
    scale = scale_of("--runs", str(tmp_path), "--seconds", "0")
    scale.args.rates = [1.0, 3.0, 9.0]
    sides = trials.by_views(scale, [2, 4])
    *ended, lost = sides["K = 2"]
    reached = {trial.recipe: 30.0 + trial.rate for trial in ended}
    write_runs(scale, reached, lambda r, seed: (reached[r], 30.0), seeds=[trials.SEED])
    for trial in (lost, *sides["K = 4"]):
        name = recipes.name_of(scale, trial.recipe, trials.SEED)
        (tmp_path / f"{name}.diverged").touch()
    tried = trials.complete(scale, sides)
    assert tried.chosen["K = 2"].trial.rate == 3.0 and tried.chosen["K = 4"] is None
    said = tried.words(scale, "")
    assert cells(said, "K = 2 | 0.009")[2] == "**33.0**"
    assert cells(said, "K = 2 | 0.027")[2] == "diverged"
    assert "K = 4: all of its 3 trials diverged, so nothing is chosen." in said


@pytest.mark.usefixtures("empty_pictures")
def test_a_run_that_diverged_is_in_no_table_and_named(tmp_path):
    flags = ["--runs", str(tmp_path), "--seeds", "1", "--seconds", "0"]
    write_runs(scale_of(*flags), [Recipe(8, 256, 1)], lambda r, seed: (40.0, 60.0))
    (tmp_path / "bt_k2_d256_f1_e4_s0.diverged").touch()
    assert views.main([*NO_RECORDS, *flags]) == 0
    said = (tmp_path / "views" / "summary.md").read_text()
    assert "Diverged, and so without figures here: bt_k2_d256_f1_e4_s0.\n" in said
    assert "1 of 6 runs finished" in said


def test_no_rates_is_no_trial_and_the_scarce_scale_has_three_for_each_k():
    scale = scale_of()
    scale.args.rates = None
    assert trials.by_views(scale, [2, 4, 8]) == {}
    assert trials.by_views(scale, [3, 8]) == {}  # whose encoded views would not come out equal
    tried = trials.complete(scale, {})
    assert tried.left(scale).args.seconds is None and tried.words(scale, "") == ""
    assert tried.at_best_rates(scale, [Recipe(2, 256, 1)]) == [Recipe(2, 256, 1)]
    scarce = scale_of("--preset", "scarce")
    scarce.args.rates = None
    sides = trials.by_views(scarce, [2, 8])
    assert [len(own) for own in sides.values()] == [3, 3]
    assert {t.recipe.views * t.recipe.epochs for own in sides.values() for t in own} == {400}
    # The parts of the images are whole batches, so encoded views are equal.
    fraction = scarce.cfg.images.fraction
    for part in (0.25, 0.5, 1.0):
        images = 10 * round(4500 * round(fraction * part, 6))
        assert images == 5120 * part and images % scarce.cfg.optim.batch_size == 0


@pytest.mark.usefixtures("empty_pictures")
def test_nothing_else_is_trained_before_the_trials_are_finished(tmp_path, monkeypatch):
    calls = []

    def complete(wanted, folder, *, seconds, **how):
        calls.append((set(wanted), seconds))
        return []

    monkeypatch.setattr(training, "complete", complete)
    assert wallclock.main([*NO_RECORDS, "--runs", str(tmp_path), "--seconds", "600"]) == 0
    (trial_names, first), (names, second) = calls
    assert first == 600 and second == 0
    assert len(trial_names) == 24 and all(name.endswith("_s1000") for name in trial_names)
    assert "bt_k2_d8192_w0.0008_f1_e4_s0" in names


@pytest.mark.usefixtures("empty_pictures")
def test_a_report_of_what_is_finished_says_how_many(tmp_path, monkeypatch):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "3")
    write_runs(scale, [Recipe(8, 256, 1), Recipe(2, 256, 1)], lambda r, s: (40.0 + r.views, 60.0))
    monkeypatch.setattr(
        training,
        "complete",
        lambda runs, folder, **how: [n for n in runs if (folder / n).is_dir()],
    )
    assert views.main([*NO_RECORDS, "--runs", str(tmp_path), "--seeds", "4"]) == 0
    said = (tmp_path / "views" / "summary.md").read_text()
    assert "6 of 24 runs finished" in said
    epochs = cells(said, "K = 8 better than K = 2 at equal epochs")
    assert epochs[1:6] == ["+6.0", "+6.0 to +6.0", "3", "< 0.001", "yes"]
    encoded = cells(said, "K = 8 better than K = 2 at equal encoded views")
    assert encoded[1:6] == ["", "", "0", "", "not measured"]


@pytest.mark.slow
def test_each_width_has_its_own_best_rate_at_both_weights(tmp_path):
    flags = ["--runs", str(tmp_path), "--seeds", "2", "--rates", "0.333", "1"]
    scale = scale_of(*flags[:4])
    scale.args.rates = [0.333, 1.0]
    planned = projector.recipes(scale, [64, 256, 8192])
    sides = trials.by_widths(scale, planned[projector.RULE])
    assert list(sides) == ["d = 64", "d = 256", "d = 8192"]
    # The widest is best at the lower rate, the others at the scale's own.
    reached = {
        trial.recipe: 30.0 + 5 * ((trial.rate == 1) != (trial.recipe.dim == 8192))
        for own in sides.values()
        for trial in own
    }
    write_runs(scale, reached, lambda r, seed: (reached[r], 30.0), seeds=[trials.SEED])
    tried = trials.complete(scale, sides)
    chosen = [each for of in planned.values() for each in tried.at_best_rates(scale, of, "dim")]
    assert [(r.dim, r.lr) for r in chosen] == 2 * [(64, None), (256, None), (8192, 0.000999)]
    # One fixed weight is kept at every rate.
    assert [r.weight for r in chosen] == [r.weight for of in planned.values() for r in of]
    write_runs(scale, chosen, lambda r, seed: (40.0 + 0.1 * seed, 60.0))
    widths = ["--widths", "64", "256", "8192"]
    assert projector.main([*NO_RECORDS, *flags, *widths]) == 0
    said = (tmp_path / "projector" / "summary.md").read_text()
    assert "d = 8192: of 2 trials the best has 35.0%, with rate 0.000999" in said
    assert "16 of 16 runs finished" in said

import csv
import itertools

import pandas as pd
import pytest
from scipy import stats

from analysis.harness import claim_rules, support_rules, verdicts
from analysis.harness.stats import estimate

EXACT = (0.0, 0.001, -0.001)  # what three seeds differ by, in [0, 1]: intervals of half a point
NOISY = (0.0, 0.05, -0.05)
WIDTH, VIEWS, SUBSET, WALLCLOCK = (
    of_method["barlow_twins"]
    for of_method in (
        *(claim_rules.WIDTH, claim_rules.VIEWS),
        *(claim_rules.SUBSET, claim_rules.WALLCLOCK),
    )
)


def write(results, name, rows):
    file = results / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def seeds(spread, linear, **others):
    return [{**others, "seed": seed, "linear": linear + off} for seed, off in enumerate(spread)]


def outcomes(rule, results):
    return [part.outcome for part in verdicts.decide(results, [rule]).parts]


# Intervals and how parts make a verdict


def test_the_interval_is_student_s():
    values = [0.3, 1.2, 0.8, 2.0]
    mean = estimate(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = (mean.mean, mean.low, mean.high)
    assert found == pytest.approx((1.075, expected.low, expected.high))
    assert verdicts.answer(mean, mean.low - 1e-6) == "yes"
    assert verdicts.answer(mean, mean.low + 1e-6) == "open"
    assert verdicts.answer(mean, mean.high - 1e-6) == "open"
    assert verdicts.answer(mean, mean.high + 1e-6) == "no"
    assert verdicts.answer(estimate([5.0]), 0) == "open"  # one seed says nothing of the next


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ("yes yes", "holds"),
        ("yes no", "does not hold"),
        ("yes yes yes no", "does not hold"),
        ("yes open", "holds in part"),
        ("yes idle", "holds in part"),
        ("yes missing", "holds in part"),
        ("no open", "does not hold"),
        ("no missing", "does not hold"),
        ("open open", "not decided"),
        ("open missing", "not decided"),
        ("open idle", "not decided"),
        ("idle idle", "not decided here"),
        ("idle missing", "not decided here"),
        ("missing", "not measured yet"),
    ],
)
def test_parts_make_a_verdict(parts, verdict):
    answered = [verdicts.Part("", outcome, "") for outcome in parts.split()]
    assert verdicts.judge(lambda rows: answered, pd.DataFrame()).verdict == verdict


def test_missing_files_columns_and_rows_are_one_line_each(tmp_path):
    write(tmp_path, "views/runs.csv", [{"views": 2, "epochs": 1, "seed": 0, "linear": 0.5}])
    write(
        tmp_path,
        "subset/runs.csv",
        [{"views": 2, "part": 1, "seed": 0, "linear": "", "encoded_views": 5}],
    )
    seen = {
        rule.judge.__name__: verdicts.decide(tmp_path, [rule])
        for rule in (VIEWS, SUBSET, WALLCLOCK)
    }
    assert {verdict.verdict for verdict in seen.values()} == {"not measured yet"}
    said = {name: verdict.parts[0].seen for name, verdict in seen.items()}
    assert said == {
        "views": "views/runs.csv has no column seconds",
        "subset": "subset/runs.csv has no row with views, part, seed, linear, encoded_views",
        "wallclock": "wallclock/runs.csv is not there",
    }
    assert seen["wallclock"].parts[0].says == "The baseline's accuracy in at most half its seconds"


# Each claim's rule, on results made up for each outcome


def orthogonality_rows(gain, spread=EXACT, less=0.2):
    right = seeds(spread, 0.5 + gain, method="vicreg", dim=64, weight=40 / 64)
    wrong = seeds((0, 0, 0), 0.5, method="vicreg", dim=64, weight=0.4 / 64)
    untrained = seeds((0,), 0.9, method="", dim=64, weight="")
    rows = [r | {"z/off_diagonal": 0.5 - less + r["seed"] / 1000} for r in right]
    return (
        rows
        + [r | {"z/off_diagonal": 0.5} for r in wrong]
        + [r | {"z/off_diagonal": 0.7} for r in untrained]
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (orthogonality_rows(0.1), ["yes", "yes"]),
        (orthogonality_rows(-0.1), ["no", "yes"]),
        (orthogonality_rows(0.01, NOISY), ["open", "yes"]),
        (orthogonality_rows(0.1, less=-0.2), ["yes", "no"]),
        (orthogonality_rows(0.1)[:1], ["missing"]),
    ],
)
def test_orthogonality(tmp_path, rows, expected):
    write(tmp_path, "orthogonality/runs.csv", rows)
    assert outcomes(support_rules.ORTHOGONALITY, tmp_path) == expected


def projector_rows(small=0.0, spread=EXACT, seconds=50.0, fixed=-0.1):
    rows = []
    for dim, gap in ((64, -0.02), (256, small), (8192, 0.0)):
        of_dim = {"method": "barlow_twins", "dim": dim, "weight": 3.4 / dim}
        of_dim["seconds"] = 100.0 if dim == 8192 else seconds
        of_dim["z/off_diagonal"] = 0.1
        rows += seeds(spread if dim == 256 else (0, 0, 0), 0.5 + gap, **of_dim)
    narrow = {"method": "barlow_twins", "dim": 64, "weight": 3.4 / 8192, "seconds": seconds}
    return rows + seeds(EXACT, 0.48 + fixed, **narrow, **{"z/off_diagonal": 0.9})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (projector_rows(), ["yes", "yes", "yes", "yes"]),
        # Within a point, but the interval is not.
        (projector_rows(-0.008), ["open", "yes", "yes", "yes"]),
        (projector_rows(-0.005), ["yes", "yes", "yes", "yes"]),
        (projector_rows(-0.05, seconds=120.0), ["no", "no", "yes", "yes"]),
        (projector_rows(0.0, NOISY), ["open", "yes", "yes", "yes"]),
        (projector_rows(fixed=0.1), ["yes", "yes", "no", "yes"]),
        (projector_rows()[3:9], ["yes", "yes", "missing", "missing"]),
        (projector_rows()[:3], ["missing"]),
    ],
)
def test_width(tmp_path, rows, expected):
    write(tmp_path, "projector/runs.csv", rows)
    assert outcomes(WIDTH, tmp_path) == expected


@pytest.mark.parametrize(("untrained", "first"), [(0.3, "yes"), (0.505, "idle"), (None, "yes")])
def test_a_widest_projector_that_does_not_train_decides_nothing(tmp_path, untrained, first):
    """It has 0.5 by projector_rows; an untrained encoder would do as well as d = 256 then."""
    write(
        tmp_path, "projector/runs.csv", [row | {"untrained": untrained} for row in projector_rows()]
    )
    assert outcomes(WIDTH, tmp_path) == [first, "yes", "yes", "yes"]


def views_rows(at_two, eight, spread=EXACT, seconds_of_eight=80):
    """K = 2 reaches `at_two` after 1, 2, 4 epochs of 20 seconds; K = 8 `eight` after one."""
    rows = [
        row
        for epochs, reached in zip((1, 2, 4), at_two, strict=True)
        for row in seeds((0, 0, 0), reached, views=2, epochs=epochs, seconds=20 * epochs)
    ]
    return rows + seeds(spread, eight, views=8, epochs=1, seconds=seconds_of_eight)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (views_rows((0.3, 0.4, 0.5), 0.6), "yes yes yes"),
        (views_rows((0.3, 0.4, 0.5), 0.45), "yes no no"),
        (
            views_rows((0.3, 0.4, 0.5), 0.45, seconds_of_eight=40 * 2**0.4),
            "yes no yes",
        ),  # K = 2 has 0.44 then
        (
            views_rows((0.3, 0.4, 0.5), 0.45, seconds_of_eight=40 * 2**0.6),
            "yes no no",
        ),  # and 0.46 here
        # Where K = 2 has no run as long, or as short, its accuracy then is a bound.
        (views_rows((0.3, 0.4, 0.5), 0.6, seconds_of_eight=81), "yes yes idle"),
        (views_rows((0.3, 0.4, 0.5), 0.45, seconds_of_eight=81), "yes no no"),
        (views_rows((0.3, 0.4, 0.5), 0.29, seconds_of_eight=19), "no no idle"),
        (views_rows((0.3, 0.4, 0.5), 0.31, seconds_of_eight=19), "yes no yes"),
        (views_rows((0.3, 0.4, 0.5), 0.5, NOISY), "open open open"),  # p = 0.02, of six parts
        (views_rows((0.3, 0.4, 0.5), 0.6)[:-2], "open open open"),
    ],
)
def test_views(tmp_path, rows, expected):
    write(tmp_path, "views/runs.csv", rows)
    assert outcomes(VIEWS, tmp_path) == expected.split() + ["missing"] * 3  # there is no K = 4


def test_views_compares_the_longest_runs_at_equal_encoded_views_and_seconds(tmp_path):
    rows = views_rows((0.3, 0.4, 0.5), 0.6)
    rows += seeds((0, 0, 0), 0.2, views=4, epochs=1, seconds=40)  # behind all of K = 2's
    rows += seeds(EXACT, 0.6, views=4, epochs=2, seconds=80)
    write(tmp_path, "views/runs.csv", rows)
    assert outcomes(VIEWS, tmp_path) == ["yes", "yes", "yes", "no", "yes", "yes"]


@pytest.mark.parametrize(
    ("on_all", "on_part", "eight", "encoded", "expected"),
    [
        (0.5, 0.4, 0.5, 1000, "yes yes"),
        (0.5, 0.4, 0.495, 1000, "yes yes"),
        (0.5, 0.4, 0.45, 1000, "no yes"),
        (0.6, 0.5, 0.45, 1000, "no no"),
        (0.5, 0.4, 0.5, 2000, "missing missing"),  # not at equal encoded views
        # K = 2 passes on the part too, or is not shown to fail: nothing is short of images.
        (0.5, 0.5, 0.6, 1000, "idle idle"),
        (0.5, 0.495, 0.6, 1000, "idle idle"),
        (0.5, 0.49, 0.3, 1000, "idle idle"),
    ],
)
def test_subset(tmp_path, on_all, on_part, eight, encoded, expected):
    rows = seeds((0, 0, 0), on_all, views=2, part=1.0, encoded_views=1000)
    rows += seeds(EXACT, on_part, views=2, part=0.25, encoded_views=990)
    rows += seeds((0, 0, 0), eight, views=8, part=0.25, encoded_views=encoded)
    write(tmp_path, "subset/runs.csv", rows)
    verdict = verdicts.decide(tmp_path, [SUBSET])
    answers = [part.outcome for part in verdict.parts]
    assert answers == [*expected.split(), "missing", "missing"]
    if "idle" in expected:
        assert verdict.verdict == "not decided here"
        assert "control: K = 2 on 25% less K = 2 on all" in verdict.parts[0].note


def wallclock_rows(
    target, seconds, reached=(0.3, 0.4, 0.5), slow=400, count=3, baseline="tuned", off=0.001
):
    rows = []
    for seed in range(count):
        of_baseline = {"recipe": f"baseline, {baseline}: K = 2, d = 8192", "views": 2, "dim": 8192}
        of_baseline |= {"epochs": 4, "encoded_views": 2000, "seed": seed, "seconds": slow}
        rows.append(of_baseline)
        rows[-1]["linear"] = target + off * seed
        for i, linear in enumerate(reached, 1):
            own = {"recipe": "K = 4, d = 256", "views": 4, "dim": 256, "epochs": i, "seed": seed}
            own |= {"encoded_views": 1000 * i}
            rows.append(own | {"linear": linear, "seconds": seconds * i})
        other = {"recipe": "fast", "views": 4, "dim": 256, "epochs": 1, "seed": seed}
        rows.append(other | {"linear": 0.9, "seconds": 1})
    return rows


@pytest.mark.parametrize(
    ("rows", "expected", "said"),
    [
        (wallclock_rows(0.4, 50), "yes", "3.9"),  # has it at 100 s, or a little later
        (wallclock_rows(0.4, 150), "no", "1.3"),
        (wallclock_rows(0.4, 100), "open", "1.9"),  # 200 s to 202 s
        # Bounds: three seeds are too few for a sign test, six are enough.
        (wallclock_rows(0.2, 50), "open", "at least 8.00 times, 8.00 (lowest seed) to open above"),
        (wallclock_rows(0.2, 50, count=6), "yes", "in 6 of 6 seeds the shortest run has"),
        # An even shorter run might be fast enough.
        (wallclock_rows(0.2, 300, count=6), "open", "at least 1.33"),
        # It never has it.
        (wallclock_rows(0.6, 50, count=6), "open", "at most 2.67 times, open below to 2.67"),
        (wallclock_rows(0.6, 200, count=6), "no", "at most 0.67"),
        # Seeds 0 to 4 are below the longest run, and one is not: one bound opens the interval.
        (wallclock_rows(0.498, 50, count=4), "open", "in 1 of 4 seeds the longest run does not"),
        (wallclock_rows(0.4, 50, count=1), "open", "one seed: no interval"),
        (
            [row for row in wallclock_rows(0.4, 50) if row["views"] == 4],
            "missing",
            "rate and weight is not trained",
        ),
        (
            wallclock_rows(0.4, 50, baseline="untuned"),
            "missing",
            "not trained; to the accuracy of the untuned one: 3.9",
        ),
    ],
)
def test_wallclock(tmp_path, rows, expected, said):
    write(tmp_path, "wallclock/runs.csv", rows)
    (part,) = verdicts.decide(tmp_path, [WALLCLOCK]).parts
    assert part.outcome == expected
    assert said in part.seen


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (wallclock_rows(0.2, 50), "with a bound, no fewer than 6 seeds could tell"),  # 2 / 64
        # One that leaves it open counts against: 2 * 10 / 512.
        (wallclock_rows(0.498, 50, count=4), "with a bound, no fewer than 9 seeds could tell"),
        (wallclock_rows(0.4, 100, off=0.01), "about 7 seeds would tell"),
        (wallclock_rows(0.4, 50), ""),  # answered
        (wallclock_rows(0.4, 50, count=1), ""),
    ],
)
def test_an_open_ratio_says_how_many_seeds_it_takes(tmp_path, rows, note):
    write(tmp_path, "wallclock/runs.csv", rows)
    (part,) = verdicts.decide(tmp_path, [WALLCLOCK]).parts
    assert part.note == note


def test_each_method_is_judged_by_its_own_folder(tmp_path):
    write(tmp_path, "views-vicreg/runs.csv", views_rows((0.3, 0.4, 0.5), 0.6))
    of_vicreg = verdicts.decide(tmp_path, [claim_rules.VIEWS["vicreg"]])
    assert of_vicreg.verdict == "holds in part"
    assert verdicts.decide(tmp_path, [VIEWS]).verdict == "not measured yet"


def test_the_theory_s_rules(tmp_path):
    spans = [
        {
            "loss": loss,
            "views": k,
            "seed": seed,
            "step": step,
            "span_error": error * (1 + 0.01 * seed) * 2 / k,
        }
        for loss, last in (("Barlow Twins, all pairs", 0.004), ("VICReg", 0.05), ("SimCLR", 0.3))
        for k, seed, (step, error) in itertools.product((2, 8), range(3), ((0, 0.9), (800, last)))
    ]
    write(tmp_path, "theory/spans.csv", spans)
    assert outcomes(support_rules.SPANS, tmp_path) == ["yes", "yes", "no", "no", "yes"]
    rows = [
        {
            "at": "equal images",
            "eigenfunctions": 4,
            "views": k,
            "predicted": 1 / k,
            "measured": error,
        }
        for k, error in ((2, 0.5), (4, 0.26), (8, 0.13))
    ]
    write(tmp_path, "theory/estimates.csv", [row | {"standard_error": 0.01} for row in rows])
    assert outcomes(support_rules.ESTIMATES, tmp_path) == ["yes", "yes"]
    rows[-1]["measured"] = 0.3
    write(tmp_path, "theory/estimates.csv", [row | {"standard_error": 0.01} for row in rows])
    assert outcomes(support_rules.ESTIMATES, tmp_path) == ["no", "no"]
    ranks = [
        ("VICReg", 2.0, 2.1),
        ("VICReg", 4.0, 4.1),
        ("Barlow Twins", 2.0, 2.5),
        ("Barlow Twins", 4.0, 5.0),
    ]
    write(
        tmp_path,
        "theory/ranks.csv",
        [dict(zip(("loss", "predicted", "learned"), row, strict=True)) for row in ranks],
    )
    assert outcomes(support_rules.RANKS, tmp_path) == ["yes", "no"]


def test_the_other_rules(tmp_path):
    rows = [
        {
            "method": method,
            "dim": dim,
            "product": product,
            "seed": 0,
            "linear": 0.5 - abs(product - best) / 1000,
        }
        for method, dim, best in (
            ("barlow_twins", 64, 4),
            ("barlow_twins", 256, 64),
            ("vicreg", 1024, 64),  # one of those that its rule was read off
            ("vicreg", 4096, 4),
        )
        for product in (1, 4, 16, 64)
    ]
    write(tmp_path, "weight_rule/runs.csv", rows)
    assert outcomes(support_rules.WEIGHT_RULE, tmp_path) == ["yes", "no", "no"]
    costs = [
        ("a", 0, 2, 10),
        ("a", 0, 8, 40),
        ("a", 1, 8, 90),
        ("b", 0, 2, 10),
        ("b", 0, 8, 60),
        ("b", 1, 8, 50),
    ]
    costs += [("b", 0, 16, "nan")]
    names = ("loss", "loop", "views", "both_ms")
    write(
        tmp_path,
        "losses_cost/losses_cost.csv",
        [dict(zip(names, row, strict=True)) | {"dim": 8} for row in costs],
    )
    assert outcomes(support_rules.LOSSES_COST, tmp_path) == ["yes", "yes", "no", "no"]
    speeds = [("effssl", 2, 1), ("x", 2, 1.5), ("x", 4, 2), ("y", 2, 0.9), ("effssl", 0, 1)]
    speeds += [("effssl without FFCV", 2, 0.9)]  # no other loader
    names = ("loader", "views", "effssl_over_it")
    write(
        tmp_path,
        "throughput/throughput.csv",
        [dict(zip(names, row, strict=True)) | {"size": 32} for row in speeds],
    )
    assert outcomes(support_rules.THROUGHPUT, tmp_path) == ["yes", "no"]

import csv
import itertools

import pandas as pd
import pytest
from scipy import stats

from analysis.harness import claim_rules, support_rules, verdicts
from analysis.harness.stats import estimate

EXACT = (0.0, 0.001, -0.001)  # what three seeds differ by, in [0, 1]: intervals of half a point
NOISY = (0.0, 0.05, -0.05)


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
        ("yes no", "holds in part"),
        ("yes open", "holds in part"),
        ("yes missing", "holds in part"),
        ("no open", "does not hold"),
        ("no missing", "does not hold"),
        ("open open", "not decided"),
        ("open missing", "not decided"),
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
        for rule in (claim_rules.VIEWS, claim_rules.SUBSET, claim_rules.WALLCLOCK)
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
    assert outcomes(claim_rules.ORTHOGONALITY, tmp_path) == expected


def projector_rows(small=0.0, spread=EXACT, seconds=50.0, fixed=-0.1):
    rows = []
    for dim, gap in ((64, -0.02), (256, small), (8192, 0.0)):
        of_dim = {"method": "barlow_twins", "dim": dim, "weight": 3.4 / dim}
        of_dim["seconds"] = 100.0 if dim == 8192 else seconds
        rows += seeds(spread if dim == 256 else (0, 0, 0), 0.5 + gap, **of_dim)
    rows += seeds(
        EXACT, 0.48 + fixed, method="barlow_twins", dim=64, weight=3.4 / 8192, seconds=seconds
    )
    return rows


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (projector_rows(), ["yes", "yes", "yes"]),
        (projector_rows(-0.008), ["open", "yes", "yes"]),  # within a point, but the interval is not
        (projector_rows(-0.005), ["yes", "yes", "yes"]),
        (projector_rows(-0.05, seconds=120.0), ["no", "no", "yes"]),
        (projector_rows(0.0, NOISY), ["open", "yes", "yes"]),
        (projector_rows(fixed=0.1), ["yes", "yes", "no"]),
        (projector_rows()[3:9], ["yes", "yes", "missing"]),
        (projector_rows()[:3], ["missing"]),
    ],
)
def test_width(tmp_path, rows, expected):
    write(tmp_path, "projector/runs.csv", rows)
    assert outcomes(claim_rules.WIDTH, tmp_path) == expected


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
        (views_rows((0.3, 0.4, 0.5), 0.5, NOISY), "yes open open"),
        (views_rows((0.3, 0.4, 0.5), 0.6)[:-2], "open open open"),
    ],
)
def test_views(tmp_path, rows, expected):
    write(tmp_path, "views/runs.csv", rows)
    assert (
        outcomes(claim_rules.VIEWS, tmp_path) == expected.split() + ["missing"] * 3
    )  # there is no K = 4


def test_views_compares_the_longest_runs_at_equal_encoded_views_and_seconds(tmp_path):
    rows = views_rows((0.3, 0.4, 0.5), 0.6)
    rows += seeds((0, 0, 0), 0.2, views=4, epochs=1, seconds=40)  # behind all of K = 2's
    rows += seeds(EXACT, 0.6, views=4, epochs=2, seconds=80)
    write(tmp_path, "views/runs.csv", rows)
    assert outcomes(claim_rules.VIEWS, tmp_path) == ["yes", "yes", "yes", "no", "yes", "yes"]


@pytest.mark.parametrize(
    ("on_all", "on_part", "eight", "encoded", "expected"),
    [
        (0.5, 0.4, 0.5, 1000, "yes yes"),
        (0.5, 0.4, 0.495, 1000, "yes yes"),
        (0.5, 0.4, 0.45, 1000, "no yes"),
        (0.6, 0.5, 0.45, 1000, "no no"),
        (0.5, 0.4, 0.5, 2000, "missing missing"),  # not at equal encoded views
    ],
)
def test_subset(tmp_path, on_all, on_part, eight, encoded, expected):
    rows = seeds((0, 0, 0), on_all, views=2, part=1.0, encoded_views=1000)
    rows += seeds((0, 0, 0), on_part, views=2, part=0.25, encoded_views=990)
    rows += seeds(EXACT, eight, views=8, part=0.25, encoded_views=encoded)
    write(tmp_path, "subset/runs.csv", rows)
    assert outcomes(claim_rules.SUBSET, tmp_path) == [*expected.split(), "missing", "missing"]


def wallclock_rows(target, seconds, reached=(0.3, 0.4, 0.5), slow=400, count=3):
    rows = []
    for seed in range(count):
        off = 0.001 * seed
        rows.append(
            {
                "name": f"bt_k2_d8192_w0.0008_f1_e4_s{seed}",
                "views": 2,
                "dim": 8192,
                "epochs": 4,
                "seed": seed,
            }
        )
        rows[-1] |= {"linear": target + off, "seconds": slow}
        for i, linear in enumerate(reached, 1):
            rows.append(
                {
                    "name": f"bt_k4_d256_f1_e{i}_s{seed}",
                    "views": 4,
                    "dim": 256,
                    "epochs": i,
                    "seed": seed,
                }
            )
            rows[-1] |= {"linear": linear, "seconds": seconds * i}
        other = f"bt_k4_d256_f1_e1_fast_s{seed}"
        rows.append(
            {
                "name": other,
                "views": 4,
                "dim": 256,
                "epochs": 1,
                "seed": seed,
                "linear": 0.9,
                "seconds": 1,
            }
        )
    return rows


@pytest.mark.parametrize(
    ("rows", "expected", "said"),
    [
        (wallclock_rows(0.4, 50), "yes", "3.9"),  # has it at 100 s, or a little later
        (wallclock_rows(0.4, 150), "no", "1.3"),
        (wallclock_rows(0.4, 100), "open", "1.9"),  # 200 s to 202 s
        (wallclock_rows(0.2, 50), "yes", "at least 8"),
        (
            wallclock_rows(0.2, 300),
            "open",
            "at least 1.33",
        ),  # an even shorter run might be fast enough
        (wallclock_rows(0.6, 50), "open", "at most 2.67"),  # it never has it
        (wallclock_rows(0.6, 200), "no", "at most 0.67"),
        (wallclock_rows(0.4, 50, count=1), "open", "one seed: no interval"),
        (
            [row for row in wallclock_rows(0.4, 50) if row["views"] == 4],
            "missing",
            "no seed has both",
        ),
    ],
)
def test_wallclock(tmp_path, rows, expected, said):
    write(tmp_path, "wallclock/runs.csv", rows)
    (part,) = verdicts.decide(tmp_path, [claim_rules.WALLCLOCK]).parts
    assert part.outcome == expected
    assert said in part.seen


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
            ("vicreg", 64, 64),
        )
        for product in (1, 4, 16, 64)
    ]
    write(tmp_path, "weight_rule/runs.csv", rows)
    assert outcomes(support_rules.WEIGHT_RULE, tmp_path) == ["yes", "no", "yes"]
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
    names = ("loader", "views", "effssl_over_it")
    write(
        tmp_path,
        "throughput/throughput.csv",
        [dict(zip(names, row, strict=True)) | {"size": 32} for row in speeds],
    )
    assert outcomes(support_rules.THROUGHPUT, tmp_path) == ["yes", "no"]

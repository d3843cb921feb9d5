import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis.harness import plots, stats, verdicts
from analysis.harness.stats import Estimate


def test_intervals_are_students():
    found = stats.estimate([1, 2, 3])
    assert found == Estimate(
        2, 1, pytest.approx(4.302652729911275 / 3**0.5), 3
    )  # the table's t for two degrees
    values = [3.1, 4.7, 2.2, 9.0, 5.5]
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = stats.estimate(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert stats.estimate([]) is None
    one = stats.estimate([7])
    assert one.mean == 7 and math.isnan(one.std) and one.half == math.inf
    assert stats.mean_std([7]) == "7.0"
    assert stats.mean_std([1, 2, 3]) == "2.0 +- 1.0"


def test_p_is_students():
    values = [3.1, 4.7, 2.2, 9.0, 5.5]
    found = stats.p_value(stats.estimate(values), 2.0)
    assert found == pytest.approx(scipy.stats.ttest_1samp(values, 2.0).pvalue)
    assert stats.p_value(stats.estimate([7]), 0) == 1  # one seed says nothing of the next
    assert stats.p_value(stats.estimate([7, 7]), 0) == 0
    assert stats.p_value(stats.estimate([7, 7]), 7) == 1


def test_holm_steps_down():
    corrected = stats.holm(np.array([0.04, 0.01, 0.03, 0.005]))
    # Holm's own arithmetic: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04 no less than that.
    assert corrected == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert stats.holm(np.array([0.5, 0.9])) == pytest.approx([1, 1])
    assert len(stats.holm(np.array([]))) == 0


@pytest.mark.parametrize("num_parts", [1, 2, 4, 6])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_null_parts_rarely_make_a_verdict(num_parts, shared):
    """Of claims without any truth at most 5% get a `yes` or a `no`, whether parts share runs or
    not; by each part's own p it is far more."""
    rng, num_claims, num_seeds = np.random.default_rng(0), 20_000, 3
    own = rng.standard_normal((num_claims, num_parts, num_seeds))
    common = rng.standard_normal((num_claims, 1, num_seeds))
    found = scipy.stats.ttest_1samp(shared * common + (1 - shared) * own, 0, axis=-1).pvalue
    wrong = (stats.holm(found) <= verdicts.LEVEL).any(axis=-1).mean()
    assert wrong <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / num_claims)
    if num_parts > 3 and not shared:
        assert (found <= verdicts.LEVEL).any(axis=-1).mean() > 0.15


def test_verdicts_on_null_parts_are_those_of_holm():
    """The verdict itself, on fewer made-up claims of four parts each over three seeds."""
    rng, decided, num_claims = np.random.default_rng(1), 0, 1000
    for values in rng.standard_normal((num_claims, 4, 3)):
        parts = [verdicts.over_seeds("", of_part) for of_part in values]
        judged = verdicts.judge(lambda rows, parts=parts: parts, pd.DataFrame())
        decided += judged.verdict != verdicts.NOT_DECIDED
    assert decided / num_claims <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / num_claims)


def test_holm_leaves_parts_open_and_counts_those_not_measured():
    def answers(*parts):
        return [part.outcome for part in verdicts.corrected(list(parts))]

    sure, near = ([x, x + 0.1, x - 0.1] for x in (2.0, 0.35))  # p = 0.0008 and 0.026
    yes, close = (verdicts.over_seeds("", values) for values in (sure, near))
    missing = verdicts.over_seeds("", [])
    assert answers(yes, close) == ["yes", "yes"]  # the second by itself, at 5%
    assert answers(close) == ["yes"]
    assert answers(close, missing) == ["open", "missing"]
    assert answers(close, close, yes) == ["open", "open", "yes"]
    # What is no mean over seeds is as it was seen, and counts for nothing.
    assert answers(close, verdicts.plainly("", False, "")) == ["yes", "no"]


def test_seeds_needed_are_those_that_would_answer_it():
    mean = stats.estimate([1.0, 2.0, 0.0])
    n = stats.seeds_needed(mean, 0.0, 0.05)
    for count, told in ((n - 1, False), (n, True)):
        t = mean.mean / (mean.std / math.sqrt(count))
        assert bool(2 * scipy.stats.t.sf(t, count - 1) <= 0.05) is told
    assert stats.seeds_needed(mean, 0.0, 0.01) > n
    assert stats.seeds_needed(mean, -9.0, 0.05) < n
    assert stats.seeds_needed(mean, 1.0, 0.05) is None  # lies on it
    assert stats.seeds_needed(stats.estimate([3.0]), 0.0, 0.05) is None


def test_an_open_part_says_how_many_seeds_would_tell():
    (part,) = verdicts.corrected([verdicts.over_seeds("", [1.0, 2.0, 0.0], note="why")])
    assert (
        part.outcome == "open"
        and verdicts.notes(part) == f"why; about {part.needed} seeds would tell"
    )
    pair = verdicts.corrected([part, part])
    assert pair[0].needed > part.needed  # two questions
    (sure,) = verdicts.corrected([verdicts.over_seeds("", [1.0, 1.1, 0.9])])
    assert sure.outcome == "yes" and sure.needed is None and verdicts.notes(sure) == ""


def test_differences_are_paired_by_seed():
    a, b = {0: 50.0, 1: 61.0, 2: 70.0, 3: 1.0}, {2: 69.0, 1: 59.0, 0: 49.5, 7: 0.0}
    ours, theirs = (pd.DataFrame({"seed": x.keys(), "linear": x.values()}) for x in (a, b))
    found = stats.estimate(verdicts.differences(ours, theirs, "linear"))
    low, high = scipy.stats.ttest_rel([50, 61, 70], [49.5, 59, 69]).confidence_interval(0.95)
    assert found.n == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_accuracy_between_runs_is_linear_in_log_seconds():
    points = [(10.0, 40.0), (100.0, 60.0), (1000.0, 70.0)]
    assert stats.at_seconds(points, 10 * 10**0.5) == (pytest.approx(50), "at")
    assert stats.at_seconds(points, 100) == (pytest.approx(60), "at")
    assert stats.at_seconds(points, 1000) == (pytest.approx(70), "at")
    assert stats.at_seconds(points, 5) == (40, "before")
    assert stats.at_seconds(points, 2000) == (70, "after")


def test_seconds_to_an_accuracy_invert_that():
    points = [(10.0, 40.0), (100.0, 60.0), (1000.0, 70.0)]
    for accuracy in (40, 45, 60, 61, 70):
        seconds, said = stats.seconds_to(points, accuracy)
        assert said == "at"
        assert stats.at_seconds(points, seconds)[0] == pytest.approx(accuracy)
    assert stats.seconds_to(points, 39) == (10, "by")
    assert stats.seconds_to(points, 71) == (1000, "not by")
    assert stats.seconds_to([(1.0, 10.0), (2.0, 30.0), (4.0, 20.0), (8.0, 40.0)], 20)[
        0
    ] == pytest.approx(2**0.5)


def test_a_longer_run_that_took_less_time_does_not_hide_a_shorter_one():
    points = [(10.0, 40.0), (100.0, 60.0), (90.0, 70.0)]
    assert stats.seconds_to(points, 50) == (pytest.approx(10 * 10**0.5), "at")
    assert stats.seconds_to(points, 65) == (100, "at")
    assert stats.at_seconds(points, 10 * 10**0.5) == (pytest.approx(50), "at")
    assert stats.at_seconds(points, 100) == (60, "at")
    assert stats.at_seconds(points, 101) == (70, "after")


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
    std = half * 3**0.5 / 4.302652729911275  # of three seeds, by the table's t
    n = 3 if math.isfinite(half) else 1
    assert verdicts.answer(Estimate(mean, std, half, n), -margin) == answer


def test_ticks_are_plain_numbers():
    axis = plots.Figure().subplots()
    axis.plot([30, 400], [1, 2])
    plots.few_log_ticks(axis)
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "30",
        "50",
        "70",
        "100",
        "200",
        "300",
    ]

import math

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


def test_differences_are_paired_by_seed():
    a, b = {0: 50.0, 1: 61.0, 2: 70.0, 3: 1.0}, {2: 69.0, 1: 59.0, 0: 49.5, 7: 0.0}
    ours, theirs = (pd.DataFrame({"seed": x.keys(), "linear": x.values()}) for x in (a, b))
    found = stats.estimate(verdicts.differences(ours, theirs, "linear"))
    low, high = scipy.stats.ttest_rel([50, 61, 70], [49.5, 59, 69]).confidence_interval(0.95)
    assert found.n == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_accuracy_between_runs_is_linear_in_log_seconds():
    points = [(1000.0, 70.0), (10.0, 40.0), (100.0, 60.0)]  # in any order
    assert stats.at_seconds(points, 10 * 10**0.5) == (pytest.approx(50), True)
    assert stats.at_seconds(points, 100) == (pytest.approx(60), True)
    assert stats.at_seconds(points, 1000) == (pytest.approx(70), True)
    assert stats.at_seconds(points, 5) == (40, False)
    assert stats.at_seconds(points, 2000) == (70, False)


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
    assert verdicts.answer(Estimate(mean, 1, half, 3), -margin) == answer


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

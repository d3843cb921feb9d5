import numpy as np
import pandas as pd
import pytest

from analysis import rates
from analysis.harness import cli
from effssl.cli import parse


def made(exponent_b: float, exponent_k: float, rate: float = 1e-2) -> pd.DataFrame:
    """Accuracies that are parabolas in log rate, with their tops where a rule has them."""
    rows = []
    for batch in rates.BATCHES:
        for views in rates.VIEWS:
            top = rate * (batch / 64) ** exponent_b * (views / 4) ** exponent_k
            for lr in rates.RATES["muon"]:
                linear = 0.6 - 0.02 * np.log(lr / top) ** 2
                rows.append({"batch": batch, "views": views, "lr": lr, "linear": linear})
    return pd.DataFrame(rows).assign(seed=0, seconds=1.0)


def test_the_rule_that_made_the_accuracies_is_found():
    rule = rates.fit(rates.tops(made(0.3, -0.2)))
    assert rule.rate == pytest.approx(1e-2)
    assert (rule.batch, rule.views) == pytest.approx((0.3, -0.2))
    assert max(rule.batch_half, rule.views_half) < 1e-6


def test_best_rates_at_an_end_of_the_grid_are_told_and_left_out():
    best = rates.tops(made(1.5, 0.0, 6e-2))
    assert best[best["batch"] == rates.BATCHES[-1]]["at_end"].all()
    assert not best[best["batch"] == rates.BATCHES[0]]["at_end"].any()
    assert rates.fit(best[best["at_end"]]) is None
    text = rates.summary(made(1.5, 0.0, 6e-2), best)
    assert "(end)" in text and "b = 1.50" in text


@pytest.mark.parametrize("optimizer", rates.RATES)
@pytest.mark.parametrize("preset", rates.PRESETS)
def test_all_runs_can_begin_and_have_as_many_encoded_views(preset, optimizer, tmp_path):
    parser = cli.training_parser(None, rates.PRESETS, "", "")
    parser.add_argument("--optimizer")
    args = cli.read_flags(parser, ["--preset", preset, "--optimizer", optimizer])
    args.seeds = 1
    configs = [parse(flags) for flags in rates.wanted_of(args).values()]
    assert len({cfg.lr for cfg in configs}) == 5
    assert {cfg.optim.epochs * cfg.augment.views for cfg in configs} == {8}
    assert all(configs.count(cfg) == 1 for cfg in configs) and len(configs) == 45


def test_the_picture_has_a_panel_for_each_number_of_views():
    assert len(rates.picture(made(0.3, 0.0)).axes) == len(rates.VIEWS)

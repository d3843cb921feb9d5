import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from analysis import label_free
from analysis.harness import cli, correlations, records
from effssl.cli import parse


def args_of(tmp_path, *flags):
    parser = cli.training_parser(None, label_free.PRESETS, "", "")
    args = cli.read_flags(parser, [*flags, "--data-dir", str(tmp_path)])
    args.seeds = args.seeds or 2
    return args


@pytest.mark.parametrize("preset", label_free.PRESETS)
def test_every_change_is_one_run_that_can_begin_and_differs_from_the_recipe(tmp_path, preset):
    wanted = label_free.started(args_of(tmp_path, "--preset", preset))
    configs = {name: parse(run.flags) for name, run in wanted.items()}
    assert len(wanted) == 2 * (1 + sum(map(len, label_free.AXES.values())))
    assert {run.axis for run in wanted.values()} == {"base", *label_free.AXES}
    for seed in (0, 1):
        others = [c for n, c in configs.items() if n.endswith(f"_s{seed}")]
        assert all(others.count(cfg) == 1 for cfg in others)
        assert all(cfg.run.seed == cfg.images.split_seed == seed for cfg in others)


def made_probes(noise: float) -> pd.DataFrame:
    """Ten runs of five probes: one measure follows the probe, one goes against it, one is noise."""
    rng = np.random.default_rng(0)
    rows = []
    for run in range(10):
        axis = "base" if run < 2 else ("width" if run < 6 else "rate")
        for step in range(1, 6):
            linear = 0.3 + 0.02 * run + 0.05 * step
            of_probe = {m: rng.normal() for m in correlations.MEASURES}
            of_probe["h/lidar"] = linear + noise * rng.normal()
            of_probe["z/off_diagonal"] = -linear + noise * rng.normal()
            of_probe["h/effective_rank"] = 1 - linear  # the wrong way round
            place = {"run": f"r{run}", "axis": axis, "seed": 0, "step": step, "linear": linear}
            rows.append(place | of_probe)
    return pd.DataFrame(rows)


def trusted(table) -> list[str]:
    return correlations.trusted(table, ["width", "rate"])


@pytest.mark.parametrize("where", ["width", "overall", "claims-cpu"])
def test_only_an_axis_keeps_a_measure_from_being_trusted(where):
    table = correlations.correlations(made_probes(0.01), ["width", "rate"])
    misleads = {"where": where, "measure": "h/lidar", "correlation": -0.9, "low": -1, "high": -0.8}
    assert ("h/lidar" in trusted([*table, misleads])) == (where != "width")


def test_records_keep_the_loss_before_each_probe(tmp_path):
    probe = {"kind": "probe", "linear": 0.3}
    metrics = [
        *({"kind": "train", "step": 1, "loss": 3.0}, {"kind": "train", "step": 2, "loss": 2.5}),
        *(probe | {"step": 2}, {"kind": "train", "step": 3, "loss": 2.0}, probe | {"step": 4}),
    ]
    record, file = {"name": "base_s0", "metrics": metrics}, tmp_path / "set.jsonl"
    wanted = {"base_s0": label_free.Started("base", 0, [])}
    for _ in range(2):  # what is read may be saved again
        records.save(file, [record])
        probes = label_free.probes_of(wanted, [record])
        assert list(probes["loss"]) == [2.5, 2.0]
        record = records.read(file)["base_s0"]
        assert [metric["kind"] for metric in record["metrics"]] == ["probe", "probe"]


def test_measures_that_follow_the_probe_are_trusted_and_those_that_mislead_are_not():
    table = correlations.correlations(made_probes(0.01), ["width", "rate"])
    assert {line["where"] for line in table} == {"overall", "width", "rate", "in time"}
    assert set(trusted(table)) == {"h/lidar", "z/off_diagonal"}
    lines = {(x["where"], x["measure"]): x for x in table}
    assert lines["overall", "h/effective_rank"]["correlation"] == -1
    assert lines["in time", "z/off_diagonal"]["correlation"] < -0.9
    overall = lines["overall", "h/lidar"]
    assert overall["low"] <= overall["correlation"] <= overall["high"] and overall["n"] == 10
    assert lines["width", "h/lidar"]["n"] == 6


def test_noise_and_what_is_not_there_are_not_trusted():
    probes = made_probes(0.01)
    probes["h/lidar"] = np.nan
    probes["z/off_diagonal"] = 0.5
    table = correlations.correlations(probes, ["width", "rate"])
    assert trusted(table) == []
    assert "h/lidar" not in {line["measure"] for line in table}
    assert "Trusted for steering a run: **none**. When to stop was not tested" in (
        label_free.summary(table)
    )


def test_committed_records_are_judged_by_the_measures_that_they_have():
    for name in label_free.OTHER_RECORDS:
        lines = list(correlations.of_records(records.FOLDER / f"{name}.jsonl"))
        assert {line["where"] for line in lines} == {name}
        assert "h/effective_rank" in {line["measure"] for line in lines}


def test_records_that_are_named_have_to_be_there(tmp_path, capsys):
    file = tmp_path / "nowhere.jsonl"
    assert label_free.main(["--runs", str(tmp_path / "runs"), "--records", str(file)]) == 2
    assert capsys.readouterr().err == f"error: --records {file} cannot be read: " + (
        "No such file or directory\n"
    )


def test_the_picture_has_a_panel_for_each_measure():
    figure = label_free.picture(made_probes(0.1))
    shown = [axis.get_xlabel() for axis in figure.axes if axis.get_visible()]
    assert shown == list(correlations.MEASURES)


def test_the_correlation_is_scipys_for_many_samples_at_once():
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 6, (50, 9, 2)).astype(float)  # with ties
    samples[7, :, 0] = 1.0
    each = correlations._spearman(samples)
    for i, sample in enumerate(samples):
        if i == 7:
            assert np.isnan(each[i])
        else:
            assert each[i] == pytest.approx(spearmanr(*sample.T).statistic)

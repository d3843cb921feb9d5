from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import starting
from analysis.harness import cli
from effssl import InputError
from effssl.cli import parse
from effssl.data.paired_vectors import read_vectors


def args_of(tmp_path, *flags):
    parser = cli.training_parser(None, ["cpu", "digits"], "", "")
    parser.add_argument("--init", type=cli.path)
    parser.add_argument("--teacher", type=cli.path)
    args = cli.read_flags(parser, [*flags, "--data-dir", str(tmp_path)])
    args.runs = tmp_path
    return args


@pytest.mark.parametrize("preset", ["cpu", "digits"])
@pytest.mark.parametrize("name", starting.STUDIES)
def test_every_way_can_begin_and_differs_from_the_one_without(tmp_path, preset, name, monkeypatch):
    monkeypatch.setattr(starting, "write_histograms", lambda *args: None)
    args = args_of(tmp_path, "--preset", preset, "--init", "runs/x", "--teacher", "runs/y")
    study = starting.STUDIES[name](args)
    configs = [parse(starting.flags_of(args, study, way, "2e-2", 3)) for way in study.ways]
    assert all(configs.count(cfg) == 1 for cfg in configs)
    assert all(cfg.run.seed == cfg.images.split_seed == 3 for cfg in configs)
    assert configs[0].start.init is None and configs[0].branches.count == 0


def test_a_study_says_what_it_lacks(tmp_path):
    for name, flag in (("continue", "--init RUN"), ("beside", "--teacher RUN")):
        with pytest.raises(InputError, match=flag):
            starting.STUDIES[name](args_of(tmp_path))


def test_histograms_are_of_every_image_by_its_name(tmp_path):
    file = tmp_path / "histograms.npz"
    starting.write_histograms("digits", args_of(tmp_path), file)
    vectors = read_vectors(file, ["train/3", "train/0"])
    assert vectors.shape == (2, 64)
    np.testing.assert_allclose(vectors.sum(1), 1, rtol=1e-5)
    gray = [21 * i for i in range(4)]  # the digits have no colours: red, green and blue are equal
    np.testing.assert_allclose(vectors[:, gray].sum(1), 1, rtol=1e-5)


def rows_of(gain: float) -> pd.DataFrame:
    row = {"lr": "2e-2", "start": 0.2, "knn": 0.3, "recall_at_1": np.nan, "seconds": 10, "steps": 5}
    return pd.DataFrame(
        [
            row | {"way": way, "seed": seed, "linear": 0.4 + 0.01 * seed + extra}
            for way, extra in (("scratch", 0.0), ("continued", gain))
            for seed in range(3)
        ]
    )


def test_the_summary_pairs_the_ways_by_seed():
    study = starting.Study((), (starting.Way("scratch", ()), starting.Way("continued", ())))
    rows = rows_of(0.05)
    rows.loc[4, "linear"] += 0.01
    text = starting.summary(rows, study)
    assert "| continued | 2e-2 | 3 | 20.0 +- 0.0 | 46.3" in text
    says = "continued better than scratch"
    assert f"| {says} | +5.3 | +3.9 to +6.8 | 3 | 0.0039 | yes |" in text


def test_a_way_without_a_finished_run_is_said_to_be_missing():
    study = starting.Study((), (starting.Way("scratch", ()), starting.Way("continued", ())))
    text = starting.summary(rows_of(0.05)[:1], study)
    assert "| scratch | 2e-2 | 1 |" in text and "| continued |  | 0 |" in text
    assert "| continued better than scratch |" in text and "| not measured |" in text


def test_two_questions_are_corrected_by_holm():
    """Of the committed runs the histograms alone would be behind, at p = 0.031."""
    rows = pd.read_csv(Path(starting.__file__).parent / "results" / "starting-beside" / "runs.csv")
    ways = tuple(starting.Way(name, ()) for name in ("views", "teacher", "histograms"))
    text = starting.summary(rows, starting.Study((), ways))
    assert "| histograms better than views | -1.9 | -3.3 to -0.4 | 3 | 0.063 | open |" in text
    assert "| teacher better than views | +0.4 | -1.7 to +2.5 | 3 | 0.51 | open |" in text


def test_the_best_rate_is_chosen_when_all_trials_are_there():
    study = starting.Study((), (starting.Way("scratch", ()),))
    tried = pd.DataFrame(
        {"way": ["scratch"] * 3, "lr": ["6e-3", "2e-2", "6e-2"], "linear": [0.1, 0.3, 0.2]}
    )
    assert starting.choose(tried, study) == {"scratch": "2e-2"}
    assert starting.choose(tried[:2], study) == {}
    assert starting.choose(tried[:2], study, ["scratch_lr6e-2_s1000"]) == {"scratch": "2e-2"}
    assert starting.choose(tried[:2], study, ["other_lr6e-2_s1000"]) == {}

import argparse
import csv
import itertools
import shutil

import numpy as np
import pytest
import torch

from analysis import orthogonality, report
from analysis.harness import orthogonality_measures, orthogonality_picture, training
from analysis.harness.plots import write_picture
from effssl import cli, losses
from effssl.data.stored import open_data
from effssl.evaluation.encode import open_streams
from effssl.evaluation.finished_run import open_run
from effssl.evaluation.spectrum import decay_exponent
from effssl.losses.auto_weights import decorrelation_weight
from effssl.models import build_encoder
from effssl.run.device import open_runtime
from effssl.run.log import read_metrics
from tests.analysis.made_runs import trained_here

pytestmark = pytest.mark.slow

TINY = [
    *(
        "--image-size",
        "8",
        "--fraction",
        "0.2",
        "--epochs",
        "2",
        "--probe-every",
        "1",
        "--precision",
        "fp32",
    ),
    *("--backbone-kwargs", "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}"),
]


def rows_of(folder):
    return list(csv.DictReader((folder / "runs.csv").open()))


def by_numpy(x):
    """Return effective rank, off-diagonal energy and alpha by their definitions; correlations;
    eigenvalues; the line fitted."""
    n = len(x)
    p = np.linalg.svd(x, compute_uv=False)
    p = p[p > 1e-7 * p[0]]
    p = p / p.sum()
    with np.errstate(invalid="ignore"):  # a constant dimension has no correlation
        c = np.corrcoef(x, rowvar=False)
    off = c[~np.eye(len(c), dtype=bool)]
    off = off[~np.isnan(off)]
    values = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1]
    values = values[values > 1e-12 * values[0]]
    rank = np.arange(4, min(100, len(values)) + 1)
    slope, level = np.polyfit(np.log(rank), np.log(values[3 : rank[-1]]), 1, w=rank**-0.5)
    measures = {
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        "off_diagonal": (off**2).mean() - 1 / (n - 1),
    }
    return measures | {"alpha": -slope}, c, values, np.exp(level + slope * np.log(rank))


@pytest.fixture(scope="module")
def measured(finished):
    return orthogonality_measures.measure_runs([finished])


@pytest.mark.slow
def test_measures_are_those_of_numpy_on_the_validation_images(finished, measured):
    run = open_run(finished)
    data = open_data(run.cfg.images)
    sizes = {"seed": 0, "batch_size": 64, "workers": 2}
    streams = open_streams(data, run.cfg.augment, **sizes, runtime=open_runtime("cpu"))
    x = torch.cat(list(streams["train"].clean(data.val_positions)))
    fresh = build_encoder(run.cfg.model, run.cfg.augment, run.cfg.run.seed)
    encoders = [(run.backbone, run.projector), (fresh.backbone, fresh.projector)]
    assert [each.row["run"] for each in measured] == [finished.name, ""]
    for each, (backbone, projector) in zip(measured, encoders, strict=True):
        with torch.no_grad():
            h = backbone.eval()(x)
            z = projector.eval()(h)
        assert (each.row["images"], each.row["split"]) == (len(x), "validation")
        for of, y in {"h": h, "z": z}.items():
            measures, c, values, _ = by_numpy(y.double().numpy())
            if (
                len(values) < y.shape[1]
            ):  # alpha would be of what float32's rounding leaves of empty dimensions
                del measures["alpha"]
            for name, value in measures.items():
                assert each.row[f"{of}/{name}"] == pytest.approx(value, rel=1e-3, abs=2e-4), (
                    of,
                    name,
                )
            np.testing.assert_allclose(each.correlation[of], c, atol=1e-4)
            count = (
                min(len(values), len(each.eigenvalues[of])) // 2
            )  # float32 rounding moves the small ones
            np.testing.assert_allclose(each.eigenvalues[of][:count], values[:count], rtol=1e-3)


def test_alpha_and_its_line_are_numpy_s_weighted_fit():
    x = (
        torch.randn(300, 150, generator=torch.Generator().manual_seed(0))
        * torch.arange(1, 151) ** -0.6
    )
    measures, _, values, line = by_numpy(x.double().numpy())
    np.testing.assert_allclose(orthogonality_measures.eigenvalues(x), values)
    assert decay_exponent(x) == pytest.approx(measures["alpha"])
    rank, fit = orthogonality_picture.fitted(values, decay_exponent(x))
    np.testing.assert_allclose(fit, line)
    assert (rank[0], rank[-1]) == (4, 100)


def test_accuracy_and_course_are_those_of_the_run_s_own_probes(finished, measured):
    first, last = [r for r in read_metrics(finished) if r["kind"] == "probe"]
    trained, untrained = measured
    for each, record in ((trained, last), (untrained, first)):
        for key in ("linear", "knn", "h/effective_rank", "z/effective_rank", "z/off_diagonal"):
            assert each.row[key] == pytest.approx(record[key], rel=1e-3, abs=2e-4)
    assert trained.course == [first, last]


def test_correlations_are_cut_and_constant_dimensions_have_none():
    x = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 1 / 3
    c = orthogonality_measures.correlation(x)
    assert c.shape == (256, 256)
    assert c[7].isnan().all() and c[:, 7].isnan().all()
    kept = [i for i in range(256) if i != 7]
    np.testing.assert_allclose(
        c[kept][:, kept], np.corrcoef(x[:, kept].numpy(), rowvar=False), atol=1e-6
    )


def test_eigenvalues_leave_out_what_is_noise():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double() @ torch.ones(
        3, 60
    ).double().cumsum(1)
    values = orthogonality_measures.eigenvalues(x)
    assert len(values) == 1
    assert float(values[0]) == pytest.approx(float(x.var(0).sum()))


def config(*flags):
    return cli.parse(["--data", "digits", *map(str, flags)])


def test_recipes_tell_runs_apart_that_differ_by_more_than_the_seed():
    base = (
        config("--seed", 0, "--data-dir", "a"),
        config("--seed", 1, "--data-dir", "b", "--workers", 5),
    )
    names = orthogonality_measures.recipes(list(base))
    assert names[0] == names[1] == ("VICReg, d = 64, w d = 40", "untrained, d = 64")
    others = [
        config("--views", 8),
        config("--cov-weight", 0.15625),
        config("--method", "barlow_twins", "--lr", 0.1),
    ]
    names = orthogonality_measures.recipes([base[0], *others])
    assert names[0][0] == "VICReg, d = 64, w d = 40, views 4, lr 0.03"
    assert names[1][0] == "VICReg, d = 64, w d = 40, views 8, lr 0.03"
    assert names[2][0] == "VICReg, d = 64, w d = 0.4, views 4, lr 0.03"
    assert names[3][0] == "Barlow Twins, d = 64, w d = 3.4, views 4, lr 0.1"
    assert names[1][1] == "untrained, d = 64, views 8"


def test_the_pair_differs_in_its_weight_by_a_hundred():
    parser_defaults = argparse.Namespace(
        preset="cpu", method="vicreg", data_dir=None, widths=None, seeds=None, further=[]
    )
    for method in ("vicreg", "barlow_twins"):
        parser_defaults.method = method
        wanted = orthogonality.wanted(parser_defaults)
        assert len(wanted) == 6
        weights = {}
        for name, flags in wanted.items():
            cfg = cli.parse(flags)
            assert cfg.probe.final_images == 0  # test is not read
            weights[cfg.model.proj_dim, "over" in name] = decorrelation_weight(
                cfg.loss, cfg.model.proj_dim
            )
        for dim in (64, 256, 1024):
            rule = (
                losses.cov_weight(dim, 1) if method == "vicreg" else losses.redundancy_weight(dim)
            )
            assert weights[dim, False] == pytest.approx(rule)
            assert weights[dim, True] == pytest.approx(rule / 100)


@pytest.mark.slow
def test_the_digits_pair_is_trained_once_and_compared(digits_dir, tmp_path, capsys, monkeypatch):
    flags = [
        "--data-dir",
        str(digits_dir),
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    flags += ["--seeds", "1", "--widths", "16", "--", *TINY]
    with trained_here():
        assert orthogonality.main(flags) == 0
    results = sorted((tmp_path / "runs").glob("*/result.json"))
    before = [file.stat().st_mtime_ns for file in results]
    rows = rows_of(tmp_path / "out")
    assert [row["recipe"] for row in rows] == [
        "VICReg, d = 16, w d = 40",
        "VICReg, d = 16, w d = 0.4",
        "untrained, d = 16",
    ]
    for row in rows:
        assert 1 <= float(row["z/effective_rank"]) <= 16
        assert 1 <= float(row["z/lidar"]) <= 16
        assert 0 <= float(row["linear"]) <= 1
        assert row["split"] == "validation"
    text = (tmp_path / "out" / "summary.md").read_text()
    assert text in capsys.readouterr().out
    for said in (
        "commit",
        "validation images",
        "the test split is not read",
        "| VICReg, d = 16, w d = 40 | 1 |",
    ):
        assert said in text
    assert (tmp_path / "out" / "orthogonality.png").stat().st_size > 50_000
    monkeypatch.setattr(orthogonality, "write_picture", lambda *_, **__: None)  # it takes seconds
    assert orthogonality.main(flags) == 0
    assert [file.stat().st_mtime_ns for file in results] == before
    assert len(before) == 2
    # Other runs of both, by name, and without a projector
    folders = [file.parent for file in results]
    (folders[1] / "checkpoint.pt").unlink()
    assert orthogonality.main([*map(str, folders), "--out", str(tmp_path / "named")]) == 0
    named = {row["run"]: row for row in rows_of(tmp_path / "named")}
    assert named[folders[0].name]["z/lidar"] == next(
        r["z/lidar"] for r in rows if r["run"] == folders[0].name
    )
    assert named[folders[1].name]["z/lidar"] == "" != named[folders[1].name]["h/lidar"]


@pytest.mark.slow
def test_several_widths_and_more_recipes_than_maps_make_a_picture(measured, tmp_path):
    trained, untrained = measured
    many = [
        trained._replace(
            row=trained.row
            | {"recipe": f"VICReg, d = {dim}, w d = {product}", "dim": dim, "seed": seed}
        )
        for dim, product, seed in itertools.product((16, 64, 256), (1, 2, 3), (0, 1))
    ]
    figure = orthogonality_picture.picture([*many, untrained])
    write_picture(tmp_path / "many.png", figure, dpi=130, palette=True)
    assert (tmp_path / "many.png").stat().st_size > 50_000
    assert list(tmp_path.iterdir()) == [tmp_path / "many.png"]


def test_the_summary_is_mean_and_deviation_over_seeds():
    empty = {f"{of}/{name}": "" for of in "hz" for name in orthogonality_measures.MEASURES}
    rows = [
        empty | {"recipe": "a", "linear": 0.5 + 0.1 * seed, "knn": "", "z/lidar": 3.0}
        for seed in range(2)
    ]
    (line,), (of_h,) = orthogonality.summary(rows)
    assert line["n"] == of_h["n"] == 2
    assert (list(of_h)[2:], of_h["LiDAR h"]) == (["rank h", "off-diag h", "alpha h", "LiDAR h"], "")
    assert (line["linear %"], line["kNN %"], line["LiDAR z"]) == ("55.0 +- 7.1", "", "3.0 +- 0.0")


@pytest.mark.parametrize(
    "flags",
    [["nowhere"], ["RUN", "--", "--lr", "1"], ["--", "--no-such-flag", "1"]],
)
def test_bad_input_is_one_line(flags, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert orthogonality.main([str(finished) if flag == "RUN" else flag for flag in flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--seeds", "--parallel", "--widths"])
def test_numbers_below_1_are_refused(flag, capsys):
    """With no run at once the command would wait for ever."""
    with pytest.raises(SystemExit) as ended:
        orthogonality.main([flag, "-1"])
    assert ended.value.code == 2
    assert f"{flag}: must be at least 1, not -1" in capsys.readouterr().err


def test_a_wrong_flag_is_one_line(capsys):
    for main in (orthogonality.main, report.main):
        with pytest.raises(SystemExit) as ended:
            main(["--no-such-flag"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == "error: unrecognized arguments: --no-such-flag\n"


def test_an_output_that_cannot_be_written_is_one_line(finished, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert orthogonality.main([str(finished), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_damaged_run_is_one_line(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert orthogonality.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "has not finished" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "complete", interrupted)
    assert orthogonality.main(["--runs", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err

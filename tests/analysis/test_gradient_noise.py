"""The noise of a gradient, on vectors with known moments, on a job, and as the command reports."""

import math

import pandas as pd
import pytest
import torch

from analysis import gradient_noise
from analysis.harness import gradients, support_rules, verdicts
from effssl import cli
from effssl.train.job import build_job
from tests.analysis.made_runs import TINY, cells


def test_noise_and_signal_are_those_of_the_vectors():
    mean, deviation = torch.zeros(400), 0.5
    mean[0] = 3.0
    generator = torch.Generator().manual_seed(0)
    drawn = [mean + deviation * torch.randn(400, generator=generator) for _ in range(2000)]
    found = gradients.noise(drawn, mean)
    assert found.variance == pytest.approx(400 * deviation**2, rel=0.01)
    assert found.signal == pytest.approx(9.0, rel=0.05)
    assert found.to_signal == pytest.approx(100 / 9, rel=0.05)
    assert found.cosine == pytest.approx(3 / math.sqrt(9 + 100), rel=0.05)


def test_without_a_signal_the_noise_over_it_is_not_a_small_number():
    generator = torch.Generator().manual_seed(1)
    ratios = [
        gradients.noise([torch.randn(500, generator=generator) for _ in range(8)], torch.ones(500))
        for _ in range(20)
    ]
    # The estimate of |E g|^2 = 0 has no bias: it is below 0 as often as above.
    assert 3 <= sum(each.to_signal == math.inf for each in ratios) <= 17
    assert all(each.to_signal > 5 for each in ratios)


@pytest.fixture(scope="module")
def job(digits_dir):
    flags = [*TINY, "--data-dir", str(digits_dir), "--views", "2", "--batch-size", "64"]
    return build_job(cli.parse(flags))


def test_gradients_leave_the_weights_and_are_of_other_batches_each(job):
    before = [p.clone() for p in job.encoder.parameters()]
    first = list(gradients.gradients(job, 3))
    again = list(gradients.gradients(job, 3))
    for ours, theirs in zip(first, again, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(first[0], first[1], rtol=0.01)
    torch.testing.assert_close(before, list(job.encoder.parameters()), rtol=0, atol=0)
    assert all(p.grad is None for p in job.encoder.parameters())
    # More batches than an epoch has go on with the next one, in another order.
    many = list(gradients.gradients(job, job.steps_per_epoch + 2))
    assert len(many) == job.steps_per_epoch + 2
    assert not torch.allclose(many[0], many[-2], rtol=0.01)


def test_training_here_is_training_there(job):
    assert [gradients.flat_gradient(job.encoder.backbone).abs().sum()] == [0]
    assert list(gradient_noise.train(job, 5)) == [1, 2, 3, 4, 5] and job.step == 5


def made(ratio_of, seeds=3):
    """Return rows whose variance is ratio_of(views, images) of a seed, and without a signal."""
    return pd.DataFrame(
        [
            {"seed": s, "at": at, "views": k, "images": n, "encoded_views": k * n}
            | {"variance": ratio_of(k, n) * (1 + 0.01 * s), "to_signal": math.inf, "cosine": 0.5}
            for s in range(seeds)
            for at in (0.1, 1.0)
            for k, n in ((2, 64), (4, 64), (8, 64), (2, 256), (4, 128))
        ]
    )


def test_noise_that_falls_with_images_alone_does_not_hold():
    # A mean over images: 1 / n, whatever the views. At as many views K = 8 has 4 times as much.
    judged = verdicts.judge(support_rules.gradient_noise, made(lambda k, n: 10 / n))
    assert judged.verdict == "does not hold"
    assert [part.mean.mean for part in judged.parts] == pytest.approx([-1, -2, -1, -2])


def test_noise_that_falls_with_pairs_holds():
    rows = made(lambda k, n: (1 + 0.001 * n) / (n * k * (k - 1)))
    judged = verdicts.judge(support_rules.gradient_noise, rows)
    assert judged.verdict == "holds"
    # 64 (2) images of K = 8 have 28 pairs each, 256 of K = 2 have one.
    assert judged.parts[1].mean.mean == pytest.approx(math.log2(1.256 / 512 * 3584 / 1.064))


@pytest.mark.slow
def test_the_command_measures_writes_and_goes_on(digits_dir, tmp_path, capsys):
    flags = ["--preset", "digits", "--data-dir", str(digits_dir), "--out", str(tmp_path)]
    flags += ["--seeds", "2", "--at", "0.1", "1", "--images", "16", "--batches", "3"]
    flags += ["--", *TINY, "--epochs", "1"]
    assert gradient_noise.main(flags) == 0
    rows = pd.read_csv(tmp_path / "runs.csv")
    kinds = {(2, 16), (2, 64), (4, 16), (4, 32), (8, 16)}
    assert len(rows) == 2 * 2 * 5 and set(zip(rows["views"], rows["images"], strict=True)) == kinds
    assert (rows["variance"] > 0).all() and rows["cosine"].abs().max() <= 1
    said = (tmp_path / "summary.md").read_text()
    assert len(cells(said, "after 10% of the steps, K = 8: less noise than K = 2")) == 7
    assert "python analysis/" in said and (tmp_path / "gradient_noise.png").is_file()
    kept = (tmp_path / "seed3.json").stat().st_mtime_ns
    assert gradient_noise.main(flags) == 0
    assert (tmp_path / "seed3.json").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert gradient_noise.main([*flags, "--lr", "0.1"]) == 2
    assert "seed3.json was measured with another lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--at", "0"], ["--at", "1.5"], ["--batches", "1"], ["--", "--lr", "x"]]
)
def test_bad_flags_are_one_line_and_exit_code_2(flags, tmp_path, capsys):
    try:
        code = gradient_noise.main(["--out", str(tmp_path), *flags])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ")
    assert not list(tmp_path.iterdir())

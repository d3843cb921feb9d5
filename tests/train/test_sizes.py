"""Training on views of several sizes: which the encoder is given at each step, and that a run which
was stopped ends where an uninterrupted one ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from effssl import InputError, cli
from effssl.run.log import read_metrics
from effssl.train import forward
from effssl.train import loop as train
from effssl.train.job import build_job
from tests.conftest import QUICK, varied_sizes

pytestmark = pytest.mark.slow

SIZES = [
    *("--image-size", "16", "--first-size", "8", "--grow-by", "4", "--grow-until", "0.8"),
    *("--small-views", "3", "--small-size", "8", "--small-crop-scale", "0.1", "0.5"),
]


def test_views_grow_and_small_ones_lie_beside_them(digits_dir, tmp_path, capsys):
    flags = [*QUICK, "--data-dir", str(digits_dir), "--out", str(tmp_path / "run"), *SIZES]
    job = build_job(cli.parse([*flags, "--epochs", "2"]))
    given = Counter()
    forward = job.forward

    def seen(*groups):
        given.update([tuple(tuple(x.shape) for x in groups)])
        return forward(*groups)

    job.forward = seen
    assert train.train(job) == 0
    small = (3 * 256, 3, 8, 8)
    assert list(given.items()) == [  # ten steps: 40% with each of two sizes, the rest with the last
        (((2 * 256, 3, side, side), small), count) for side, count in ((8, 4), (12, 4), (16, 2))
    ]
    assert read_metrics(job.out)[-1]["encoded_views"] == 10 * 256 * 5
    assert "2 views (of 8 px at first, 16 px at last) and 3 of 8 px," in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on_with_the_sizes_of_its_steps(tmp_path):
    flags = [*QUICK, *varied_sizes(tmp_path), *SIZES, "--epochs", "3", "--norm-by-view"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main(cli.parse([*flags, "--out", str(whole)])) == 0
    assert train.main(cli.parse([*flags, "--out", str(halves), "--max-seconds", "1e-6"])) == 0
    assert train.main(cli.parse(["--resume", str(halves), "--max-seconds", "1000"])) == 0
    ends = [(run / "backbone.safetensors").read_bytes() for run in (whole, halves)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--first-size", "8"], "--first-size 8: must be less than the views' side, 8"),
        (["--small-views", "-1"], "--small-views"),
        (["--views", "1"], "--views 1: must be at least 2 in training"),
        (["--grow-until", "0"], "--grow-until"),
        (
            ["--image-size", "16", "--first-size", "8", "--backbone", "vit_tiny_patch16_224"],
            "vit_tiny_patch16_224 does not take images of 8 px",
        ),
        (
            ["--image-size", "16", "--small-views", "1", "--backbone", "vit_tiny_patch16_224"],
            "vit_tiny_patch16_224 does not take images of 8 px",
        ),
    ],
)
def test_sizes_that_cannot_be_are_one_line(flags, message, digits_dir, tmp_path):
    out = tmp_path / "run"
    given = [*QUICK, "--data-dir", str(digits_dir), "--out", str(out), *flags]
    if "--backbone" in flags:
        given += ["--backbone-kwargs", "{depth: 1, embed_dim: 24}"]
    with pytest.raises(InputError, match=message):
        build_job(cli.parse(given))
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "processes", "fewest"),
    [
        ([], 1, 2),
        ([], 4, 4),
        (["--norm-by-view"], 4, 8),
        (["--small-views", "1"], 4, 8),
        (["--views", "1", "--small-views", "2"], 1, 2),
        (["--small-views", "2"], 4, 4),
    ],
)
def test_no_view_is_normalised_alone_in_its_process(
    flags, processes, fewest, digits_dir, tmp_path, monkeypatch
):
    cfg = cli.parse([*QUICK, "--data-dir", str(digits_dir), "--out", str(tmp_path / "run"), *flags])
    monkeypatch.setattr(forward.distributed, "world_size", lambda: processes)
    assert forward.fewest_images(cfg) == fewest
    if fewest == 2 * processes > 2:
        few = replace(cfg, optim=replace(cfg.optim, batch_size=processes))
        with pytest.raises(InputError, match=f"--batch-size {processes} is too small to normalise"):
            build_job(few)

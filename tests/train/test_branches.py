"""Rows of z that are no views: of a teacher's representations, and of vectors from a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from effssl import InputError, cli
from effssl.embed.run import embed_set
from effssl.evaluate import run as evaluate
from effssl.image_config import Storage
from effssl.models import load_backbone
from effssl.run.log import read_metrics
from effssl.train import branches, step
from effssl.train import loop as train
from effssl.train.job import Batch, build_job
from tests.conftest import QUICK

pytestmark = pytest.mark.slow

NO_END = ("--final-images", 0)  # no table at the end


def flags_of(digits_dir, out, *more):
    return [*map(str, [*QUICK, "--data-dir", digits_dir, "--out", out, "--epochs", 2, *more])]


@pytest.fixture(scope="module")
def vectors(digits_dir, finished, tmp_path_factory):
    """Representations of the digits, as `effssl embed` writes them."""
    file = tmp_path_factory.mktemp("vectors") / "h.npz"
    embed_set(finished, Storage(data="digits", data_dir=digits_dir), to=file)
    return file


def prepared(digits_dir, out, *more):
    job = build_job(cli.parse(flags_of(digits_dir, out, *more)))
    job.out.mkdir()
    branches.prepare_branches(job.branches, job.data, job.stream, job.cfg.augment, job.out)
    return job


@pytest.mark.parametrize("more", [[], ["--norm-by-view"], ["--small-views", 1]])
def test_each_branch_is_a_row_of_z_of_the_same_images(
    digits_dir, finished, vectors, tmp_path, more
):
    flags = ["--teacher", finished, "--paired", vectors, *more]
    job = prepared(digits_dir, tmp_path / "run", *flags)
    batch = next(job.batches(0))
    z = step._encode(job, batch)
    num_views = 3 if "--small-views" in more else 2
    assert z.shape == (num_views + 2, 256, 16)
    order = job.positions(0)[:256]
    known = np.load(vectors)["representations"]
    names = np.load(vectors)["names"].tolist()
    expected = torch.from_numpy(known[[names.index(f"train/{i}") for i in order]])
    # The teacher is the backbone that wrote the file: both branches have the same vectors.
    torch.testing.assert_close(batch.vectors[1], expected)
    torch.testing.assert_close(batch.vectors[0], expected, rtol=2e-3, atol=1e-3)
    again = torch.cat([b(v) for b, v in zip(job.encoder.branches, batch.vectors, strict=True)])
    torch.testing.assert_close(z[num_views:], again.unflatten(0, (2, 256)))
    step.leave_gradients(job, batch, print)
    assert all(p.grad.abs().sum() > 0 for b in job.encoder.branches for p in b.parameters())


def test_parts_of_a_batch_have_its_vectors(digits_dir, vectors, tmp_path):
    job = prepared(digits_dir, tmp_path / "run", "--paired", vectors, "--proj-norm", "none")
    job.encoder.eval()  # BatchNorm apart
    batch = next(job.batches(0))
    step._whole(job, batch)
    of_whole = [p.grad.clone() for p in job.encoder.parameters()]
    job.optimizer.zero_grad()
    step._in_parts(job, batch, 100)
    for one, p in zip(of_whole, job.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("more", ["--teacher", "--norm-by-view"])
def test_parts_leave_no_row_alone_that_is_normalised(digits_dir, finished, tmp_path, more):
    flags = [more, finished] if more == "--teacher" else [more]
    flags += ["--image-size", 16]  # below that the backbone's last maps are of one pixel
    with pytest.raises(InputError, match="--micro-batch 1 is too small to normalise: at least 2"):
        prepared(digits_dir, tmp_path / "one", *flags, "--micro-batch", 1)
    # With --norm-by-view a view is alone in the backbone too.
    one = [("1", "--proj-norm", "layer")] if more == "--teacher" else []
    for i, micro in enumerate([("2",), *one]):
        job = prepared(digits_dir, tmp_path / f"{i}", *flags, "--micro-batch", *micro)
        whole = next(job.batches(0))
        three = Batch([g[:, :3] for g in whole.groups], [rows[:3] for rows in whole.vectors])
        step.leave_gradients(job, three, print)
        assert all(p.grad.isfinite().all() for p in job.encoder.parameters())


def test_a_teacher_sees_each_image_once_and_its_student_can_be_evaluated(
    digits_dir, finished, vectors, tmp_path
):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    flags = ["--teacher", f"mine={finished / 'backbone.safetensors'}", "--paired", vectors]
    flags += NO_END
    assert train.main(cli.parse(flags_of(digits_dir, whole, *flags))) == 0
    assert np.load(whole / "teacher.npy").shape == (1437, 16)
    probes = [r for r in read_metrics(whole) if r["kind"] == "probe"]
    assert all(0 <= r["paired/recall_at_1"] <= 1 for r in probes)
    assert evaluate.main(cli.parse_evaluation([str(whole), "--num-averaged-views", "0"])) == 0
    first = flags_of(digits_dir, halves, *flags)
    assert train.main(cli.parse([*first, "--max-seconds", "1e-6"])) == 0
    kept = (halves / "teacher.npy").stat().st_mtime_ns
    assert train.main(cli.parse(["--resume", str(halves), "--max-seconds", "1000"])) == 0
    assert (halves / "teacher.npy").stat().st_mtime_ns == kept
    ends = [(run / "backbone.safetensors").read_bytes() for run in (whole, halves)]
    assert ends[0] == ends[1]


def test_a_student_comes_near_to_what_its_teacher_says(digits_dir, finished, tmp_path):
    """The row of the teacher takes part in the loss: the embeddings of both agree after it."""
    job = prepared(digits_dir, tmp_path / "run", "--teacher", finished, "--epochs", 15, *NO_END)

    def invariance():
        z = step._encode(job, next(job.batches(0)))
        return float((z[:2].mean(0) - z[2]).square().mean() / z[2].var(0).mean())

    before = invariance()
    assert train.train(job) == 0
    job.step = 0
    assert invariance() < 0.7 * before


def test_images_without_a_vector_are_named(digits_dir, vectors, tmp_path):
    known = np.load(vectors)
    few = tmp_path / "few.npz"
    np.savez(few, names=known["names"][5:], representations=known["representations"][5:])
    with pytest.raises(InputError, match="no vector of 5 of 1437 images: train/0, train/1"):
        build_job(cli.parse(flags_of(digits_dir, tmp_path / "run", "--paired", few)))
    with pytest.raises(InputError, match="--teacher timm: must be NAME=FILE or a run's folder"):
        cli.parse(["--teacher", "timm"])
    with pytest.raises(InputError, match=r"nothing\.pth: no such file"):
        build_job(
            cli.parse(flags_of(digits_dir, tmp_path / "r", "--teacher", "resnet18=nothing.pth"))
        )


def test_what_a_run_says_of_its_branches_is_absolute(digits_dir, finished, vectors, tmp_path):
    out = tmp_path / "run"
    flags = flags_of(
        digits_dir, out, "--teacher", finished, "--paired", vectors, "--final-images", 0
    )
    assert train.main(cli.parse(flags)) == 0
    cfg = cli.parse(["--config", str(out / "config.yaml")])
    assert cfg.branches.teacher == str(finished.resolve())
    assert cfg.branches.paired == vectors.resolve()
    assert json.loads((out / "result.json").read_text())["encoded_views"] == 2 * 5 * 256 * 2
    assert load_backbone(out)[0] is not None

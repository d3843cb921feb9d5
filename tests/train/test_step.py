"""Gradients of a whole batch from parts of it, steps that are skipped, and gradients that are
shortened.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch

from effssl import InputError, cli
from effssl.run import device
from effssl.run.log import read_metrics
from effssl.train import loop as train
from effssl.train import step
from effssl.train.job import Batch, build_job
from tests.conftest import QUICK

pytestmark = pytest.mark.slow

SMALL = ["--small-views", "1", "--small-size", "8", "--image-size", "16", "--views", "3"]
VIT = ["--backbone", "vit_tiny_patch16_224", "--proj-norm", "none"]
PLAIN = [
    *VIT,
    "--backbone-kwargs",
    "{depth: 1, embed_dim: 12, num_heads: 2, dynamic_img_size: true}",
]
DROPS = ["--backbone-kwargs", "{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1], drop_path_rate: 0.5}"]


@pytest.fixture
def job_of(digits_dir, tmp_path):
    def build(*flags):
        given = [*QUICK, "--data-dir", digits_dir, "--out", tmp_path / "run", *flags]
        return build_job(cli.parse([*map(str, given)]))

    return build


def batch(job):
    return next(job.batches(0))


def gradients(job):
    return [p.grad.clone() for p in job.encoder.parameters()]


@pytest.mark.parametrize("method", ["vicreg", "barlow_twins"])
@pytest.mark.parametrize("count", [2, 11])
def test_parts_have_the_gradient_of_the_whole_batch(job_of, method, count):
    """Without BatchNorm, in float64; with small views beside, and parts that are not equal."""
    job = job_of(*PLAIN, *SMALL, "--method", method, "--weight-ortho", 1, "--batch-size", 32)
    job.encoder.double()
    doubled = Batch([group.double() for group in batch(job).groups], [])
    whole = step._whole(job, doubled)
    of_whole = gradients(job)
    job.optimizer.zero_grad()
    parts = step._in_parts(job, doubled, count)
    assert parts.keys() == whole.keys()
    for name, term in whole.items():
        torch.testing.assert_close(parts[name], term, rtol=1e-9, atol=0)
    largest = max(g.abs().max() for g in of_whole)
    for one, other in zip(of_whole, gradients(job), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9 * largest.item())
    assert largest > 0


def test_parts_draw_the_same_random_numbers_twice_and_move_running_averages_once(job_of):
    """As if all parts had been encoded one after the other, and their graphs had been kept."""
    job = job_of(*DROPS)
    whole = batch(job)
    state = copy.deepcopy(job.encoder.state_dict())
    torch.manual_seed(1)
    parts = [Batch([part], []) for part in whole.groups[0].tensor_split(3, 1)]
    z = torch.cat([step._encode(job, part) for part in parts], 1)
    job.loss_of(z)["loss"].backward()
    wanted, averages = gradients(job), copy.deepcopy(job.encoder.state_dict())
    job.encoder.load_state_dict(state)
    job.optimizer.zero_grad()
    torch.manual_seed(1)
    step._in_parts(job, whole, 3)
    for one, other in zip(wanted, gradients(job), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(v, averages[k]) for k, v in job.encoder.state_dict().items())


def full_beyond(job, most):
    """Let the device be full if more than `most` views are encoded with a graph."""
    forward = job.forward

    def limited(views):
        if len(views) > most and torch.is_grad_enabled():
            forward(views[:3])  # running averages and random numbers have moved
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
        return forward(views)

    job.forward = limited


def test_auto_halves_until_a_step_fits_and_then_stays(job_of):
    job, lines = job_of(*DROPS, "--micro-batch", "auto"), []
    whole, state = batch(job), copy.deepcopy(job.encoder.state_dict())
    torch.manual_seed(1)
    step._in_parts(job, whole, 4)
    wanted = gradients(job)
    job.encoder.load_state_dict(state)
    job.optimizer.zero_grad()
    torch.manual_seed(1)
    full_beyond(job, 2 * 64)
    step.leave_gradients(job, whole, lines.append)
    assert [torch.equal(a, b) for a, b in zip(wanted, gradients(job), strict=True)].count(
        False
    ) == 0
    assert job.micro_batch == 64
    assert lines == [
        f"--micro-batch auto: the views of {size} images do not fit at once; from step 0 on it is "
        f"those of {size // 2}"
        for size in (256, 128)
    ]
    step.leave_gradients(job, whole, lines.append)
    assert len(lines) == 2


@pytest.mark.parametrize(
    "flags", [SMALL, ["--norm-by-view", "--proj-norm", "layer", "--image-size", 8]]
)
def test_parts_leave_no_view_alone_that_is_normalised(job_of, flags):
    """The backbone's last maps are of one pixel, and one view of an image is by itself."""
    with pytest.raises(InputError, match="--micro-batch 1 is too small to normalise: at least 2"):
        job_of(*flags, "--micro-batch", 1)
    job = job_of(*flags, "--micro-batch", 2)
    three = Batch([group[:, :3] for group in batch(job).groups], [])
    step.leave_gradients(job, three, print)
    assert all(p.grad.isfinite().all() for p in job.encoder.parameters())


@pytest.mark.parametrize("flags", [SMALL, ["--norm-by-view", "--image-size", 16]])
def test_parts_may_be_of_one_image_where_nothing_is_normalised_over_images(job_of, flags):
    assert job_of(*PLAIN, *flags, "--micro-batch", 1).micro_batch == 1


@pytest.mark.parametrize("sizes", [[2, 1], [1, 2], [7, 6, 6]])
def test_no_part_is_empty_in_any_process(job_of, monkeypatch, sizes):
    """Of a last batch that does not divide among processes, which go through the parts together."""
    job, counts = job_of("--micro-batch", 1), []
    few = Batch([group[:, : sizes[0]] for group in batch(job).groups], [])
    monkeypatch.setattr(step.distributed, "batch_sizes", lambda images: sizes)
    monkeypatch.setattr(step, "_in_parts", lambda job, batch, count: counts.append(count))
    step.leave_gradients(job, few, print)
    parts = [len(part) for n in sizes for part in torch.arange(n).tensor_split(counts[0])]
    assert len(counts) == 1 and {*parts} <= {1, 2}


@pytest.mark.parametrize(
    ("flags", "processes", "ways_out"),
    [
        ([], 1, "--micro-batch auto, "),
        (["--micro-batch", "100"], 1, "--micro-batch auto, "),
        (["--micro-batch", "auto"], 1, ""),  # it has halved the batch as far as it goes
        ([], 2, "--micro-batch below 256, "),  # auto is refused there
        (["--micro-batch", "100"], 2, "--micro-batch below 100, "),
        (["--micro-batch", "1"], 2, ""),
    ],
)
def test_what_does_not_fit_ends_with_the_ways_out(job_of, monkeypatch, flags, processes, ways_out):
    job = job_of(*flags)
    whole = batch(job)
    monkeypatch.setattr(step.distributed, "world_size", lambda: processes)
    full_beyond(job, 1)
    with pytest.raises(InputError) as error:
        step.leave_gradients(job, whole, lambda line: None)
    assert str(error.value).endswith(
        f"in another folder, with {ways_out}--checkpoint-activations or a smaller --batch-size "
        "(CUDA out of memory)"
    )


def test_a_run_that_does_not_fit_is_not_told_to_go_on(job_of):
    """--resume changes nothing that would help, though there is a checkpoint of step 0."""
    job = job_of("--final-images", 0)
    full_beyond(job, 128)
    with pytest.raises(InputError, match="try a new run, in another folder") as error:
        train.train(job)
    assert (job.out / "checkpoint.pt").is_file() and "--resume" not in str(error.value)


def test_the_gradient_is_shortened_to_its_largest_norm(job_of):
    job = job_of("--optimizer", "sgd", "--weight-decay", 0, "--clip-grad", 0.5)
    before = [p.detach().clone() for p in job.encoder.parameters()]
    step.leave_gradients(job, batch(job), print)
    true = math.sqrt(sum(float(g.square().sum()) for g in gradients(job)))
    for group in job.optimizer.param_groups:
        group["lr"] = 1.0
    norm = step.update(job, torch.ones(()), is_logged=False, say=print)
    assert true > 0.5 and norm.item() == pytest.approx(true, rel=1e-5)
    moved = [a - p.detach() for a, p in zip(before, job.encoder.parameters(), strict=True)]
    assert math.sqrt(sum(float(m.square().sum()) for m in moved)) == pytest.approx(0.5, rel=1e-4)
    assert all(p.grad is None for p in job.encoder.parameters())


def set_gradients(job, value):
    for p in job.encoder.parameters():
        p.grad = torch.full_like(p, value)


def test_spikes_and_steps_that_are_not_finite_are_skipped_up_to_a_number(job_of):
    job, lines = job_of("--max-skipped", 2), []
    whole = batch(job)

    def weights_after(value):
        step.leave_gradients(job, whole, lines.append)
        set_gradients(job, value)
        step.update(job, torch.ones(()), is_logged=False, say=lines.append)
        return torch.cat([p.detach().flatten() for p in job.encoder.parameters()])

    for _ in range(step.SPIKE_AFTER - 1):
        ordinary = weights_after(1e-3)
    early = weights_after(1.0)  # too early to be called a spike
    assert not torch.equal(early, ordinary) and not lines
    assert torch.equal(weights_after(0.9 * step.SPIKE * 1e-3), early) is False
    before = weights_after(1e-3)
    assert torch.equal(weights_after(1.1 * step.SPIKE * 1e-3), before)
    assert torch.equal(weights_after(math.nan), before)
    assert job.skipped == 2
    assert [line.partition(":")[0] for line in lines] == ["step 0 is skipped"] * 2
    with pytest.raises(FloatingPointError, match=r"3 steps were skipped .* a lower --lr"):
        weights_after(math.inf)


@pytest.mark.parametrize("flags", [["--max-skipped", 1], ["--precision", "fp16"]])
def test_a_step_that_is_skipped_leaves_running_averages_and_averaged_weights(job_of, flags):
    job = job_of("--ema", 0.9, *flags)

    def states():
        return copy.deepcopy([job.encoder.state_dict(), job.average.state_dict()])

    before = states()
    spoilt = Batch([math.inf * group for group in batch(job).groups], [])
    terms = step.leave_gradients(job, spoilt, print)
    assert not all(buffer.isfinite().all() for buffer in job.encoder.buffers())
    step.update(job, terms["loss"], is_logged=False, say=print)
    for one, other in zip(before, states(), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert job.skipped == ("--max-skipped" in flags)
    for _ in range(16):  # the first scales of float16 may be too large
        terms = step.leave_gradients(job, batch(job), print)
        step.update(job, terms["loss"], is_logged=False, say=print)
    assert 0 < job.average.n_averaged <= 16


def test_with_float16_steps_are_counted_whose_loss_itself_is_not_finite(job_of):
    """The scaler skips those whose gradients alone overflow, which a smaller scale mends."""
    job = job_of("--max-skipped", 1, "--precision", "fp16")

    def spoilt(views_times):
        groups = [views_times * group for group in batch(job).groups]
        terms = step.leave_gradients(job, Batch(groups, []), print)
        set_gradients(job, math.inf)
        step.update(job, terms["loss"], is_logged=False, say=print)

    for times, skipped in ((1, 0), (math.inf, 1), (1, 1)):
        spoilt(times)
        assert job.skipped == skipped
    with pytest.raises(FloatingPointError, match="2 steps were skipped"):
        spoilt(math.nan)


def test_running_averages_that_are_not_finite_are_not_saved(job_of):
    job = job_of("--final-images", 0)
    job.encoder.backbone.bn1.running_var.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite after step 0"):
        train.train(job)
    assert not (job.out / "checkpoint.pt").exists()


def test_one_bad_batch_does_not_end_a_run(job_of, digits_dir):
    """A loss that is not finite at one step: it is skipped, and the log counts it."""
    job = job_of("--max-skipped", 1, "--epochs", 2, "--final-images", 0)
    loss_of, calls = job.loss_of, []

    def broken_once(z):
        calls.append(len(calls))
        terms = loss_of(z)
        return terms | {"loss": terms["loss"] * (math.nan if calls[-1] == 3 else 1)}

    job.loss_of = broken_once
    assert train.train(job) == 0
    records = [r for r in read_metrics(job.out) if r["kind"] == "train"]
    assert [r["skipped"] for r in records] == [0, 0, 0, *[1] * 7]
    assert [math.isfinite(r["gradient_norm"]) for r in records].count(False) == 1


def test_a_run_in_parts_that_was_stopped_ends_as_one_that_was_not(digits_dir, finished, tmp_path):
    flags = [
        *(*QUICK, "--data-dir", digits_dir, "--epochs", 3, "--micro-batch", 100, "--clip-grad", 1),
        *("--max-skipped", 4, "--init", finished, "--freeze-epochs", 1, "--layer-decay", 0.7),
        *("--final-images", 0),
    ]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run = [*map(str, flags)]
    assert train.main(cli.parse([*run, "--out", str(whole)])) == 0
    assert train.main(cli.parse([*run, "--out", str(halves), "--max-seconds", "1e-6"])) == 0
    assert train.main(cli.parse(["--resume", str(halves), "--max-seconds", "1000"])) == 0
    ends = [(run / "backbone.safetensors").read_bytes() for run in (whole, halves)]
    assert ends[0] == ends[1]


def test_float16_scales_its_loss_and_keeps_the_scale(digits_dir, tmp_path):
    flags = [*QUICK, "--data-dir", digits_dir, "--out", tmp_path / "run", "--precision", "fp16"]
    assert train.main(cli.parse([*map(str, [*flags, "--epochs", 2, "--final-images", 0])])) == 0
    records = [r for r in read_metrics(tmp_path / "run") if r["kind"] == "train"]
    assert all(math.isfinite(r["loss"]) and r["gradient_scale"] >= 1 for r in records)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["scaler"]["scale"] == records[-1]["gradient_scale"]


@pytest.mark.parametrize(("was", "now"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_run_goes_on_in_another_precision(digits_dir, tmp_path, monkeypatch, was, now):
    """As with --precision auto, on another card."""
    run = tmp_path / "run"
    flags = [*QUICK, "--data-dir", digits_dir, "--out", run, "--epochs", 2, "--max-seconds", 1e-6]
    for precision, given in ((was, flags), (now, ["--resume", run, "--max-seconds", 1000])):
        monkeypatch.setattr(device, "_fast_precision", lambda where, kind=precision: kind)
        assert train.main(cli.parse([*map(str, given)])) == 0
    last = [r for r in read_metrics(run) if r["kind"] == "train"][-1]
    assert last["step"] == 10 and ("gradient_scale" in last) == (now == "fp16")


def test_what_weighs_keep_waits_for_a_scale_that_float16_holds(job_of, finished):
    job = job_of("--init", finished, "--keep", 1, "--precision", "fp16")
    job.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    step.weigh_keep(job, 0)
    fisher = torch.cat([f.flatten() for f in job.keep.fisher])
    assert fisher.min() >= 0 and fisher.mean() == pytest.approx(1, rel=1e-3)
    assert job.scaler.get_scale() < 2.0**30


def test_activations_that_are_computed_again_give_the_same_gradient(job_of):
    kept, again = job_of(*PLAIN), job_of(*PLAIN, "--checkpoint-activations")
    whole = batch(kept)
    for job in (kept, again):
        step.leave_gradients(job, whole, print)
    assert again.encoder.backbone.grad_checkpointing
    for one, other in zip(gradients(kept), gradients(again), strict=True):
        torch.testing.assert_close(one, other)


def test_a_backbone_that_cannot_compute_them_again_is_refused(job_of):
    dla = ["--backbone", "dla34", "--backbone-kwargs", "{}", "--image-size", 32]
    with pytest.raises(InputError, match="--checkpoint-activations: timm cannot do so in dla34"):
        job_of(*dla, "--checkpoint-activations")

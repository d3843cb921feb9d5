"""What a GPU does beside what the CPU does:

EFFSSL_TEST_DEVICE=cuda pytest tests/test_device.py (or =cpu).
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from effssl import cli, optim
from effssl.data.beton import ensure_beton
from effssl.data.loader import open_loader, read_batches
from effssl.data.pixels import WholeImageDecoder
from effssl.data.sources import open_source
from effssl.embed import embed_set
from effssl.evaluate import run as evaluate
from effssl.image_config import Augment
from effssl.run import checkpoint
from effssl.run.device import Runtime, open_runtime
from effssl.run.log import read_metrics
from effssl.train import loop as train
from effssl.views import assemble
from effssl.views.stream import ViewStream
from tests.conftest import QUICK, STORE
from tests.losses.oracles import TERMS, embeddings
from tests.views.test_draws import draw
from tests.views.test_ops import assert_near, random_images, settings, views_of
from tests.views.test_shapes import ALL as SHAPES

NAME = os.environ.get("EFFSSL_TEST_DEVICE", "")
pytestmark = pytest.mark.skipif(not NAME, reason="for a GPU: EFFSSL_TEST_DEVICE=cuda")


@pytest.fixture(scope="module")
def device() -> torch.device:
    return open_runtime(NAME, "auto", "auto").device


def flags(digits_dir, run, *more) -> list[str]:
    every = [
        *QUICK,
        "--data-dir",
        digits_dir,
        "--out",
        run,
        "--device",
        NAME,
        "--compile",
        "false",
        "--epochs",
        2,
    ]
    return [str(flag) for flag in (*every, *more)]


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    run = tmp_path_factory.mktemp("on-device") / "run"
    assert train.main(cli.parse(flags(digits_dir, run))) == 0
    return run


def train_losses(run) -> list[float]:
    return [record["loss"] for record in read_metrics(run) if record["kind"] == "train"]


def test_views_are_those_of_the_cpu(device):
    images, indices = random_images(16, 40, 40), torch.arange(16)
    on_cpu, on_device = draw(indices, stored=(40, 40)), draw(indices.to(device), stored=(40, 40))
    for here, there in zip(on_cpu.all, on_device.all, strict=True):
        assert_near(there.float().cpu(), here.float())
    views = views_of(images.to(device), on_device, 32)
    assert_near(views.cpu(), views_of(images, on_cpu, 32), atol=1e-3)


def test_compiled_views_are_the_same(device):
    images = random_images(16, 40, 40).to(device)
    drawn = draw(torch.arange(16, device=device), stored=(40, 40))
    compiled = torch.compile(assemble.views_of_images)(images, *drawn, settings(32))
    assert_near(compiled, views_of(images, drawn, 32), atol=1e-3)


@pytest.mark.parametrize("more", [{}, {"rand_augment": (2, 9)}], ids=["shapes", "rand-augment"])
def test_turned_warped_and_erased_views_are_those_of_the_cpu(more, digits_dir, device):
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", STORE)
    augment = Augment(views=4, image_size=16, **SHAPES | more)
    made = []
    for where in (torch.device("cpu"), device):
        stream = ViewStream(
            beton, augment, seed=3, batch_size=64, workers=1, runtime=Runtime(where)
        )
        ((views,), _) = next(stream.epoch(np.arange(64), 1))
        made.append(views.cpu())
    # Equalisation and posterisation round, so that a few pixels move by a step.
    away = (made[0] - made[1]).abs()
    assert (away > 1e-3).float().mean() < (0.02 if more else 1e-3)


@pytest.mark.parametrize(("batch", "dim"), [(24, 12), (12, 24), (128, 4)])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS.keys())
def test_losses_and_gradients_are_those_of_the_cpu(terms, batch, dim, device):
    found = []
    for where in (torch.device("cpu"), device):
        z = embeddings(4, batch, dim, torch.float32).detach().to(where).requires_grad_()
        of_z = terms(z)
        of_z.loss.backward()
        found.append([*(term.detach().cpu() for term in of_z), z.grad.cpu()])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_images_arrive_whole_while_the_device_is_busy(digits_dir, device):
    """FFCV writes the next images into the same memory."""
    source = open_source("digits", digits_dir, "train")
    beton = ensure_beton(source, digits_dir / "beton", "digits-train", STORE)
    loader = open_loader(beton.path, 64, 2, WholeImageDecoder())
    order = np.random.default_rng(0).permutation(1024)
    busy = torch.randn(2048, 2048, device=device)
    kept = []
    for images, positions in read_batches(loader, order, device):
        for _ in range(4):
            busy = busy @ busy / 100
        kept.append((images, positions))
    images, positions = (torch.cat(each).cpu().numpy() for each in zip(*kept, strict=True))
    assert np.array_equal(positions, order)
    assert np.array_equal(images, np.stack([source.images[i] for i in beton.positions[order]]))


def test_it_trains_and_is_evaluated(run, digits_dir, tmp_path):
    said = train_losses(run)
    assert said[-1] < said[0]
    cfg = cli.parse_evaluation(
        [str(run), "--data-dir", str(digits_dir), "--device", NAME, "--to", str(tmp_path)]
    )
    assert evaluate.main(cfg) == 0
    assert (run / "evaluation.json").is_file()


def test_representations_are_those_of_the_cpu(run, digits_dir):
    storage = cli.parse(["--data", "digits", "--data-dir", str(digits_dir)]).images
    here, on_cpu = (
        embed_set(run, storage, "test", device=where).representations for where in (NAME, "cpu")
    )
    torch.testing.assert_close(
        torch.from_numpy(here), torch.from_numpy(on_cpu), rtol=1e-2, atol=1e-3
    )  # TF32


def test_a_run_goes_on_from_the_cpus_checkpoint(run, digits_dir, tmp_path):
    half = tmp_path / "half"
    on_cpu = flags(
        digits_dir, half, "--device", "cpu", "--precision", "fp32", "--max-seconds", "1e-6"
    )
    assert train.main(cli.parse(on_cpu)) == 0
    assert (
        train.main(cli.parse(["--resume", str(half), "--device", NAME, "--max-seconds", "1e6"]))
        == 0
    )
    assert train_losses(half)[-1] < train_losses(half)[0]


def test_the_optimizer_stays_fused_where_it_was_built_so(device):
    model = torch.nn.Linear(3, 3)
    unfused = torch.optim.AdamW([{"params": [p]} for p in model.parameters()])
    of_cpu = checkpoint.capture(model, unfused, torch.device("cpu"))
    model = model.to(device)
    optimizer = optim.build_optimizer(model, "adamw", lr=1.0, weight_decay=0)
    checkpoint.restore(of_cpu, model, optimizer, device)
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]


def test_compiled_training_is_eager_training(run, digits_dir, tmp_path):
    compiled = tmp_path / "compiled"
    assert train.main(cli.parse(flags(digits_dir, compiled, "--compile", "true"))) == 0
    torch.testing.assert_close(
        train_losses(compiled)[:2], train_losses(run)[:2], rtol=0.05, atol=0.0
    )  # bf16


@pytest.mark.parametrize("more", [(), ("--compile", "true"), ("--optimizer", "muon")])
def test_deterministic_runs_repeat_bit_for_bit(digits_dir, tmp_path, more):
    """Stopped and gone on with, too."""
    settings = ("--deterministic", "--blur-prob", "0.5", "--epochs", 2, *more)
    for name in ("a", "b"):
        assert train.main(cli.parse(flags(digits_dir, tmp_path / name, *settings))) == 0
    first = flags(digits_dir, tmp_path / "c", *settings, "--max-seconds", "0.01")
    assert train.main(cli.parse(first)) == 0
    assert train.main(cli.parse(["--resume", str(tmp_path / "c"), "--max-seconds", "None"])) == 0
    weights = [(tmp_path / name / "backbone.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] == weights[2]
    assert train_losses(tmp_path / "a") == train_losses(tmp_path / "b")

"""The main job, end to end, on digits: by subprocess as a user calls it, in-process where only the
outcome matters.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from effssl import InputError, cli
from effssl.data.beton_file import open_file
from effssl.data.stored import open_split
from effssl.embed.run import embed_folder
from effssl.evaluate import run as evaluate
from effssl.export.run import export
from effssl.job_config import Export
from effssl.models import load_backbone
from effssl.models.shared_batch_norm import share_batch_norms
from effssl.run import log as log_module
from effssl.run import signals
from effssl.run.log import RunLog, read_metrics
from effssl.train import forward, parts
from effssl.train import job as job_module
from effssl.train import loop as train
from effssl.train.job import build_job
from tests.conftest import QUICK, WITH_TABLE, command, run_train, varied_sizes, write_class_folders

pytestmark = pytest.mark.slow

FILES = {
    "config.yaml",
    "metrics.jsonl",
    "tensorboard",
    "checkpoint.pt",
    "backbone.safetensors",
    "backbone-best.safetensors",
    "result.json",
}
FILES |= {"views.png", "curves.png"}
# Random numbers in the forward pass too: a resumed run must restore them.
DROPS = [
    "--backbone-kwargs",
    "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1], drop_path_rate: 0.3}",
]


def quick(digits_dir, out, *more) -> list[str]:
    return [
        *QUICK,
        "--data-dir",
        str(digits_dir),
        "--out",
        str(out),
        "--probe-every",
        "0",
        *map(str, more),
    ]


def weights(run) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="session")
def uninterrupted(digits_dir, tmp_path_factory):
    """Four epochs of five steps, by subprocess, with a probe on the way."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    arguments = quick(digits_dir, run, "--epochs", 4, "--probe-every", 2, *DROPS, *WITH_TABLE)
    done = run_train(arguments, digits_dir)
    assert done.returncode == 0, done.stderr
    return run, done.stdout


def test_a_run_leaves_what_it_says(uninterrupted):
    run, said = uninterrupted
    assert {p.name for p in run.iterdir() if not p.name.startswith(".")} == FILES
    assert all((run / name).stat().st_size > 0 for name in FILES)
    records = read_metrics(run)
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 21))
    assert [r["epoch"] for r in records if r["kind"] == "probe"] == [0, 2, 4]
    assert all(
        0 <= r["linear"] <= 1 and 1 <= r["h/effective_rank"] <= 16
        for r in records
        if r["kind"] == "probe"
    )
    result = json.loads((run / "result.json").read_text())
    assert result["encoded_views"] == 20 * 256 * 2
    images = torch.load(run / "checkpoint.pt", weights_only=True)["images"]
    assert images.endswith(f"images {result['images']}")
    assert set(result["final"]["rows"]) == {"trained", "untrained", "pixels"}
    assert result["final"]["split"] == "test"
    assert result["hardware"]["cpu_cores"] == os.cpu_count()
    for row in ("trained", "untrained", "pixels", "10 labels a class", str(run / "views.png")):
        assert row in said
    assert cli.parse(["--config", str(run / "config.yaml")]).augment.views == 2


def test_the_backbone_loads_strictly_into_timm(uninterrupted):
    run, _ = uninterrupted
    backbone, spec = load_backbone(run / "backbone.safetensors")
    trained = {
        k.removeprefix("backbone."): v for k, v in weights(run).items() if k.startswith("backbone.")
    }
    assert same(backbone.state_dict(), trained)
    assert (spec.backbone, spec.image_size) == ("resnet18", 8)
    plain = timm.create_model(
        "resnet18", num_classes=0, channels=[8, 16, 16, 16], layers=[1, 1, 1, 1]
    )
    plain.conv1, plain.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    plain.load_state_dict(load_file(run / "backbone.safetensors"), strict=True)


def test_sigterm_saves_and_resume_goes_on_mid_epoch(digits_dir, uninterrupted, tmp_path):
    run = tmp_path / "stopped"
    arguments = quick(digits_dir, run, "--epochs", 4, "--save-every-s", 0, *DROPS)
    process = subprocess.Popen(command(arguments), stdout=subprocess.PIPE, text=True)
    while not any(r["kind"] == "train" for r in read_metrics(run)):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"--resume {run}" in said
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert 1 <= step < 20
    assert (
        train.main(cli.parse(["--resume", str(run), "--workers", "1"])) == 0
    )  # workers do not matter
    assert same(weights(run), weights(uninterrupted[0]))


# BatchNorm in the backbone and the projector, and a last batch that is smaller; SGD, as Adam makes
# much of rounding.
TOGETHER = ["--optimizer", "sgd", "--lr", 0.003, "--epochs", 4, "--precision", "fp32"]
TOGETHER += ["--no-drop-last"]


def in_one_process(arguments: list[str]) -> None:
    """Train with the BatchNorm that several processes have: torch's own rounds more, and losses
    differ from it in the fourth digit."""

    def with_theirs(encoder, *others):
        share_batch_norms(encoder)
        return forward.build_forward(encoder, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "build_forward", with_theirs)
        assert train.main(cli.parse(arguments)) == 0


def started_in(processes: int, arguments: list) -> subprocess.Popen:
    python, *rest = command(arguments)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [python, *torchrun, *rest], env=environment, text=True, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def alone(digits_dir, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    in_one_process(quick(digits_dir, run, *TOGETHER))
    return run


@pytest.fixture(scope="module")
def stopped_together(digits_dir, tmp_path_factory):
    """A run of two processes, which SIGTERM has stopped after a step or more."""
    run = tmp_path_factory.mktemp("together") / "run"
    process = started_in(2, quick(digits_dir, run, *TOGETHER))
    while not any(r["kind"] == "train" for r in read_metrics(run)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=280)
    assert 1 <= torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 24
    return run


@pytest.mark.timeout(900)
@pytest.mark.parametrize("then", [2, 4, 1], ids="then {}".format)
def test_two_processes_train_as_one_stop_together_and_more_or_fewer_go_on(
    alone, stopped_together, tmp_path, then
):
    two = shutil.copytree(stopped_together, tmp_path / "two")
    if then == 1:
        in_one_process(["--resume", str(two)])
    else:
        process = started_in(then, ["--resume", str(two)])
        _, said = process.communicate(timeout=280)
        assert process.returncode == 0, said
    of_one, of_two = (
        [r["loss"] for r in read_metrics(run) if r["kind"] == "train"] for run in (alone, two)
    )
    assert of_two[:5] == pytest.approx(of_one[:5], rel=1e-5)
    assert of_two == pytest.approx(of_one, rel=1e-3)
    assert weights(alone).keys() == weights(two).keys()
    for name, weight in weights(alone).items():
        assert torch.allclose(weights(two)[name], weight, rtol=1e-2, atol=5e-3), name


def test_a_batch_that_does_not_divide_among_processes_is_one_line(
    digits_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train.distributed, "world_size", lambda: 3)
    assert train.main(cli.parse(quick(digits_dir, tmp_path / "run", "--batch-size", 64))) == 2
    assert "--batch-size 64 does not divide among 3 processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_only_says_so(uninterrupted, capsys):
    run, _ = uninterrupted
    before = (run / "checkpoint.pt").stat().st_mtime_ns
    assert train.main(cli.parse(["--resume", str(run)])) == 0
    assert "is finished" in capsys.readouterr().out
    assert (run / "checkpoint.pt").stat().st_mtime_ns == before


def test_max_seconds_stops_and_evaluates_and_a_longer_budget_goes_on(digits_dir, tmp_path, capsys):
    run = tmp_path / "short"
    assert train.main(cli.parse(quick(digits_dir, run, "--epochs", 500, "--max-seconds", 0.5))) == 0
    steps = json.loads((run / "result.json").read_text())["steps"]
    assert 0 < steps < 2500
    spent = json.loads((run / "result.json").read_text())["seconds"]
    assert train.main(cli.parse(["--resume", str(run), "--max-seconds", str(spent + 0.3)])) == 0
    assert json.loads((run / "result.json").read_text())["steps"] > steps


def test_a_run_out_of_time_that_died_in_its_last_probe_makes_it(digits_dir, tmp_path):
    run = tmp_path / "run"
    assert train.main(cli.parse(quick(digits_dir, run, "--epochs", 500, "--max-seconds", 0.1))) == 0
    (run / "result.json").unlink()
    *records, last = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(records))
    assert train.main(cli.parse(["--resume", str(run)])) == 0
    assert len(read_metrics(run)) == len(records) + 1
    probe, again = json.loads(last), read_metrics(run)[-1]
    assert probe["kind"] == again["kind"] == "probe" and probe["step"] == again["step"] > 0


def test_what_comes_before_the_first_step_is_no_second_of_training(
    digits_dir, tmp_path, monkeypatch
):
    now = 0.0

    def passes(seconds: float) -> float:
        nonlocal now
        now += seconds
        return now

    # A clock on which each look takes a millisecond, and what is to be left out 100 seconds
    clock = SimpleNamespace(perf_counter=lambda: passes(0.001))
    monkeypatch.setattr(log_module, "time", clock)
    monkeypatch.setattr(train, "RunLog", lambda *a, **k: passes(100) and RunLog(*a, **k))
    monkeypatch.setattr(train, "prepare_branches", lambda *_: passes(100))
    run, flags = tmp_path / "run", ["--epochs", 1, "--final-images", 0]
    assert train.main(cli.parse(quick(digits_dir, run, *flags))) == 0
    assert now > 200
    assert read_metrics(run)[0]["seconds"] < 1


def fail(*arguments, **named):
    raise RuntimeError("stopped on the way")


def test_a_run_is_given_more_epochs_by_the_cosine_of_the_longer_schedule(
    digits_dir, tmp_path, capsys, monkeypatch
):
    run, longer = tmp_path / "run", tmp_path / "longer"
    flags = ["--final-images", 0, "--warmup-epochs", 0]
    assert train.main(cli.parse(quick(digits_dir, run, "--epochs", 1, *flags))) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(train, "_train_epochs", fail)
        with pytest.raises(RuntimeError, match="stopped on the way"):
            train.main(cli.parse(["--resume", str(run), "--epochs", "2"]))
    assert not (run / "result.json").exists()  # its checkpoint will leave its other files
    with pytest.raises(InputError, match="is not finished; go on with"):
        load_backbone(run)  # of the end before
    assert train.main(cli.parse(["--resume", str(run)])) == 0
    assert (
        "--epochs 1 -> 2: the schedule now ends at step 10; from here, step 5, the learning rate "
        "is that of the longer schedule: 0.015 in place of 0\n"
    ) in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["steps"] == 10
    assert cli.load(run / "config.yaml").optim.epochs == 2
    assert train.main(cli.parse(["--resume", str(run)])) == 0
    assert "is finished" in capsys.readouterr().out
    assert train.main(cli.parse(quick(digits_dir, longer, "--epochs", 2, *flags))) == 0
    rates, of_longer = (
        {r["step"]: r["lr"] for r in read_metrics(each) if r["kind"] == "train"}
        for each in (run, longer)
    )
    assert rates.keys() == of_longer.keys()
    assert all((rates[step] == of_longer[step]) == (step == 1 or step > 5) for step in rates)
    (note,) = [r for r in read_metrics(run) if r["kind"] == "extension"]
    assert (note["step"], note["epochs_before"], note["epochs"]) == (5, 1, 2)
    assert (note["lr_before"], note["lr"]) == (0, pytest.approx(0.015))


def test_every_method_optimizer_and_precision_trains(digits_dir, tmp_path):
    for name, flags in {
        "vicreg": ["--method", "vicreg", "--optimizer", "sgd", "--lr", 0.05],
        "pooled": [
            "--method",
            "barlow_twins",
            "--pairing",
            "pooled",
            "--optimizer",
            "lars",
            "--lr",
            0.5,
            "--precision",
            "bf16",
        ],
        "vit": [
            "--backbone",
            "vit_tiny_patch16_224",
            "--image-size",
            16,
            "--backbone-kwargs",
            "{depth: 1, embed_dim: 32, num_heads: 2}",
        ],
    }.items():
        assert train.main(cli.parse(quick(digits_dir, tmp_path / name, "--epochs", 2, *flags))) == 0
        losses = [r["loss"] for r in read_metrics(tmp_path / name) if r["kind"] == "train"]
        assert np.mean(losses[-3:]) < np.mean(losses[:3]), name


def test_images_need_not_be_square_from_training_to_plain_timm(tmp_path, monkeypatch):
    for i in range(40):
        y, x = np.mgrid[0:24, 0:40] / 12
        waves = [np.sin(x + i % 2 + c) * np.cos((1 + i / 20) * y - c) for c in range(3)]
        file = tmp_path / "images" / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8)).save(file)
    run, folder = tmp_path / "run", ["--data", "folder", "--data-dir", tmp_path / "images"]
    vit = ["--backbone", "vit_tiny_patch16_224", "--image-size", 24, 40]
    vit += [
        "--backbone-kwargs",
        "{depth: 1, embed_dim: 32, num_heads: 2}",
        "--batch-size",
        12,
        "--final-images",
        0,
    ]
    assert train.main(cli.parse(quick(tmp_path, run, "--epochs", 2, *vit, *folder))) == 0
    judged = ["--num-averaged-views", "0", "--no-untrained", "--pixels"]
    assert evaluate.main(cli.parse_evaluation([str(run), *judged])) == 0
    report = json.loads((run / "evaluation.json").read_text())
    assert report["settings"]["images"]["image_size"] == [24, 40]
    assert report["rows"].keys() == {"trained", "pixels"}

    export(Export(run, tmp_path / "to"))
    monkeypatch.chdir(tmp_path / "to")
    plain = timm.create_model("local-dir:.", pretrained=True).eval()
    ours, spec = load_backbone(run)
    assert spec.image_size == (24, 40)
    x = torch.randn(2, 3, 24, 40)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain))
    embedded = embed_folder(run, tmp_path / "images")
    files = [Image.open(tmp_path / "images" / name) for name in embedded.names]
    with torch.inference_mode():
        assert torch.equal(plain(x), ours(x))
        h = plain(torch.stack([transform(file) for file in files])).numpy()
    # embed resizes twice, by way of a canvas, which moves pixels a little.
    assert np.abs(embedded.representations - h).mean() < 0.05 * h.std(0).mean()


def test_the_smallest_batch_trains(digits_dir, tmp_path):
    """Also where it is smaller than the picture of views would be."""
    flags = ["--batch-size", 2, "--max-seconds", 0.01, "--final-images", 0, "--save-every-s", 99]
    assert train.main(cli.parse(quick(digits_dir, tmp_path / "run", *flags))) == 0
    assert (tmp_path / "run" / "views.png").is_file()


def test_pictures_that_cannot_be_drawn_do_not_end_a_run(digits_dir, tmp_path, capsys, monkeypatch):
    """As no figure is saved, the last act of every picture fails."""

    def no_room(figure, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", no_room)
    run = tmp_path / "run"
    flags = ["--max-seconds", 0.01, "--final-images", 0]
    assert train.main(cli.parse(quick(digits_dir, run, *flags))) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("views.png", "curves.png"):
        why = f"{run / name} cannot be written: No space left on device"
        assert f"{run / name} was not drawn ({why}); the rest goes on" in lines
        assert str(run / name) not in lines
    assert sorted(p.name for p in run.iterdir() if p.suffix in (".png", ".tmp")) == []


def test_a_job_can_be_built_and_trained_by_hand(digits_dir, tmp_path):
    job = build_job(cli.parse(quick(digits_dir, tmp_path / "run", "--epochs", 2, "--log-every", 1)))
    assert (job.step, job.total_steps) == (0, 10)
    assert not job.out.exists()  # nothing is written before it trains
    (views,), positions = next(job.stream.epoch(job.positions(0), 0))
    assert views.shape == (2, 256, 3, 8, 8) and positions.shape == (256,)
    _, z = job.forward(views.flatten(0, 1))
    assert torch.isfinite(job.loss_of(z.unflatten(0, (2, 256)))["loss"])
    assert train.train(job) == 0
    assert job.step == 10 and job.encoded_views == 10 * 256 * 2


def test_by_view_on_all_images_with_the_last_batch_kept_a_run_trains_on_each_of_them(
    digits_dir, tmp_path
):
    more = ["--no-hold-out", "--no-drop-last", "--norm-by-view", "--epochs", 2]
    job = build_job(cli.parse(quick(digits_dir, tmp_path / "run", *more)))
    held_out = build_job(cli.parse(quick(digits_dir, tmp_path / "other", "--epochs", 2)))
    num_images = len(job.data.train.labels)
    assert job.steps_per_epoch == -(-num_images // 256) > held_out.steps_per_epoch
    assert sorted(job.positions(0)) == list(range(num_images))
    assert not set(held_out.positions(0)) & set(held_out.data.val_positions)
    assert len(job.data.val_positions) == len(held_out.data.val_positions) > 0
    assert train.train(job) == 0
    assert job.encoded_views == 2 * num_images * 2
    probe = read_metrics(tmp_path / "run")[-1]
    assert 0 < probe["linear"] <= 1


@pytest.mark.parametrize("seconds", ["0", "inf"])
def test_a_loss_that_is_not_finite_ends_with_one_line_and_a_code_of_its_own(
    digits_dir, tmp_path, capsys, seconds
):
    run = tmp_path / "diverged"
    flags = ["--optimizer", "sgd", "--lr", 1e30, "--warmup-epochs", 0, "--save-every-s", seconds]
    assert train.main(cli.parse(quick(digits_dir, run, "--epochs", 20, *flags))) == signals.DIVERGED
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"^error: (the loss is \w+ at|weights are not finite after) step \d+; ", line)
    assert "start a new run with a lower --lr or a longer --warmup-epochs" in line
    assert f"(last good checkpoint: {run}/checkpoint.pt)" in line
    assert all(torch.isfinite(v).all() for v in weights(run).values())


def bad(root):
    """Bad inputs: name -> (flags, a part of the message)."""
    folders = write_class_folders(root / "folders" / "train").parent
    broken = write_class_folders(root / "broken" / "train").parent
    (broken / "train" / "class-0" / "4.png").write_bytes(b"no image")
    (root / "empty" / "train").mkdir(parents=True)
    (root / "file").write_text("a file")
    (root / "taken").mkdir()
    (root / "taken" / "config.yaml").write_text("views: 2\n")
    return {
        "batch larger than the set": (
            ["--batch-size", "5000"],
            "--batch-size 5000 is larger than the set: 1295",
        ),
        "missing folder": (["--data", "folder", "--data-dir", root / "absent"], "no such folder"),
        "empty folder": (["--data", "folder", "--data-dir", root / "empty"], "no images in"),
        "an image that does not decode": (
            ["--data", "folder", "--data-dir", broken],
            "4.png does not decode",
        ),
        "too few images": (["--data", "folder", "--data-dir", folders], "larger than the set"),
        "unknown backbone": (["--backbone", "resnet81"], "did you mean"),
        "backbone arguments": (
            ["--backbone-kwargs", "[1]"],
            "--backbone-kwargs must be a YAML mapping",
        ),
        "no CUDA": (["--device", "cuda:99"], "--device cuda:99"),
        "no device": (["--device", "abacus"], "--device abacus"),
        "unwritable out": (["--out", root / "file" / "run"], "cannot be written"),
        "out holds a run": (["--out", root / "taken"], "already holds a run"),
        "out among the images": (
            ["--data", "folder", "--data-dir", folders / "train", "--out", folders / "train/x"],
            "lies among the images of",
        ),
    }


@pytest.mark.parametrize("name", [
    "batch larger than the set", "missing folder", "empty folder", "an image that does not "
    "decode", "too few images",
    "unknown backbone", "backbone arguments", "no CUDA", "no device", "unwritable out", "out holds "
    "a run", "out among the images",
])  # fmt: skip
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(name, digits_dir, tmp_path, capsys):
    flags, message = bad(tmp_path)[name]
    base = quick(digits_dir, tmp_path / "run")
    if "--out" in flags:
        base = [*QUICK, "--data-dir", str(digits_dir)]
    assert train.main(cli.parse([*base, *map(str, flags)])) == 2
    said = capsys.readouterr().err.splitlines()
    first = next(i for i, line in enumerate(said) if line.startswith("error: "))
    assert all(
        line.startswith("  ") for line in said[first + 1 :]
    )  # nothing, or a damaged image each
    assert message in "".join(said[first:])
    assert not (tmp_path / "run").exists()


def test_a_truncated_beton_is_named(tmp_path, capsys):
    folders = write_class_folders(tmp_path / "set" / "train", per_class=20).parent
    flags = [
        *QUICK,
        "--data",
        "folder",
        "--data-dir",
        str(folders),
        "--batch-size",
        "16",
        "--epochs",
        "1",
    ]
    assert train.main(cli.parse([*flags, "--out", str(tmp_path / "good")])) == 0
    (beton,) = (folders / "beton").glob("folder-train-*.beton")
    with beton.open("r+b") as file:
        file.truncate(5000)
    capsys.readouterr()
    assert train.main(cli.parse([*flags, "--out", str(tmp_path / "run")])) == 2
    assert f"{beton.name} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loader", ["ffcv", "threads"])
def test_a_stored_image_that_is_damaged_is_named_by_its_file(tmp_path, capsys, loader):
    flags = [*QUICK, *varied_sizes(tmp_path), "--loader", loader, "--epochs", "1"]
    storage = cli.parse(flags).images
    _, beton = open_split(storage, "train")
    stored = open_file(beton.path)
    content = bytearray(beton.path.read_bytes())
    at = int(stored.images["data_ptr"][23])
    content[at + 200 : at + 220] = bytes(20)
    beton.path.write_bytes(content)
    capsys.readouterr()
    assert train.main(cli.parse([*flags, "--out", str(tmp_path / "run")])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    name = storage.data_dir / "class-1" / "11.png"  # the fourth of its folder, by name
    assert line.startswith(
        f"error: {beton.path} is damaged ({name} is not what was stored); delete it to have it "
        f"rewritten; the last checkpoint is whole: go on with --resume {tmp_path / 'run'}"
    )
    beton.path.unlink()
    assert train.main(cli.parse(["--resume", str(tmp_path / "run")])) == 0


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(digits_dir, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cli.dump(cli.parse(quick(digits_dir, run, "--epochs", 1))))
    assert train.main(cli.parse(["--resume", str(run)])) == 0
    assert json.loads((run / "result.json").read_text())["steps"] == 5


def test_a_run_does_not_go_on_with_other_images(tmp_path, capsys):
    images = write_class_folders(tmp_path / "set", classes=1, per_class=40, side=20)
    run = tmp_path / "run"
    flags = [
        *QUICK,
        "--data",
        "folder",
        "--data-dir",
        str(images),
        "--batch-size",
        "20",
        "--epochs",
        "2",
    ]
    assert train.main(cli.parse([*flags, "--out", str(run), "--max-seconds", "0.001"])) == 0
    (images / "class-0" / "0.png").unlink()
    assert train.main(cli.parse(["--resume", str(run), "--max-seconds", "9"])) == 2
    assert "its images were others" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_steps(digits_dir, tmp_path, monkeypatch, capsys):
    """A last batch of three images is for one process, and too small for four."""
    run = tmp_path / "run"
    flags = ["--no-drop-last", "--batch-size", 1292, "--epochs", 2, "--max-seconds", 1e-6]
    assert train.main(cli.parse(quick(digits_dir, run, *flags))) == 0
    on = ["--resume", str(run), "--max-seconds", "1000"]
    with monkeypatch.context() as patch:
        patch.setattr(parts, "fewest_images", lambda cfg: 4)
        assert train.main(cli.parse(on)) == 2
    assert "its epochs have 2 steps on 1295 images, but 1 on 1292" in capsys.readouterr().err
    assert train.main(cli.parse(on)) == 0


def test_a_damaged_checkpoint_is_named(digits_dir, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cli.dump(cli.parse(quick(digits_dir, run))))
    (run / "checkpoint.pt").write_bytes(b"PK damaged")
    assert train.main(cli.parse(["--resume", str(run)])) == 2
    assert "checkpoint.pt is damaged" in capsys.readouterr().err


def test_own_images_without_labels_train_and_report_the_rank(tmp_path):
    images = write_class_folders(tmp_path / "set", classes=1, per_class=40, side=20)
    run = tmp_path / "run"
    flags = [
        *QUICK,
        "--data",
        "folder",
        "--data-dir",
        str(images),
        "--batch-size",
        "20",
        "--epochs",
        "2",
    ]
    assert train.main(cli.parse([*flags, "--out", str(run)])) == 0
    assert json.loads((run / "result.json").read_text())["final"]["rows"] == {}
    assert all("z/effective_rank" in r for r in read_metrics(run) if r["kind"] == "probe")

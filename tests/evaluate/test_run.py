"""`effssl evaluate` on a digits run of a few steps, in-process."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import entr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from effssl import cli
from effssl.data.sources import open_source
from effssl.data.splits import train_and_validation
from effssl.evaluate import run as evaluate
from effssl.evaluation import protocols, semi_supervised
from effssl.evaluation.finished_run import open_run
from effssl.evaluation.pictures import save_evaluation
from effssl.evaluation.ssl_fisher import ssl_fisher
from effssl.models import load_backbone, save_backbone
from effssl.models.weight_files import read_extra
from effssl.train import loop as train
from effssl.views.stream import ViewStream
from tests.conftest import QUICK, varied_sizes, write_class_folders

pytestmark = pytest.mark.slow

SHORT = ["--num-averaged-views", "0", "--no-untrained"]


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def finished_on_a_folder(tmp_path_factory):
    """A run of four steps, on views that grow, of JPEGs of varied size in root/set."""
    root = tmp_path_factory.mktemp("on_a_folder")
    flags = [*QUICK, *varied_sizes(root), "--out", root / "run", "--epochs", 2, "--probe-every", 0]
    flags += ["--image-size", 12, "--first-size", 8, "--grow-by", 4, "--grow-until", 0.5]
    assert train.main(cli.parse([*map(str, flags)])) == 0
    return root / "run"


@pytest.fixture
def run_on_a_folder(finished_on_a_folder, tmp_path):
    return shutil.copytree(finished_on_a_folder, tmp_path / "run")


def judge(*flags) -> int:
    return evaluate.main(cli.parse_evaluation([*map(str, flags)]))


def report(run, name="evaluation"):
    return json.loads((run / f"{name}.json").read_text())


def digits_representations(run):
    """(h, y) of train, validation and test, by the run's backbone, past loader and clean_view."""
    backbone, spec = load_backbone(run / "backbone.safetensors")
    encoded = []
    for split in ("train", "test"):
        source = open_source("digits", run, split)
        x = torch.from_numpy(
            np.stack([np.asarray(Image.fromarray(i).resize((8, 8), 2)) for i in source.images])
        )
        x = (x.permute(0, 3, 1, 2) / 255 - torch.tensor(spec.mean)[:, None, None]) / spec.std[0]
        with torch.no_grad():
            encoded.append((backbone(x).numpy(), source.labels))
    (h, y), test = encoded
    fitted, val = train_and_validation(y, 0.1, 1.0, 0)
    return (h[fitted], y[fitted]), (h[val], y[val]), test


def test_a_run_is_judged(run, capsys, monkeypatch):
    monkeypatch.setattr("effssl.evaluate.report.save_evaluation", save_evaluation)
    kinds = ["--num-averaged-views", 2, "--averaged-views", "authors", "crops"]
    assert judge(run, *kinds, "--pixels", "--knn-k", 5) == 0
    said, found = capsys.readouterr().out, report(run)
    assert set(found["rows"]) == {"trained", "untrained", "pixels"}
    trained = found["rows"]["trained"]
    for name in ("linear", "averaged/authors", "averaged/crops", "knn"):
        assert 0 <= trained[f"{name}_low"] < trained[name] < trained[f"{name}_high"] <= 1
    assert trained["linear"] <= trained["linear_top5"] <= 1
    confusion = np.array(found["confusion"])
    assert confusion.sum() == found["images"]["test"] == 360
    assert confusion.trace() == round(360 * trained["linear"])
    assert (
        confusion.sum(1).tolist() == np.bincount(open_source("digits", run, "test").labels).tolist()
    )
    assert found["rows"]["pixels"]["linear"] > 0.9 > found["rows"]["untrained"]["linear"]
    assert "z/effective_rank" in trained and "z/effective_rank" not in found["rows"]["pixels"]
    assert found["settings"]["knn_k"] == 5 and found["settings"]["images"]["image_size"] == 8
    assert found["hardware"]["cpu_cores"] > 0 and found["versions"]["torch"] == torch.__version__
    timed = {"encode_train", "encode_reported", "fit_linear", "averaged/authors"}
    assert timed <= set(trained["seconds"])
    for shown in (
        "trained",
        "untrained",
        "pixels",
        "authors' 2 views",
        "2 crops",
        "10 labels",
        "rank z",
        f"{100 * trained['linear']:.1f}",
    ):
        assert shown in said
    for x in "hz":
        assert (
            1 < trained[f"{x}/lidar"] < 16
            and 0 < trained[f"{x}/alignment"] < 2
            and trained[f"{x}/uniformity"] < 0
        )
    assert "h/lidar" in found["rows"]["untrained"] and "h/lidar" not in found["rows"]["pixels"]
    assert Image.open(run / "evaluation.png").size[0] > 1000
    assert not list(run.glob("*.tmp"))


def test_the_linear_column_is_what_scikit_learn_finds(run):
    assert judge(run, *SHORT) == 0
    trained = report(run)["rows"]["trained"]
    fitted, val, test = digits_representations(run)
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=1 / (len(fitted[0]) * trained["linear_l2"]), max_iter=10_000),
    ).fit(*fitted)
    assert trained["linear"] == pytest.approx(
        model.score(*test), abs=0.02
    )  # seven images of 360: other resizing moved up to five
    assert trained["linear_val"] == pytest.approx(model.score(*val), abs=0.022)
    singular = np.linalg.svd(test[0].astype(float), compute_uv=False)
    shares = singular / singular.sum()
    assert trained["h/effective_rank"] == pytest.approx(np.exp(entr(shares).sum()), rel=0.05)


def test_transfer_to_another_set_leaves_the_runs_own_file_alone(run, tmp_path):
    (run / "evaluation.json").write_text("of its own set")
    for split in ("train", "test"):
        write_class_folders(tmp_path / "images" / split, classes=3, per_class=20, side=20)
    assert (
        judge(
            run, *SHORT, "--data", "folder", "--data-dir", tmp_path / "images", "--image-size", 12
        )
        == 0
    )
    found = report(run, "evaluation-folder")
    assert found["classes"] == ["class-0", "class-1", "class-2"]
    assert found["settings"]["images"]["image_size"] == 12
    assert found["rows"]["trained"]["linear"] == 1.0  # the classes differ in brightness
    assert "linear_top5" not in found["rows"]["trained"]
    assert (run / "evaluation.json").read_text() == "of its own set"


def test_without_a_test_split_validation_is_reported_and_named(run, tmp_path, capsys):
    write_class_folders(tmp_path / "images", classes=2, per_class=20, side=20)
    assert judge(run, *SHORT, "--data", "folder", "--data-dir", tmp_path / "images") == 0
    assert report(run, "evaluation-folder")["split"] == "validation"
    assert "validation split" in capsys.readouterr().out


def test_corrupted_images_are_judged_by_the_same_probe(run, tmp_path, capsys):
    """Corrupted by nothing, and by other labels: what the linear column says, and chance."""
    source = open_source("digits", tmp_path, "test")
    folder = tmp_path / "corrupted"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(source.labels, 2))
    np.save(folder / "nothing.npy", np.concatenate([source.images] * 2))
    np.save(folder / "black.npy", np.zeros((720, 16, 16, 3), np.uint8))
    assert judge(run, *SHORT, "--robustness-dir", folder) == 0
    row = report(run)["rows"]["trained"]
    assert row["corrupted/nothing"] == row["linear"]
    assert (
        row["corrupted/black"] in np.bincount(source.labels) / 360
    )  # all black images get the same answer
    assert row["corrupted"] == pytest.approx(
        (row["corrupted/nothing"] + row["corrupted/black"]) / 2
    )
    assert "corrupted" in capsys.readouterr().out


def test_other_weights_become_rows(run, tmp_path):
    """The run's own backbone under another name says the same again."""
    given = f"again={run / 'backbone.safetensors'}"
    assert judge(run, *SHORT, "--checkpoint", given, "--data-dir", tmp_path) == 0
    rows = report(run)["rows"]
    same = ("linear", "knn", "few_labels", "h/effective_rank")
    assert [rows["again"][k] for k in same] == [rows["trained"][k] for k in same]


def test_fine_tuned_adapted_and_supervised(run, digits_dir, capsys, monkeypatch):
    monkeypatch.setattr(semi_supervised, "RATES", semi_supervised.RATES[2:4])  # each takes seconds
    flags = [
        *SHORT,
        "--fine-tune",
        0.05,
        1,
        "--fine-tune-epochs",
        6,
        "--adapt-batch-norm",
        "--supervised",
    ]
    assert judge(run, *flags) == 0
    rows, said = report(run)["rows"], capsys.readouterr().out
    assert set(rows) == {"trained", "supervised"}
    for row in rows.values():
        assert 0 < row["fine_tuned/0.05"] < row["fine_tuned/1"] <= 1 and 0 < row["adapted"] <= 1
        assert row["fine_tuned/1_low"] < row["fine_tuned/1"] < row["fine_tuned/1_high"]
    assert rows["trained"]["fine_tuned/1"] > 0.5
    ends = [
        (row, name.removesuffix("_at_end"))
        for row, numbers in rows.items()
        for name, count in numbers.items()
        if name.endswith("_at_end") and count
    ]
    for row, name in ends:
        assert f"* {row}, {name}: chosen at an end of its grid" in said
    for shown in ("tuned 5%", "tuned 100%", "adapted", "its own classifier reaches"):
        assert shown in said
    (labels,) = (digits_dir / "beton").glob("digits-train-labels-0.05-*.txt")
    files = labels, run / "supervised.safetensors"
    before = [file.stat().st_mtime_ns for file in files]
    assert judge(run, *flags) == 0  # the same labels, and no second training
    assert [file.stat().st_mtime_ns for file in files] == before
    assert report(run)["rows"]["supervised"] | {"seconds": 0} == rows["supervised"] | {"seconds": 0}
    capsys.readouterr()


def test_the_supervised_twin_learns_from_labels(digits_dir, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [
        *QUICK,
        "--data-dir",
        digits_dir,
        "--out",
        run,
        "--epochs",
        20,
        "--lr",
        0.01,
        "--batch-size",
        128,
        "--small-views",
        1,
    ]
    assert (
        train.main(cli.parse([*map(str, [*flags, "--probe-every", 0, "--final-images", 0])])) == 0
    )
    assert judge(run, "--num-averaged-views", 0, "--supervised") == 0
    rows = report(run)["rows"]
    assert rows["supervised"]["linear"] > rows["untrained"]["linear"] + 0.2
    about = read_extra(run / "supervised.safetensors")["supervised"]
    assert about["accuracy"] > 0.5 and about["images"] == 360
    assert about["steps"] == json.loads((run / "result.json").read_text())["steps"]
    assert f"{100 * about['accuracy']:.1f} on 360 images" in capsys.readouterr().out


def test_the_supervised_twin_sees_views_that_grow_as_the_runs_do(digits_dir, tmp_path, monkeypatch):
    flags = [*QUICK, "--data-dir", digits_dir, "--out", tmp_path / "run", "--epochs", 1]
    flags += ["--image-size", 12, "--first-size", 8, "--grow-by", 4, "--grow-until", 0.5]
    sizes, epoch_of_views = [], ViewStream.epoch

    def epoch(stream, positions, number, **size):
        sizes.extend((len(positions), each) for each in size.values())
        return epoch_of_views(stream, positions, number, **size)

    monkeypatch.setattr(ViewStream, "epoch", epoch)
    assert train.main(cli.parse([*map(str, [*flags, "--final-images", 0])])) == 0
    of_run = list(sizes)
    assert [size for _, size in of_run] == [8, 12]
    sizes.clear()
    assert judge(tmp_path / "run", *SHORT, "--supervised") == 0
    assert sizes[: len(of_run)] == of_run


def test_another_folder_is_another_set_and_one_that_moved_is_not(
    run_on_a_folder, tmp_path, monkeypatch, capsys
):
    run, images = run_on_a_folder, open_run(run_on_a_folder).cfg.images.data_dir
    other = write_class_folders(tmp_path / "other", per_class=20, side=20)
    seen = []

    def fisher(backbone, projector, cfg, stream, positions):
        seen.append(stream.stored.path.parents[1])
        return ssl_fisher(backbone, projector, cfg, stream, positions)

    monkeypatch.setattr("effssl.evaluate.rows.ssl_fisher", fisher)
    monkeypatch.setattr(semi_supervised, "RATES", semi_supervised.RATES[2:3])
    (run / "evaluation.json").write_text("of its own set")
    tuned = ["--fine-tune", 1, "--fine-tune-epochs", 1, "--keep", 0.01]
    to_other = ["--data", "folder", "--data-dir", other]
    assert judge(run, *SHORT, *to_other, "--supervised", *tuned) == 0
    assert (run / "evaluation.json").read_text() == "of its own set"
    where = report(run, "evaluation-folder")["settings"]["images"]["data_dir"]
    assert where == str(other) and seen == [images]
    twin = run / "supervised.safetensors"
    identity = read_extra(twin)["supervised"]["identity"]
    assert open_run(run).known_by == f"40 images {identity}"
    before = twin.stat().st_mtime_ns
    moved = shutil.copytree(images, tmp_path / "moved", ignore=shutil.ignore_patterns("beton"))
    assert judge(run, *SHORT, "--data-dir", moved, "--supervised") == 0
    assert report(run)["settings"]["images"]["data_dir"] == str(moved)
    assert twin.stat().st_mtime_ns == before
    (run / "checkpoint.pt").unlink()  # which notes what the images are known by
    assert judge(run, *SHORT, "--data-dir", images) == 0
    assert report(run)["settings"]["images"]["data_dir"] == str(images)
    assert "trained anew" not in capsys.readouterr().out


def test_the_supervised_twin_is_of_the_runs_own_images_and_sizes(
    finished_on_a_folder, tmp_path, capsys
):
    def twin(name, *flags):
        run = shutil.copytree(finished_on_a_folder, tmp_path / name)
        assert judge(run, *SHORT, "--supervised", *flags) == 0
        return run / "supervised.safetensors"

    files = twin("plain"), twin("otherwise", "--image-size", 8, "--fraction", 0.5)
    plain, otherwise = map(load_file, files)
    assert all(torch.equal(weight, otherwise[name]) for name, weight in plain.items())
    backbone, spec = load_backbone(files[0])
    about = read_extra(files[0])["supervised"]
    of_older_versions = {k: v for k, v in about.items() if k != "identity"}
    for noted in (of_older_versions, about | {"fraction": 0.5}):
        save_backbone(backbone, files[0], spec, extra={"supervised": noted})
        capsys.readouterr()
        assert judge(tmp_path / "plain", *SHORT, "--supervised") == 0
        assert f"{files[0]} is not known to be of these images" in capsys.readouterr().out
        assert read_extra(files[0])["supervised"] | {"seconds": 0} == about | {"seconds": 0}


def test_the_supervised_twin_starts_where_the_run_did(digits_dir, finished, tmp_path):
    flags = [*QUICK, "--data-dir", digits_dir, "--out", tmp_path / "run", "--init", finished]
    flags += ["--epochs", 1, "--probe-every", 0, "--lr", 1e-9, "--lr-bias", 1e-9]
    assert train.main(cli.parse([*map(str, flags)])) == 0
    assert judge(tmp_path / "run", *SHORT, "--supervised") == 0
    twin = load_backbone(tmp_path / "run" / "supervised.safetensors")[0]
    start = load_backbone(finished)[0].state_dict()
    for name, weight in twin.named_parameters():
        torch.testing.assert_close(weight, start[name], rtol=0, atol=1e-4)


def test_layers_are_compared(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    assert judge(run, other, *SHORT, "--cka", "--to", tmp_path / "table") == 0
    same = json.loads((tmp_path / "table" / "cka-run-other.json").read_text())
    assert (
        same["rows"]["run"]
        == same["columns"]["other"]
        == ["act1", "layer1", "layer2", "layer3", "layer4"]
    )
    np.testing.assert_allclose(np.diag(same["cka"]), 1, atol=1e-6)
    assert Image.open(tmp_path / "table" / "cka-run-other.png").size[0] > 300
    assert judge(run, *SHORT, "--cka") == 0
    cka = np.array(json.loads((run / "cka-run-untrained.json").read_text())["cka"])
    assert cka.shape == (5, 5) and cka[4, 4] < cka[0, 0] <= 1
    assert "cka-run-untrained.png" in capsys.readouterr().out


def test_several_runs_share_a_table(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    assert judge(run, other, "--num-averaged-views", 0, "--to", tmp_path / "table") == 0
    with (tmp_path / "table" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["row"]) for row in rows] == [
        (r, x) for r in ("run", "other") for x in ("trained", "untrained")
    ]
    assert (
        float(rows[0]["linear"])
        == report(run)["rows"]["trained"]["linear"]
        == float(rows[2]["linear"])
    )
    text = (tmp_path / "table" / "comparison.md").read_text()
    accuracies, measures, *_ = text.split("\n\n")  # lines about ends of grids may follow
    assert "LiDAR z" in measures
    lines = accuracies.splitlines()
    assert len(lines) == 6 and all(
        line.startswith("| ") and line.count("|") == lines[0].count("|") for line in lines
    )
    assert "other: untrained" in lines[5] and "other: untrained" in capsys.readouterr().out


def _unfinished(run, tmp_path):
    (run / "result.json").unlink()
    return [], "has not finished"


def _no_run(run, tmp_path):
    (run / "config.yaml").unlink()
    return [], "is not a run folder"


def _damaged_backbone(run, tmp_path):
    (run / "backbone.safetensors").write_bytes(b"x" * 500)
    return [], "backbone.safetensors"


def _other_backbone(run, tmp_path):
    save_file({"weight": torch.zeros(1)}, run / "backbone.safetensors")
    return [], "backbone.safetensors"


def _damaged_checkpoint(run, tmp_path):
    file = run / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    return [], "checkpoint.pt is damaged"


def _checkpoint_of_another(run, tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}}, run / "checkpoint.pt")
    return [], "does not hold the encoder"


def _no_labels(run, tmp_path):
    images = write_class_folders(tmp_path / "loose", classes=1)
    return ["--data", "folder", "--data-dir", images], "has no labels"


def _classes_that_train_lacks(run, tmp_path):
    write_class_folders(tmp_path / "images" / "train", classes=2)
    write_class_folders(tmp_path / "images" / "test", classes=3)
    return ["--data", "folder", "--data-dir", tmp_path / "images"], "class-2"


def _no_such_weights(run, tmp_path):
    return ["--checkpoint", f"resnet18={tmp_path / 'none.pth'}"], "no such file"


def _weights_of_another_model(run, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    return ["--checkpoint", f"resnet18={tmp_path / 'other.pth'}"], "not weights of that timm model"


def _no_corruptions(run, tmp_path):
    return ["--robustness-dir", tmp_path / "none"], "labels.npy: no such file"


def _to_a_file(run, tmp_path):
    (tmp_path / "file").write_text("")
    return ["--to", tmp_path / "file"], "cannot be written"


@pytest.mark.parametrize(
    "spoil",
    [
        *(
            _unfinished,
            _no_run,
            _damaged_backbone,
            _other_backbone,
            _damaged_checkpoint,
            _checkpoint_of_another,
        ),
        *(_no_labels, _classes_that_train_lacks),
        *(_no_such_weights, _weights_of_another_model, _no_corruptions, _to_a_file),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, capsys, spoil):
    flags, complaint = spoil(run, tmp_path)
    before = sorted(run.iterdir())
    capsys.readouterr()
    assert judge(run, *SHORT, *flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert complaint in said
    assert sorted(run.iterdir()) == before


def edited(run, *changes):
    settings = (file := run / "config.yaml").read_text()
    for before, after in changes:
        assert before in settings
        settings = settings.replace(before, after)
    file.write_text(settings)


def test_what_is_wrong_with_a_run_is_told_before_another_is_judged(
    run, finished_on_a_folder, tmp_path, capsys
):
    other = shutil.copytree(finished_on_a_folder, tmp_path / "other")
    edited(other, (str(finished_on_a_folder.parent / "set"), str(tmp_path / "gone")))
    assert judge(run, other, *SHORT) == 2
    said = capsys.readouterr()
    assert f"{tmp_path / 'gone'}" in said.err and f"{run}: trained" not in said.out
    assert not (run / "evaluation.json").exists()


def test_a_loss_that_cannot_weigh_keep_is_told_before_anything_is_judged(run, capsys):
    edited(run, ("\nviews: 2\n", "\nviews: 1\n"), ("small_views: 0\n", "small_views: 1\n"))
    flags = [run, *SHORT, "--fine-tune", 1, "--keep", 0.01]
    assert judge(*flags) == 2
    said = capsys.readouterr()
    assert "the run has one view beside its small ones" in said.err
    assert f"{run}: trained" not in said.out


@pytest.mark.parametrize("at", ["protocol", "picture"])
def test_an_interrupt_leaves_nothing_half_written(run, monkeypatch, at):
    def interrupted(self, file, **how):
        if at == "picture":
            file.write_bytes(b"half a picture")
        raise KeyboardInterrupt

    if at == "picture":
        monkeypatch.setattr(Figure, "savefig", interrupted)
    else:
        monkeypatch.setattr(protocols, "knn", interrupted)
    before = sorted(run.iterdir())
    assert judge(run, *SHORT) == 130
    assert sorted(run.iterdir()) == before


def test_a_run_whose_checkpoint_was_removed_has_no_z(run, capsys):
    (run / "checkpoint.pt").unlink()
    assert judge(run, *SHORT) == 0
    assert "z/effective_rank" not in report(run)["rows"]["trained"]
    assert "no measures of z" in capsys.readouterr().out


def test_fine_tuning_near_the_start_is_weighed_by_the_runs_own_loss(run, monkeypatch):
    given = []
    tune = semi_supervised.fine_tuned

    def noted(backbone, *args, near, **kwargs):
        given.append((backbone, near))
        return tune(backbone, *args, near=near, **kwargs)

    monkeypatch.setattr(semi_supervised, "fine_tuned", noted)
    before = load_backbone(run)[0].state_dict()
    flags = [run, *SHORT, "--fine-tune", "1", "--fine-tune-epochs", "1", "--keep"]
    assert judge(*flags, "0.01") == 0
    (backbone, near), freely = given[0], report(run)["rows"]["trained"]["fine_tuned/1"]
    assert near.weight == 0.01
    assert [f.shape for f in near.fisher] == [p.shape for p in backbone.parameters()]
    numbers = torch.cat([f.flatten() for f in near.fisher])
    assert numbers.min() >= 0 and numbers.mean() == pytest.approx(1, rel=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert judge(*flags, "1000", "--keep-fisher", "none") == 0
    assert given[1][1].fisher is None
    assert report(run)["rows"]["trained"]["fine_tuned/1"] != freely
    (run / "checkpoint.pt").unlink()  # and with it the projector
    assert judge(*flags, "0.01") == 2  # else F would be 1 of this row, and not of the untrained one
    assert judge(*flags, "0.01", "--keep-fisher", "none") == 0
    assert given[2][1].fisher is None

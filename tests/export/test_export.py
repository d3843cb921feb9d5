from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from effssl.export import timm_folder
from effssl.export.run import export, main
from effssl.image_config import Augment
from effssl.job_config import Export
from effssl.models import Projector, load_backbone, representation_dim, save_backbone
from effssl.ranges import height_width
from effssl.views.assemble import clean_view
from tests.conftest import WEIGHTS, example, write_run

pytestmark = pytest.mark.slow

PLAIN = 'timm.create_model("local-dir:.", pretrained=True)'
VIT = "{depth: 1, embed_dim: 32, num_heads: 2}"
RUNS = {  # folder -> (backbone, size, stem, kwargs, loads with pretrained=True)
    "small": ("resnet18", 16, "auto", "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}", False),
    "stride 2": (
        "resnet18",
        16,
        "small-s2",
        "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}",
        False,
    ),
    "deep stem": ("resnet10t", 16, "auto", "{channels: [8, 16, 16, 16]}", False),
    "published": (
        "resnet18",
        40,
        "timm",
        "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}",
        True,
    ),
    "tagged": (
        "resnet18.a1_in1k",
        40,
        "timm",
        "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}",
        True,
    ),
    "vit": ("vit_tiny_patch16_224", 24, "auto", VIT, True),
    "vit, published": ("vit_tiny_patch16_224", 48, "timm", VIT, True),
    "wide": ("vit_tiny_patch16_224", (24, 40), "auto", VIT, True),
    "convnext": (
        "convnext_atto",
        32,
        "auto",
        "{depths: [1, 1, 1, 1], dims: [8, 16, 16, 16]}",
        True,
    ),
    "mobilenet": ("mobilenetv3_small_050", 32, "auto", "{}", True),
}
# In a process without effssl: every folder's lines, on the images of its size beside it
FRESH = """
import os, re, sys
sys.modules["effssl"] = None
import numpy as np, torch
from PIL import Image
for folder in sys.argv[1:]:
    os.chdir(folder)
    names = {}
    for block in re.findall(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL):
        exec(block, names)
    image = Image.open("../image.png").resize(names["transform"].transforms[1].size[::-1])
    with torch.inference_mode():
        h = names["model"](names["transform"](image)[None])
        np.save("../represented.npy", h.numpy())
        np.save("../embedded.npy", names["projector"](h).numpy())
assert not any(name.startswith("effssl.") for name in sys.modules)
"""


def fresh_python(code: str, *arguments, cwd: Path) -> None:
    command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Export every run, and read all by one process that has no effssl."""
    root = tmp_path_factory.mktemp("exports")
    for name, (backbone, size, stem, kwargs, _) in RUNS.items():
        run = write_run(
            root / name / "run",
            backbone,
            size,
            stem,
            kwargs,
            norm="layer" if name == "vit" else "batch",
            bias=name == "stride 2",
        )
        export(Export(run, root / name / "to", projector=True))
        noise = np.random.default_rng(0).integers(0, 256, (*height_width(size), 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name / "image.png")
    fresh_python(FRESH, *(root / name / "to" for name in RUNS), cwd=root)
    return root


@pytest.mark.parametrize("name", RUNS)
def test_the_lines_of_its_readme_give_our_representations_without_effssl(exports, name):
    here = exports / name
    backbone, spec = load_backbone(here / "run")
    pixels = torch.from_numpy(np.array(Image.open(here / "image.png")))[None]
    state = torch.load(here / "run" / "checkpoint.pt", weights_only=True)["model"]
    dim = representation_dim(backbone)
    norm, bias = "layer" if name == "vit" else "batch", name == "stride 2"
    projector = Projector(dim, 12, 8, 2, norm, bias).eval()
    projector.load_state_dict(
        {k.removeprefix("projector."): v for k, v in state.items() if k.startswith("projector.")}
    )
    augment = Augment(image_size=spec.image_size, mean=spec.mean, std=spec.std)
    with torch.inference_mode():
        h = backbone(clean_view(pixels, augment))
        z = projector(h)
    assert h.std() > 1e-3
    np.testing.assert_allclose(np.load(here / "represented.npy"), h, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.load(here / "embedded.npy"), z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_timm_alone_gives_the_same_network_or_refuses(exports, name, monkeypatch):
    loads = RUNS[name][-1]
    text = (exports / name / "to" / "README.md").read_text()
    assert (PLAIN in text) == loads
    monkeypatch.chdir(exports / name / "to")
    if not loads:
        with pytest.raises(RuntimeError, match="No suitable checkpoints"):
            timm.create_model("local-dir:.", pretrained=True)
        return
    plain = timm.create_model("local-dir:.", pretrained=True).eval()
    ours, spec = load_backbone("../run")
    images = torch.randn(2, 3, *height_width(spec.image_size))
    with torch.inference_mode():
        assert torch.equal(plain(images), ours(images))
    tuned = timm.create_model("local-dir:.", pretrained=True, num_classes=5).eval()  # to fine-tune
    assert tuned(images).shape == (2, 5)
    with torch.inference_mode():
        assert torch.equal(
            tuned.forward_head(tuned.forward_features(images), pre_logits=True), ours(images)
        )


def test_config_says_what_timm_wants_to_know(exports):
    config = json.loads((exports / "small" / "to" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == (
        "resnet18",
        0,
        16,
    )
    assert config["model_args"] == {"channels": [8, 16, 16, 16], "layers": [1, 1, 1, 1]}
    input_of = config["pretrained_cfg"]
    assert (input_of["input_size"], input_of["mean"], input_of["std"]) == (
        [3, 16, 16],
        [0.5, 0.4, 0.3],
        [0.2, 0.25, 0.3],
    )
    wide = json.loads((exports / "wide" / "to" / "config.json").read_text())
    assert wide["pretrained_cfg"]["input_size"] == [3, 24, 40]
    assert wide["model_args"]["img_size"] == [24, 40]
    text = (exports / "wide" / "to" / "README.md").read_text()
    assert "[n, 3, 24, 40]" in text and "24 px high and 40 px wide" in text
    assert (
        json.loads((exports / "tagged" / "to" / "config.json").read_text())["architecture"]
        == "resnet18"
    )


@pytest.mark.parametrize(
    ("kept", "window", "said", "takes_pillows"),
    [
        (None, None, "(RGB in [0, 1]).\n", True),
        (None, (0.0, 4095.0), "with 0 as black and 4095 as white", True),
        (3, (0.0, 10_000.0), "0 and 255 in images of 8 bits, 0 and 10000 in all others", False),
        (3, None, "0 and 65535 in those of 16 bits", False),
    ],
)
def test_its_readme_says_what_was_black_and_white(tmp_path, kept, window, said, takes_pillows):
    backbone, spec = load_backbone(write_run(tmp_path / "run"))
    file = tmp_path / "backbone.safetensors"
    save_backbone(backbone, file, replace(spec, kept_channels=kept, gray_range=window))
    export(Export(file, tmp_path / "to"))
    text = (tmp_path / "to" / "README.md").read_text()
    assert said in text and ("create_transform" in text) == takes_pillows


def test_the_lines_in_the_docs_load_it(tmp_path):
    run = write_run(tmp_path / "run", size=40, stem="timm")
    assert main(Export(run, tmp_path / "DIR")) == 0
    code = (
        example(WEIGHTS, "local-dir:DIR")
        + "import torch; torch.save(model.state_dict(), 'weights.pt')"
    )
    fresh_python(f"import sys; sys.modules['effssl'] = None\n{code}", cwd=tmp_path)
    weights, ours = torch.load(tmp_path / "weights.pt"), load_backbone(run)[0].state_dict()
    assert weights.keys() == ours.keys()
    assert all(torch.equal(weights[k], ours[k]) for k in ours)


@pytest.fixture(scope="module")
def with_onnx(tmp_path_factory):
    """Return a run and its export with an ONNX file, which takes seconds to make."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    root = tmp_path_factory.mktemp("onnx")
    run = write_run(root / "run")
    assert main(Export(run, root / "to", onnx=True)) == 0
    return run, root / "to"


def exporting(file, change):
    """Return a torch.onnx.export that writes this ONNX file after a change."""
    import onnx

    def export_changed(model, inputs, to, **others):
        made = onnx.load(file)
        change(made)
        onnx.save(made, to)

    return export_changed


def test_onnx_takes_any_batch_and_computes_the_same(with_onnx):
    import onnxruntime

    run, to = with_onnx
    files = {"config.json", "README.md", "small_stem", "model.onnx"}
    assert {p.name for p in to.iterdir()} == files
    session = onnxruntime.InferenceSession(to / "model.onnx")
    backbone, _ = load_backbone(run)
    for batch in (1, 3, 8):
        images = torch.randn(batch, 3, 16, 16)
        with torch.inference_mode():
            np.testing.assert_allclose(
                session.run(None, {"images": images.numpy()})[0], backbone(images), atol=1e-4
            )


def test_another_onnx_file_of_the_same_weights_takes_the_place_of_the_first(with_onnx, monkeypatch):
    run, to = with_onnx
    before = contents(to)

    def said(made):
        made.doc_string = "made again"

    monkeypatch.setattr(torch.onnx, "export", exporting(to / "model.onnx", said))
    assert main(Export(run, to, onnx=True)) == 0
    after = contents(to)
    assert after.pop("model.onnx") != before.pop("model.onnx") and after == before


def test_an_onnx_file_that_computes_something_else_is_not_left(
    with_onnx, tmp_path, monkeypatch, capsys
):
    from onnx import numpy_helper

    def wrong(made):
        weights = next(part for part in made.graph.initializer if len(part.dims) == 4)
        changed = numpy_helper.to_array(weights) + np.float32(0.1)
        weights.CopyFrom(numpy_helper.from_array(changed, weights.name))

    run, to = with_onnx
    monkeypatch.setattr(torch.onnx, "export", exporting(to / "model.onnx", wrong))
    assert main(Export(run, tmp_path / "to", onnx=True)) == 2
    assert "does not come out right in ONNX: outputs for 1 images" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(Export(write_run(tmp_path / "run"), tmp_path / "to", onnx=True)) == 2
    stderr = capsys.readouterr().err
    assert "--onnx needs onnx, onnxruntime, onnxscript; install effssl with the extra" in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "to").exists()


def test_a_network_that_timm_does_not_rebuild_is_refused(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", size=40, stem="timm")
    config = timm_folder.timm_config
    monkeypatch.setattr(
        timm_folder, "timm_config", lambda *a: config(*a) | {"model_args": {"layers": [1, 1, 1, 1]}}
    )
    assert main(Export(run, tmp_path / "to")) == 2
    assert "timm does not rebuild it" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_again_changes_nothing_and_another_is_refused(tmp_path, capsys):
    run, to = write_run(tmp_path / "run"), tmp_path / "deep" / "to"
    to.mkdir(parents=True)
    (to / "note.txt").write_text("mine")
    assert main(Export(run / "backbone.safetensors", to)) == 0  # the file serves as well
    first = contents(to)
    assert set(first) == {"note.txt", "README.md", "config.json", "small_stem/model.safetensors"}
    assert main(Export(run, to)) == 0
    assert contents(to) == first
    assert main(Export(run, to, projector=True)) == 0
    whole = contents(to)
    assert set(whole) == set(first) | {"projector/model.safetensors"}
    assert main(Export(run, to)) == 0
    assert contents(to) == whole  # the README still tells of the projector that is there
    capsys.readouterr()
    for i, other in enumerate(
        [{"stem": "small-s2"}, {"size": 20}, {"kwargs": "{layers: [1, 1, 1, 1]}"}, {"seed": 1}]
    ):
        assert main(Export(write_run(tmp_path / "others" / str(i), **other), to)) == 2
        assert "holds another" in capsys.readouterr().err
    assert contents(to) == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "others", "run"]


def bad_runs(root: Path) -> dict[str, tuple[Path, Path, str]]:
    run = write_run(root / "run")
    (root / "empty").mkdir()
    (root / "unfinished").mkdir()
    (root / "unfinished" / "config.yaml").write_text("views: 4\n")
    (root / "file").write_text("a file")
    damaged = write_run(root / "damaged")
    with (damaged / "backbone.safetensors").open("r+b") as file:
        file.truncate(3000)
    return {
        "absent": (root / "absent", root / "to", "no such file"),
        "not a run": (root / "empty", root / "to", "is not a run"),
        "unfinished": (
            root / "unfinished",
            root / "to",
            "is not finished; go on with: python -m effssl.train",
        ),
        "damaged": (damaged, root / "to", "is not a backbone of a run"),
        "another file": (root / "file", root / "to", "is not a backbone of a run"),
        "to is a file": (run, root / "file", "is not a folder that you may write to"),
        "to is below a file": (run, root / "file" / "to", "is not a folder that you may write to"),
    }


BAD = [
    "absent",
    "not a run",
    "unfinished",
    "damaged",
    "another file",
    "to is a file",
    "to is below a file",
]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2_and_leaves_nothing(tmp_path, capsys, name):
    run, to, message = bad_runs(tmp_path)[name]
    before = contents(tmp_path)
    assert main(Export(run, to)) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1
    assert contents(tmp_path) == before
    assert not (tmp_path / "to").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:4])
        raise OSError(28, "No space left on device")

    run, there = write_run(tmp_path / "run"), tmp_path / "there"
    there.mkdir()
    monkeypatch.setattr(Path, "write_bytes", full)
    for to in (there, tmp_path / "new"):
        assert main(Export(run, to)) == 2
        assert "cannot be written: No space left on device\n" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "there"]
    assert contents(there) == {}


def test_a_checkpoint_of_other_weights_gives_no_projector(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"]["backbone.conv1.weight"] += 1
    torch.save(state, run / "checkpoint.pt")
    assert main(Export(run, tmp_path / "to", projector=True)) == 2
    assert "different weights" in capsys.readouterr().err
    (run / "checkpoint.pt").unlink()
    assert main(Export(run, tmp_path / "to", projector=True)) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()

"""Write a run's backbone as a folder that plain timm loads, without effssl."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models import ResNet
from torch import Tensor, nn

from effssl import InputError
from effssl.job_config import Export
from effssl.models import backbones as models
from effssl.run import checkpoint
from effssl.run import device as process

# timm loads a folder's weights by itself with pretrained=True. Where a ResNet's stem has to be replaced first, they lie
# deeper: it then says that there are none, and loads nothing into another network (a deep stem's shapes would all fit).
_PLAIN, _AFTER_STEM = "model.safetensors", "small_stem/model.safetensors"
_ONNX, _PROJECTOR = "model.onnx", "projector/model.safetensors"


def export(settings: Export) -> str:
    """Write config.json (timm's format), README.md, the weights, and what else is asked for, into the folder; returns
    what is there, in a line.

    All is checked first: plain timm, built from the files, gives the outputs of the run's backbone to 1e-6. Raises
    InputError for a run that has no backbone, a backbone that timm does not rebuild, a folder that cannot be written or
    holds another export; then nothing is written.
    """
    backbone, about = models.load_backbone(settings.run)
    to = settings.to
    _check_folder(to)
    if settings.onnx:
        _check_onnx_is_there()
    try:
        projector_too = settings.projector or (to / _PROJECTOR).is_file()
        with tempfile.TemporaryDirectory(prefix=".export-", dir=_existing(to)) as temporary:
            _write(settings.run, backbone, about, Path(temporary), onnx=settings.onnx, projector_too=projector_too)
            _publish(Path(temporary), to)
    except (OSError, SafetensorError) as error:
        raise InputError(f"--to {to} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    extras = "".join(f", {name}" for name in (_PROJECTOR, _ONNX) if (to / name).is_file())
    dim, size = models.representation_dim(backbone), about["image_size"]
    return (
        f"{to}: {about['backbone']}, images of {size} px -> {dim} numbers{extras}; how to load it: {to / 'README.md'}"
    )


def _existing(to: Path) -> Path:
    """The folder itself, or the one that it would be made in."""
    return next(p for p in (to.absolute(), *to.absolute().parents) if p.exists())


def _check_folder(to: Path) -> None:
    existing = _existing(to)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(f"--to {to} cannot be written: {existing} is not a folder that you may write to")


def _check_onnx_is_there() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--onnx needs {', '.join(missing)}; install effssl with the extra: pip install -e '.[onnx]'")


def _write(
    run: Path, backbone: nn.Module, about: dict[str, Any], new: Path, *, onnx: bool, projector_too: bool
) -> None:
    """All files of the export into an empty folder, each checked."""
    weights = new / (_AFTER_STEM if _has_small_stem(backbone) else _PLAIN)
    weights.parent.mkdir(exist_ok=True)
    save_file(_weights_of(backbone), weights, metadata={"format": "pt"})
    (new / "config.json").write_text(json.dumps(_timm_config(backbone, about), indent=1) + "\n")
    _check_with_timm(new, backbone, about)
    projector = _save_projector(run, backbone, new / _PROJECTOR) if projector_too else None
    if onnx:
        _save_onnx(backbone, about, new / _ONNX)
    (new / "README.md").write_text(_readme(backbone, about, projector))


def _has_small_stem(backbone: nn.Module) -> bool:
    return isinstance(backbone, ResNet) and isinstance(backbone.maxpool, nn.Identity)


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in module.state_dict().items()}


def _timm_config(backbone: nn.Module, about: dict[str, Any]) -> dict[str, Any]:
    """What timm reads from a config.json, here and on a model hub."""
    size = about["image_size"]
    arguments = models.timm_arguments(about["backbone"], size, stem=about["stem"], kwargs=about["backbone_kwargs"])
    of_timm: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
    return {
        "architecture": about["backbone"].partition(".")[0],
        "num_classes": 0,
        "num_features": models.representation_dim(backbone),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": of_timm.get("fixed_input_size", False),
            "mean": about["mean"],
            "std": about["std"],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": 0,
            "first_conv": of_timm.get("first_conv"),
            "classifier": of_timm.get("classifier"),
        },
        "effssl": about,  # timm does not read it
    }


def _check_with_timm(folder: Path, backbone: nn.Module, about: dict[str, Any]) -> None:
    """Load the folder as its README.md does. Raises InputError where that gives another network."""
    try:
        if _has_small_stem(backbone):
            assert isinstance(backbone, ResNet)
            plain = timm.create_model(f"local-dir:{folder}")
            assert isinstance(plain, ResNet)
            models.shrink_stem(plain, stride=models.first_convolution(backbone).stride[0])
            timm.models.load_checkpoint(plain, str(folder / _AFTER_STEM))
        else:
            plain = timm.create_model(f"local-dir:{folder}", pretrained=True)
        images = _noise(2, about)
        with torch.inference_mode():
            off = _difference(plain.eval()(images), backbone(images))
        reason = f"outputs differ by {off:.1e}" if off > 1e-6 else ""
    except Exception as error:  # timm models raise many types for arguments that do not fit
        reason = " ".join(str(error).split())[:200]
    if reason:
        raise InputError(
            f"{about['backbone']} cannot be exported: timm does not rebuild it from a config.json ({reason})"
        )


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest, as a part of the largest output where that is above 1; infinite for numbers that are not finite."""
    off = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    return off if off < math.inf else math.inf


def _noise(batch: int, about: dict[str, Any]) -> Tensor:
    size = about["image_size"]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def _save_projector(run: Path, backbone: nn.Module, path: Path) -> models.Projector:
    """From the checkpoint beside the backbone, whose backbone must be the same."""
    state = checkpoint.load((run if run.is_dir() else run.parent) / "checkpoint.pt")["model"]
    parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "projector": {}}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    here, there = backbone.state_dict(), parts["backbone"]
    if here.keys() != there.keys() or not all(torch.equal(here[k], there[k]) for k in here):
        raise InputError(f"{run}: checkpoint.pt and backbone.safetensors are of different weights; let the run finish")
    weights = parts["projector"]
    linear = [value for value in weights.values() if value.ndim == 2]
    norm: models.Norm = "none"
    if len(linear) > 1:
        norm = "batch" if "1.running_mean" in weights else "layer" if "1.weight" in weights else "none"
    projector = models.Projector(linear[0].shape[1], linear[0].shape[0], linear[-1].shape[0], len(linear), norm)
    projector.load_state_dict(weights)
    path.parent.mkdir()
    save_file(_weights_of(projector), path, metadata={"format": "pt"})
    return projector.eval()


def _save_onnx(backbone: nn.Module, about: dict[str, Any], path: Path) -> None:
    """Raises InputError where torch cannot express the backbone in ONNX, or onnxruntime computes something else."""
    import onnxruntime

    logging.disable(logging.WARNING)  # the exporter's about every constant that it leaves
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about itself
            torch.onnx.export(
                backbone,
                (_noise(2, about),),
                path,
                dynamo=True,
                input_names=["images"],
                output_names=["representations"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for batch in (1, 2, 5):
            images = _noise(batch, about)
            with torch.inference_mode():
                expected = backbone(images)
            (found,) = session.run(None, {"images": images.numpy()})
            off = _difference(torch.from_numpy(found), expected)
            if not off <= 1e-4:
                raise ValueError(f"outputs for {batch} images differ by {off:.1e}")
    except Exception as error:  # the exporter and onnxruntime raise types of their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--onnx: {about['backbone']} does not come out right in ONNX: {reason}") from None
    finally:
        logging.disable(logging.NOTSET)


def _readme(backbone: nn.Module, about: dict[str, Any], projector: models.Projector | None) -> str:
    dim, size = models.representation_dim(backbone), about["image_size"]
    lines = [
        f"# {about['backbone']} trained without labels, by effssl",
        "",
        f"Images [n, 3, {size}, {size}] -> representations [n, {dim}]. In this folder, with timm >= 1.0.16:",
        "",
        "```python",
        *_loading_lines(backbone),
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "# h = model(torch.stack([transform(image) for image in images]))   # of Pillow's RGB images",
        "```",
        "",
        f"The transform makes the central square {size} px large and normalises it with mean {about['mean']} and std "
        f"{about['std']} (RGB in [0, 1]).",
    ]
    if _has_small_stem(backbone):
        lines += [
            "",
            "No argument of timm gives this stem (3x3, no max-pool): it is replaced before the weights are loaded, and",
            "`pretrained=True` finds none.",
        ]
    if projector is not None:
        lines += ["", "The projector, representations -> embeddings:", "", "```python", "import safetensors.torch"]
        lines += ["import torch", "", "projector = torch.nn.Sequential("]
        lines += [f"    torch.nn.{_code_of(step)}," for step in projector]
        lines += [").eval()", f'projector.load_state_dict(safetensors.torch.load_file("{_PROJECTOR}"))', "```"]
    return "\n".join(lines) + "\n"


def _code_of(step: nn.Module) -> str:
    match step:
        case nn.Linear():
            return f"Linear({step.in_features}, {step.out_features}, bias={step.bias is not None})"
        case nn.BatchNorm1d():
            return f"BatchNorm1d({step.num_features})"
        case nn.LayerNorm():
            return f"LayerNorm({step.normalized_shape[0]})"
        case _:
            return f"{type(step).__name__}()"


def _loading_lines(backbone: nn.Module) -> list[str]:
    if not _has_small_stem(backbone):
        return ["import timm", "import torch", "", 'model = timm.create_model("local-dir:.", pretrained=True).eval()']
    assert isinstance(backbone, ResNet)
    first = models.first_convolution(backbone)
    where = "conv1[0]" if isinstance(backbone.conv1, nn.Sequential) else "conv1"
    return [
        "import timm",
        "import torch",
        "",
        'model = timm.create_model("local-dir:.").eval()',
        f"model.{where} = torch.nn.Conv2d(3, {first.out_channels}, 3, stride={first.stride[0]}, padding=1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
        f'timm.models.load_checkpoint(model, "{_AFTER_STEM}")',
    ]


def _publish(new: Path, to: Path) -> None:
    """Move the files into place; files of another export are left, and raise InputError."""
    files = sorted(p.relative_to(new) for p in new.rglob("*") if p.is_file())
    is_there = {file: (to / file).is_file() and (to / file).read_bytes() == (new / file).read_bytes() for file in files}
    same_model = all(same for file, same in is_there.items() if str(file) in ("config.json", _PLAIN, _AFTER_STEM))
    for file in files:
        # Of the same weights an ONNX file may be another each time, and the README goes with what was asked for.
        replaceable = file.name in (_ONNX, "README.md") and same_model
        if (to / file).exists() and not is_there[file] and not replaceable:
            raise InputError(f"--to {to} holds another {file}; name another folder")
    to.mkdir(parents=True, exist_ok=True)
    for file in files:
        (to / file).parent.mkdir(exist_ok=True)
        (new / file).chmod(0o644)  # safetensors writes for the owner alone
        (new / file).replace(to / file)


def main(settings: Export) -> int:
    """`export`, as process.exit_code does it."""
    return process.exit_code(lambda: print(export(settings)))

"""Backbones in files: those that a run writes, and timm's own weights on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from effssl import InputError
from effssl.models.backbones import Stem, check_is_timm, create_backbone, timm_arguments
from effssl.run.files import atomic

_KEY = "effssl"  # of the file's metadata, where the spec lies as JSON


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone's file says of it: all that is needed to build it, and to feed it."""

    backbone: str
    """Its name in timm."""
    image_size: int
    """Side of the images that it was made for, in pixels."""
    stem: Stem
    """Its stem, as `create_backbone` takes it."""
    backbone_kwargs: str
    """Further arguments of timm.create_model, as a YAML mapping."""
    mean: tuple[float, float, float]
    """Mean that images are normalised with, RGB in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation that images are normalised with."""


def save_backbone(
    backbone: nn.Module, path: Path, spec: BackboneSpec, extra: dict[str, Any] | None = None
) -> None:
    """Write the weights and their spec as one safetensors file, whole or not at all.

    Args:
        backbone: the model, on any device.
        path: the file, *.safetensors.
        spec: all that `load_backbone` needs.
        extra: what else the file is to say, as JSON; `read_extra` gives it back.

    Raises:
        InputError: if the file cannot be written.
    """
    weights = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
    metadata = {_KEY: json.dumps(asdict(spec) | (extra or {}))}
    with atomic(path) as temporary:
        temporary.write_bytes(save(weights, metadata))


def load_backbone(path: str | Path) -> tuple[nn.Module, BackboneSpec]:
    """Load the backbone of a run, strictly, in eval mode on the CPU, and its spec.

    Args:
        path: the run's folder, or the backbone.safetensors in it.

    Raises:
        InputError: if it is anything else.
    """
    file = _backbone_file(Path(path))
    spec, _ = _metadata(file)
    model = create_backbone(
        spec.backbone, spec.image_size, stem=spec.stem, kwargs=spec.backbone_kwargs
    )
    try:
        model.load_state_dict(load_file(file), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = _one_line(error)[:200]
        raise InputError(f"{file} does not hold what it says it holds: {reason}") from None
    return model.eval(), spec


def read_extra(file: Path) -> dict[str, Any]:
    """Return the `extra` that `save_backbone` wrote into a file; empty if it wrote none.

    Raises InputError if the file is not a backbone of a run.
    """
    return _metadata(file)[1]


def load_weights(
    name: str, file: Path, image_size: int | None = None
) -> tuple[nn.Module, BackboneSpec]:
    """Load a backbone from weights on disk, strictly, in eval mode on the CPU, and its spec.

    Args:
        name: the timm model that the weights are of; any name if the file is of a run.
        file: backbone.safetensors of a run, or weights of that timm model (.safetensors, .pth),
            whose classifier is left out.
        image_size: for timm's weights, the side in pixels that the model is to take; None is the
            size that it was made for.

    Raises:
        InputError: if it is any other file, or not the weights of that model.
    """
    if not file.is_file():
        raise InputError(f"--checkpoint {name}={file}: no such file")
    if _is_of_a_run(file):
        return load_backbone(file)
    check_is_timm(name, f"--checkpoint {name}={file}")
    try:
        weights = timm.models.load_state_dict(str(file), weights_only=True)
        sized = timm_arguments(name, image_size, stem="timm", kwargs="{}") if image_size else {}
        model = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        heads = timm.get_pretrained_cfg_value(name, "classifier") or ()
        dropped = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        kept = {k: v for k, v in weights.items() if not k.startswith(dropped)}
        model.load_state_dict(kept, strict=True)
        of_timm = timm.data.resolve_model_data_config(model)
        mean, std = _rgb(of_timm["mean"]), _rgb(of_timm["std"])
    # Damaged files and weights of other models make torch raise many types.
    except Exception as error:
        reason = _one_line(error)[:200]
        message = f"--checkpoint {name}={file}: not weights of that timm model: {reason}"
        raise InputError(message) from None
    size = image_size or of_timm["input_size"][-1]
    return model.eval(), BackboneSpec(name, size, "timm", "{}", mean, std)


def _metadata(file: Path) -> tuple[BackboneSpec, dict[str, Any]]:
    """Return what a run's file says of itself: the spec, and what else it was given to say."""
    try:
        with safe_open(file, framework="pt") as opened:
            extra = json.loads((opened.metadata() or {})[_KEY])
        values = {field.name: extra.pop(field.name) for field in fields(BackboneSpec)}
        values |= {"mean": _rgb(values["mean"]), "std": _rgb(values["std"])}
        return BackboneSpec(**values), extra
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except Exception as error:  # safetensors raises its own type for damaged files
        raise InputError(f"{file} is not a backbone of a run: {_one_line(error)}") from None


def _rgb(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _is_of_a_run(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return _KEY in (opened.metadata() or {})
    except Exception:  # it is not safetensors at all
        return False


def _backbone_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = path / "backbone.safetensors"
    if file.is_file():
        return file
    if (path / "config.yaml").is_file():
        how_to = f"go on with: python -m effssl.train --resume {path}"
        raise InputError(f"{path} is not finished; {how_to}")
    raise InputError(f"{path} is not a run: neither {file.name} nor config.yaml in it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

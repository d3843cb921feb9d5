"""Backbones in files: those that a run writes, and timm's own weights on disk."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from effssl import InputError
from effssl.models.backbones import (
    Stem,
    check_is_timm,
    create_backbone,
    sizes_that_work,
    timm_arguments,
    why_not,
)
from effssl.models.image_sizes import published_size
from effssl.ranges import ImageSize
from effssl.run.files import atomic

_KEY = "effssl"  # of the file's metadata, where the spec lies as JSON


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone's file says of it: all that is needed to build it, and to feed it."""

    backbone: str
    """Its name in timm."""
    image_size: ImageSize
    """Size of the images that it was made for, in pixels: a square's side, or (height, width)."""
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
    weights = weights_of(backbone)
    metadata = {_KEY: json.dumps(asdict(spec) | (extra or {}))}
    with atomic(path) as temporary:
        temporary.write_bytes(save(weights, metadata))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights on the CPU, as safetensors wants them.

    Each has memory of its own, also where modules share weights.
    """
    weights: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, weight in module.state_dict().items():
        own = weight.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        weights[name] = own.clone() if memory in taken else own
        taken.add(memory)
    return weights


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

    Position embeddings of timm's weights are resampled to the size, as timm does it.

    Args:
        name: the timm model that the weights are of; any name if the file is of a run.
        file: backbone.safetensors of a run, or weights of that timm model (.safetensors, .pth),
            whose classifier is left out.
        image_size: for timm's weights, the side in pixels that the model is to take; None is the
            size that it was made for.

    Raises:
        InputError: if it is any other file, not the weights of that model, or if model or weights
            do not fit the size.
    """
    given = f"--checkpoint {name}={file}"
    if not file.is_file():
        raise InputError(f"{given}: no such file")
    if _is_of_a_run(file):
        return load_backbone(file)
    check_is_timm(name, given)
    size = image_size or published_size(name)
    model = _for_size(name, size, given)
    try:
        weights = timm.models.load_state_dict(str(file), weights_only=True)
        heads = timm.get_pretrained_cfg_value(name, "classifier") or ()
        dropped = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        kept = {k: v for k, v in weights.items() if not k.startswith(dropped)}
        model.load_state_dict(_fitted(kept, name, model), strict=True)
        of_timm = timm.data.resolve_model_data_config(model)
        mean, std = _rgb(of_timm["mean"]), _rgb(of_timm["std"])
    # Damaged files and weights of other models make torch raise many types.
    except Exception as error:
        if size != (own := published_size(name)) and _loads(name, file, own):
            how_to = f"timm fits them to {own} px alone; leave --checkpoint-size away"
            raise InputError(f"{given}: not for images of {size} px: {how_to}") from None
        message = f"{given}: not weights of that timm model"
        raise InputError(f"{message}: {_one_line(error)[:200]}") from None
    return model, BackboneSpec(name, size, "timm", "{}", mean, std)


def _for_size(name: str, size: int, given: str) -> nn.Module:
    """Build a timm model for a size, in eval mode. Raises InputError if it does not take it."""
    try:
        arguments = timm_arguments(name, size, stem="timm", kwargs="{}")
        model = timm.create_model(name, pretrained=False, num_classes=0, **arguments).eval()
        reason = why_not(model, size)
    except Exception as error:  # timm models raise many types
        reason = _one_line(error)[:200]
    if reason:
        sizes = sizes_that_work(name, size, "timm", "{}")
        raise InputError(f"{given}: {name} does not take images of {size} px{sizes}: {reason}")
    return model


def _fitted(weights: dict[str, Tensor], name: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights as timm fits its own to a model: position embeddings are resampled."""
    module = sys.modules[timm.model_entrypoint(name).__module__]
    fit = getattr(module, "checkpoint_filter_fn", None)
    return weights if fit is None else fit(weights, model)


def _loads(name: str, file: Path, image_size: int) -> bool:
    try:
        load_weights(name, file, image_size)
    except InputError:
        return False
    return True


def _metadata(file: Path) -> tuple[BackboneSpec, dict[str, Any]]:
    """Return what a run's file says of itself: the spec, and what else it was given to say."""
    try:
        with safe_open(file, framework="pt") as opened:
            extra = json.loads((opened.metadata() or {})[_KEY])
        values = {field.name: extra.pop(field.name) for field in fields(BackboneSpec)}
        values |= {"mean": _rgb(values["mean"]), "std": _rgb(values["std"])}
        if isinstance(values["image_size"], list):
            height, width = values["image_size"]
            values["image_size"] = height, width
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

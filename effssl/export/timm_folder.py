"""config.json and weights as timm reads them from a folder, here and on a model hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models import ResNet
from torch import nn

from effssl import InputError
from effssl.export.compare import difference, noise
from effssl.models import BackboneSpec, representation_dim
from effssl.models.backbones import timm_arguments
from effssl.models.stems import first_convolution, shrink_stem
from effssl.models.weight_files import weights_of
from effssl.ranges import height_width

CONFIG = "config.json"
# timm loads a folder's weights by itself with pretrained=True. If a ResNet's stem has to be
# replaced first, they lie deeper: timm then says that there are none, and loads nothing into
# another network (a deep stem's shapes would all fit).
WEIGHTS, WEIGHTS_AFTER_STEM = "model.safetensors", "small_stem/model.safetensors"


def write_timm_folder(
    folder: Path, backbone: nn.Module, spec: BackboneSpec, extra: dict[str, Any]
) -> None:
    """Write config.json and the weights, and check them with plain timm.

    `extra` is what else the run's file says. Raises InputError if timm does not rebuild the
    backbone: with outputs equal to 1e-6.
    """
    save_weights(backbone, folder / weights_name(backbone))
    config = json.dumps(timm_config(backbone, spec, extra), indent=1)
    (folder / CONFIG).write_text(config + "\n")
    _check_with_timm(folder, backbone, spec)


def has_small_stem(backbone: nn.Module) -> bool:
    """Return whether this is a ResNet whose stem no argument of timm gives."""
    return isinstance(backbone, ResNet) and isinstance(backbone.maxpool, nn.Identity)


def weights_name(backbone: nn.Module) -> str:
    """Return where the weights lie below the folder."""
    return WEIGHTS_AFTER_STEM if has_small_stem(backbone) else WEIGHTS


def save_weights(module: nn.Module, file: Path) -> None:
    """Write a module's weights as safetensors; the folder is made if it is missing."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(save(weights_of(module), metadata={"format": "pt"}))


def timm_config(backbone: nn.Module, spec: BackboneSpec, extra: dict[str, Any]) -> dict[str, Any]:
    """Return what timm reads from a config.json, and under `effssl` what the run's file says."""
    size = spec.image_size
    arguments = timm_arguments(
        spec.backbone,
        size,
        stem=spec.stem,
        kwargs=spec.backbone_kwargs,
        channels=spec.channels,
    )
    of_timm: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
    return {
        "architecture": spec.backbone.partition(".")[0],
        "num_classes": 0,
        "num_features": representation_dim(backbone),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [spec.channels, *height_width(size)],
            "fixed_input_size": of_timm.get("fixed_input_size", False),
            "mean": spec.mean,
            "std": spec.std,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": 0,
            "first_conv": of_timm.get("first_conv"),
            "classifier": of_timm.get("classifier"),
        },
        "effssl": asdict(spec) | extra,  # timm does not read it
    }


def _check_with_timm(folder: Path, backbone: nn.Module, spec: BackboneSpec) -> None:
    """Load the folder as its README.md does. Raises InputError if that gives another network."""
    try:
        plain = _load_with_timm(folder, backbone)
        images = noise(2, spec)
        with torch.inference_mode():
            off = difference(plain.eval()(images), backbone(images))
        reason = f"outputs differ by {off:.1e}" if off > 1e-6 else ""
    except Exception as error:  # timm models raise many types for arguments that do not fit
        reason = " ".join(str(error).split())[:200]
    if reason:
        message = f"{spec.backbone} cannot be exported: timm does not rebuild it from a config.json"
        raise InputError(f"{message} ({reason})")


def _load_with_timm(folder: Path, backbone: nn.Module) -> nn.Module:
    if not has_small_stem(backbone):
        return timm.create_model(f"local-dir:{folder}", pretrained=True)
    plain = timm.create_model(f"local-dir:{folder}")
    assert isinstance(plain, ResNet) and isinstance(backbone, ResNet)
    shrink_stem(plain, stride=first_convolution(backbone).stride[0])
    timm.models.load_checkpoint(plain, str(folder / WEIGHTS_AFTER_STEM))
    return plain

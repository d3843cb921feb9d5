"""timm backbones without their classifiers, with stems that fit small images."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import timm
import torch
import yaml
from timm.models import ResNet
from torch import nn

from effssl import InputError

Stem = Literal["auto", "timm", "small", "small-s2"]
_VITS = ("vision_transformer", "deit", "eva")  # timm's modules


def create_backbone(
    name: str, image_size: int, *, stem: Stem = "auto", kwargs: str = "{}"
) -> nn.Module:
    """Create a timm model that takes images [n, 3, image_size, image_size] to h [n, d_h].

    Its weights are new, and it is in training mode.

    Args:
        name: any name in timm.
        image_size: side of the images in pixels.
        stem: "small" replaces a ResNet's first convolution by 3x3 stride 1 (stride 2 for
            "small-s2") and drops its max-pool; a ViT or ConvNeXt gets a smaller patch instead.
            "auto" is "small" up to 64 px if the model has a place for it, else "timm".
        kwargs: further arguments of timm.create_model, as a YAML mapping.

    Raises:
        InputError: for an unknown name, unusable arguments, or a stem that the model has no place
            for.
    """
    check_is_timm(name, f"--backbone {name}")
    chosen = _chosen_stem(stem, image_size)
    arguments_of_stem = _fitting(name, image_size, chosen)
    arguments = arguments_of_stem | _mapping(kwargs)
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        if chosen != "timm" and isinstance(model, ResNet):
            shrink_stem(model, stride=1 if chosen == "small" else 2)
        elif stem in ("small", "small-s2") and "patch_size" not in arguments_of_stem:
            raise InputError(f"--stem {stem}: {name} has no place for it; use timm or auto")
        with torch.no_grad():
            shape = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except InputError:
        raise
    except Exception as error:  # timm models raise many types for arguments that do not fit
        message = f"--backbone {name} cannot be built for images of {image_size} px"
        raise InputError(f"{message}: {_type_and_text(error)}") from None
    if shape != (1, representation_dim(model)):
        raise InputError(f"--backbone {name} gives {list(shape)} for an image, not one vector")
    return model.train()


def check_is_timm(name: str, flag: str) -> None:
    """Raise InputError, which begins with `flag`, if timm has no model of this name."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"{flag}: timm has no such model{hint}")


def timm_arguments(name: str, image_size: int, *, stem: Stem, kwargs: str) -> dict[str, Any]:
    """Return all that create_backbone gives to timm.create_model beside `num_classes=0`.

    A ResNet's small stem is no argument. Raises InputError if `kwargs` is no YAML mapping.
    """
    return _fitting(name, image_size, _chosen_stem(stem, image_size)) | _mapping(kwargs)


def representation_dim(backbone: nn.Module) -> int:
    """Return the width of h; some timm models have a layer behind their last features."""
    width = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return int(width)  # type: ignore[arg-type]


def shrink_stem(model: ResNet, stride: int) -> None:
    """Replace the first convolution by a new one, 3x3 of this stride, and drop the max-pool."""
    first = first_convolution(model)
    small = nn.Conv2d(
        first.in_channels, first.out_channels, 3, stride=stride, padding=1, bias=False
    )
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(model.conv1, nn.Sequential):
        model.conv1[0] = small
    else:
        model.conv1 = small
    model.maxpool = nn.Identity()  # type: ignore[assignment]


def first_convolution(model: ResNet) -> nn.Conv2d:
    """Return the convolution that sees the image: conv1, or the first of it in a deep stem."""
    first = model.conv1[0] if isinstance(model.conv1, nn.Sequential) else model.conv1
    assert isinstance(first, nn.Conv2d)
    return first


def check_takes(backbone: nn.Module, image_size: int, name: str) -> None:
    """Raise InputError, which begins with `name`, if the backbone takes no images of this size."""
    device = next(backbone.parameters()).device
    was_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    except Exception as error:  # timm models raise many types
        message = f"{name} does not take images of {image_size} px: {_type_and_text(error)}"
        raise InputError(message) from None
    finally:
        backbone.train(was_training)


def _chosen_stem(stem: Stem, image_size: int) -> Stem:
    return ("small" if image_size <= 64 else "timm") if stem == "auto" else stem


def _fitting(name: str, image_size: int, stem: Stem) -> dict[str, Any]:
    """Return the arguments that fit a model which cuts the image into patches.

    A ViT is built for the size of image, and a small stem sees about 8x8 patches or more. A
    ConvNeXt's starts at full resolution; its first stage halves it again where the patch is 2.
    """
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    if family in _VITS:
        patch = {"patch_size": max(2, min(16, image_size // 8))} if stem == "small" else {}
        return patch | {"img_size": image_size}
    return {"patch_size": 1} if stem == "small" and family == "convnext" else {}


def _mapping(text: str) -> dict[str, Any]:
    """Parse a YAML mapping. Raises InputError for other text."""
    try:
        arguments = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        arguments = None
    if not isinstance(arguments, dict):
        wanted = 'a YAML mapping such as "{drop_path_rate: 0.1}"'
        raise InputError(f"--backbone-kwargs must be {wanted}, not {text!r}")
    return arguments


def _type_and_text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

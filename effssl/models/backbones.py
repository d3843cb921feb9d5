"""timm backbones without their classifiers, with stems that fit small images."""

from __future__ import annotations

import difflib
import math
import warnings
from typing import Any, Literal

import timm
import torch
import yaml
from timm.models import ResNet
from torch import nn

from effssl import InputError
from effssl.models.image_sizes import (
    is_refused,
    nearest_sizes,
    patch_that_divides,
    published_size,
    takes_argument,
    try_size,
)
from effssl.models.stems import shrink_stem
from effssl.ranges import ImageSize, height_width, size_text

Stem = Literal["auto", "timm", "small", "small-s2"]
# timm's modules of models that cut the image into one grid of patches, of any size
_ONE_GRID = (
    *("beit", "cait", "convit", "deit", "eva", "mlp_mixer"),
    *("vision_transformer", "vision_transformer_relpos"),
)


def create_backbone(
    name: str,
    image_size: ImageSize,
    *,
    stem: Stem = "auto",
    kwargs: str = "{}",
    channels: int = 3,
) -> nn.Module:
    """Create a timm model that takes images [n, channels, height, width] to h [n, d_h].

    Its weights are new, and it is in training mode.

    Args:
        name: any name in timm.
        image_size: of the images, in pixels: the side of squares, or (height, width).
        stem: "small" replaces a ResNet's first convolution by 3x3 stride 1 (stride 2 for
            "small-s2") and drops its max-pool; a ViT or ConvNeXt gets a smaller patch instead.
            "auto" is "small" up to 64 px (of a shape that is no square: up to as many pixels) if
            the model has a place for it, else "timm".
        kwargs: further arguments of timm.create_model, as a YAML mapping.
        channels: of the images.

    Raises:
        InputError: for an unknown name, unusable arguments, a stem that the model has no place for,
            or images that it does not take, or not to their edges; sizes that work are named. One
            row that is not seen is a warning.
    """
    check_is_timm(name, f"--backbone {name}")
    images = f"images of {size_text(image_size)} px"
    try:
        model = _built(name, image_size, stem, kwargs, channels)
        shape, border = try_size(model.eval(), image_size, channels)
    except InputError:
        raise
    except Exception as error:  # timm models raise many types for arguments that do not fit
        is_size = takes_size(name, published_size(name), stem, kwargs)  # that is wrong
        hint = sizes_that_work(name, image_size, stem, kwargs) if is_size else ""
        of_channels = "" if channels == 3 else f" and {channels} channels"
        message = f"--backbone {name} cannot be built for {images}{of_channels}{hint}"
        raise InputError(f"{message}: {_type_and_text(error)}") from None
    if shape != (1, representation_dim(model)):
        raise InputError(f"--backbone {name} gives {list(shape)} for an image, not one vector")
    if is_refused(border, image_size, published_size(name)):
        message = f"{name} would not see {border} px at the edge of {images}"
        sizes = sizes_that_work(name, image_size, stem, kwargs)
        patch = patch_that_divides(image_size, near=16) if _has_patches(name) else None
        hint = f'; so would --backbone-kwargs "{{patch_size: {patch}}}"' if patch else ""
        raise InputError(f"--backbone {message}{sizes}{hint}")
    if border:
        unseen = f"at least {border} px at the edge of {images}"
        warnings.warn(f"{name} leaves {unseen} unseen", stacklevel=2)
    return model.train()


def check_is_timm(name: str, flag: str) -> None:
    """Raise InputError, which begins with `flag`, if timm has no model of this name."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"{flag}: timm has no such model{hint}")


def timm_arguments(
    name: str, image_size: ImageSize, *, stem: Stem, kwargs: str, channels: int = 3
) -> dict[str, Any]:
    """Return all that create_backbone gives to timm.create_model beside `num_classes=0`.

    A ResNet's small stem is no argument. Raises InputError if `kwargs` is no YAML mapping.
    """
    of_images = {} if channels == 3 else {"in_chans": channels}
    fitting = _fitting(name, image_size, _chosen_stem(stem, image_size))
    return of_images | fitting | _mapping(kwargs)


def takes_size(name: str, image_size: ImageSize, stem: Stem, kwargs: str) -> bool:
    """Say whether a model can be built for this size, and sees all of such images.

    Most that cannot are known by shapes alone, without memory or time for weights; an index that is
    out of bounds (MViT v2's, at some sizes) is seen with weights alone. The other arguments are
    those of create_backbone.
    """
    try:
        for device in ("meta", "cpu"):
            with torch.random.fork_rng(devices=[]), torch.device(device):
                model = _built(name, image_size, stem, kwargs).eval()
                _, border = try_size(model, image_size)
            if border:
                return False
    except Exception:  # timm models raise many types
        return False
    return True


def sizes_that_work(name: str, image_size: ImageSize, stem: Stem, kwargs: str) -> str:
    """Return the end of a message: the sizes nearest to one that a model does not take."""
    sizes = nearest_sizes(
        lambda size: takes_size(name, size, stem, kwargs), image_size, published_size(name)
    )
    return _as_hint(sizes)


def representation_dim(backbone: nn.Module) -> int:
    """Return the width of h; some timm models have a layer behind their last features."""
    width = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return int(width)  # type: ignore[arg-type]


def check_takes(backbone: nn.Module, image_size: ImageSize, name: str, channels: int = 3) -> None:
    """Raise InputError, which begins with `name`, if the backbone takes no images of this size.

    Also if it would not see their edges. Sizes near it that work are named.
    """
    was_training = backbone.training
    backbone.eval()
    try:
        if reason := why_not(backbone, image_size, channels):
            published = _published_side(backbone)
            sizes = nearest_sizes(
                lambda size: not why_not(backbone, size, channels), image_size, published
            )
            message = f"{name} does not take images of {size_text(image_size)} px{_as_hint(sizes)}"
            raise InputError(f"{message}: {reason}")
    finally:
        backbone.train(was_training)


def why_not(backbone: nn.Module, image_size: ImageSize, channels: int = 3) -> str:
    """Say why a backbone in eval mode does not take images of this size; empty if it does."""
    try:
        _, border = try_size(backbone, image_size, channels)
    except Exception as error:  # timm models raise many types
        return _type_and_text(error)
    refused = is_refused(border, image_size, _published_side(backbone))
    return f"{border} px at the edge would not be seen" if refused else ""


def _published_side(backbone: nn.Module) -> int:
    return int(timm.data.resolve_model_data_config(backbone)["input_size"][-1])


def _built(
    name: str, image_size: ImageSize, stem: Stem, kwargs: str, channels: int = 3
) -> nn.Module:
    """Build the model, on the device of the context."""
    chosen = _chosen_stem(stem, image_size)
    arguments = timm_arguments(name, image_size, stem=stem, kwargs=kwargs, channels=channels)
    model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    if chosen != "timm" and isinstance(model, ResNet):
        shrink_stem(model, stride=1 if chosen == "small" else 2)
    elif stem in ("small", "small-s2") and "patch_size" not in _fitting(name, image_size, chosen):
        raise InputError(f"--stem {stem}: {name} has no place for it; use timm or auto")
    return model


def _as_hint(sizes: list[ImageSize]) -> str:
    works = "works" if len(sizes) == 1 else "work"
    return f" ({' and '.join(map(size_text, sizes))} px {works})" if sizes else ""


def _family(name: str) -> str:
    """Return the module of timm that the model is in."""
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def _chosen_stem(stem: Stem, image_size: ImageSize) -> Stem:
    return ("small" if _mean_side(image_size) <= 64 else "timm") if stem == "auto" else stem


def _mean_side(image_size: ImageSize) -> float:
    """Return the side of a square of as many pixels."""
    return math.sqrt(math.prod(height_width(image_size)))


def _fitting(name: str, image_size: ImageSize, stem: Stem) -> dict[str, Any]:
    """Return the arguments that fit a model to the size of image.

    A model that is built for one size gets it. Where a small stem means smaller patches, they
    divide the image, into about 8x8. A ConvNeXt's starts at full resolution; its first stage halves
    it again where the patch is 2.
    """
    takes_size = takes_argument(name, "img_size", published_size(name))
    arguments: dict[str, Any] = {"img_size": image_size} if takes_size else {}
    if stem == "small" and _has_patches(name):
        patch = patch_that_divides(image_size, near=min(16, _mean_side(image_size) / 8))
        arguments["patch_size"] = patch or 16
    if stem == "small" and _family(name) == "convnext":
        arguments["patch_size"] = 1
    return arguments


def _has_patches(name: str) -> bool:
    """Say whether a model cuts the image into one grid of patches, whose side is an argument."""
    return _family(name) in _ONE_GRID and takes_argument(name, "patch_size", 16)


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

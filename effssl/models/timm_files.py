"""timm's own weights in files, fitted to a size of images."""

from __future__ import annotations

import sys
from pathlib import Path

import timm
from torch import Tensor, nn

from effssl import InputError
from effssl.models.backbones import check_is_timm, sizes_that_work, timm_arguments, why_not
from effssl.models.image_sizes import published_size
from effssl.models.weight_files import (
    BackboneSpec,
    Colours,
    is_of_a_run,
    load_backbone,
    one_line,
)


def load_weights(
    name: str, file: Path, image_size: int | None = None, *, flag: str = "--checkpoint"
) -> tuple[nn.Module, BackboneSpec]:
    """Load a backbone from weights on disk, strictly, in eval mode on the CPU, and its spec.

    Position embeddings of timm's weights are resampled to the size, as timm does it.

    Args:
        name: the timm model that the weights are of; any name if the file is of a run.
        file: backbone.safetensors of a run, or weights of that timm model (.safetensors, .pth),
            whose classifier is left out.
        image_size: for timm's weights, the side in pixels that the model is to take; None is the
            size that it was made for.
        flag: what gave them, for messages.

    Raises:
        InputError: if it is any other file, not the weights of that model, or if model or weights
            do not fit the size.
    """
    given = f"{flag} {name}={file}"
    if is_of_a_run(file):
        return load_backbone(file)
    weights = of_timm_file(name, file, given)
    size = image_size or published_size(name)
    model = _for_size(name, size, given)
    try:
        model.load_state_dict(as_timm_fits(weights, name, model), strict=True)
    except Exception as error:  # weights of other models make torch raise many types
        if size != (own := published_size(name)) and _loads(name, file, own):
            how_to = f"timm fits them to {own} px alone; leave --checkpoint-size away"
            raise InputError(f"{given}: not for images of {size} px: {how_to}") from None
        raise _not_of_that_model(given, error) from None
    return model, BackboneSpec(name, size, "timm", "{}", *of_timm_model(model))


def of_timm_file(name: str, file: Path, given: str) -> dict[str, Tensor]:
    """Read weights of a timm model from a file, without its classifier's.

    Raises InputError, which begins with `given`, if there is no such file or model, or if the file
    holds no weights.
    """
    if not file.is_file():
        raise InputError(f"{given}: no such file")
    check_is_timm(name, given)
    heads = timm.get_pretrained_cfg_value(name, "classifier") or ()
    dropped = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    try:
        weights = timm.models.load_state_dict(str(file), weights_only=True)
        return {k: v for k, v in weights.items() if not k.startswith(dropped)}
    except Exception as error:  # damaged files make torch raise many types
        raise _not_of_that_model(given, error) from None


def of_timm_model(model: nn.Module) -> tuple[Colours, Colours]:
    """Return the mean and standard deviation, RGB, that timm's weights of a model were made for."""
    of_timm = timm.data.resolve_model_data_config(model)
    return tuple(of_timm["mean"]), tuple(of_timm["std"])


def _not_of_that_model(given: str, error: Exception) -> InputError:
    return InputError(f"{given}: not weights of that timm model: {one_line(error)[:200]}")


def _for_size(name: str, size: int, given: str) -> nn.Module:
    """Build a timm model for a size, in eval mode. Raises InputError if it does not take it."""
    try:
        arguments = timm_arguments(name, size, stem="timm", kwargs="{}")
        model = timm.create_model(name, pretrained=False, num_classes=0, **arguments).eval()
        reason = why_not(model, size)
    except Exception as error:  # timm models raise many types
        reason = one_line(error)[:200]
    if reason:
        sizes = sizes_that_work(name, size, "timm", "{}")
        raise InputError(f"{given}: {name} does not take images of {size} px{sizes}: {reason}")
    return model


def as_timm_fits(weights: dict[str, Tensor], name: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights as timm fits its own to a model.

    Position embeddings, patches and tables of relative positions are resampled.
    """
    module = sys.modules[timm.model_entrypoint(name).__module__]
    fit = getattr(module, "checkpoint_filter_fn", None)
    return weights if fit is None else fit(weights, model)


def _loads(name: str, file: Path, image_size: int) -> bool:
    try:
        load_weights(name, file, image_size)
    except InputError:
        return False
    return True

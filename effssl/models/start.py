"""Weights that training starts from: timm's, those of a file or of a run, fitted to the encoder."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from timm.layers import resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from effssl import InputError
from effssl.models.encoder import Encoder
from effssl.models.timm_files import as_timm_fits, of_timm_file, of_timm_model
from effssl.models.weight_files import (
    Colours,
    backbone_file,
    is_of_a_run,
    one_line,
    projector_of,
    read_run_file,
)
from effssl.ranges import is_named_file

_NAMED = 3  # at most so many weights that do not fit are named


class Found(NamedTuple):
    """Weights to start from, as they lie in their file."""

    name: str  # the timm model that they are of
    backbone: dict[str, Tensor]
    projector: dict[str, Tensor]  # empty if there is none
    mean: Colours  # what their images were normalised with
    std: Colours


def start_from(
    init: str, encoder: Encoder, backbone: str, mean: Colours, std: Colours
) -> list[str]:
    """Put the weights of `--init` into an encoder, and return what is to be said of it, in lines.

    Patches, position embeddings and tables of relative positions are fitted to the encoder as timm
    does it. A first convolution of another size, as small stems have, is resampled as timm does it
    with patches: to the one whose results on resized patches are nearest to those before, in least
    squares (arXiv 2212.08013); one of RGB is fitted to other channels as timm does it. All other
    weights have to fit. A projector is taken over if it has the shape of the encoder's, else that
    stays as it is.

    Args:
        init: timm, NAME=FILE, or a run's folder.
        encoder: on the CPU.
        backbone: name of its backbone in timm.
        mean: what images are normalised with, a number a channel.
        std: likewise.

    Raises:
        InputError: if there are no such weights, or they do not fit.
    """
    what = f"--init {init}"
    found = _find(init, backbone)
    lines = [_load(found, encoder.backbone, what, backbone), _load_projector(found, encoder)]
    theirs, ours = (torch.tensor(of).flatten() for of in ((found.mean, found.std), (mean, std)))
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours):
        by = f"--mean {_numbers(found.mean)} --std {_numbers(found.std)}"
        lines.append(
            f"their images were normalised by {by}, these are by --mean {_numbers(mean)} --std "
            f"{_numbers(std)}"
        )
    return lines


def _find(init: str, backbone: str) -> Found:
    if init == "timm":
        return _of_timm(backbone)
    if not is_named_file(init):
        return _of_run(Path(init))
    name, _, file = init.partition("=")
    if is_of_a_run(Path(file)):
        return _of_run(Path(file))
    weights = of_timm_file(name, Path(file), f"--init {init}")
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    return Found(name, weights, {}, *of_timm_model(model))


def _of_timm(name: str) -> Found:
    """Load timm's own weights, which are downloaded unless they were before."""
    if not timm.is_model_pretrained(name):
        close = difflib.get_close_matches(name, timm.list_pretrained(), n=3, cutoff=0.5)
        hint = f"; it has those of {', '.join(close)}" if close else ""
        raise InputError(f"--init timm: timm has no pretrained weights of {name}{hint}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the network and the hub raise many types
        hub = timm.get_pretrained_cfg_value(name, "hf_hub_id")
        source = f"model.safetensors of {hub} on the Hugging Face hub" if hub else "its file"
        raise InputError(
            f"--init timm: the weights of {name} could not be downloaded; get {source} on a "
            f"machine with a network, and give --init {name}=FILE: {one_line(error)[:200]}"
        ) from None
    return Found(name, model.state_dict(), {}, *of_timm_model(model))


def _of_run(path: Path) -> Found:
    """Read a run's backbone, and the projector of its checkpoint if `path` is its folder."""
    weights, spec = read_run_file(backbone_file(path))
    projector = projector_of(path, weights) if (path / "checkpoint.pt").is_file() else {}
    return Found(spec.backbone, weights, projector, spec.mean, spec.std)


def _load(found: Found, backbone: nn.Module, what: str, name: str) -> str:
    """Load the backbone's weights strictly; returns what was changed to fit.

    Raises InputError if they are others.
    """
    own = backbone.state_dict()
    try:
        weights = dict(as_timm_fits(found.backbone, found.name, backbone))
    except Exception as error:  # of weights of another shape timm raises many types
        raise InputError(f"{what}: not for --backbone {name}: {one_line(error)[:200]}") from None
    for convolution in _first_convolutions(backbone):
        key = f"{convolution}.weight"
        if key in weights and key in own and _differ_in_channels(weights[key], own[key]):
            weights[key] = adapt_input_conv(own[key].shape[1], weights[key])
        if key in weights and key in own and _differ_in_size(weights[key], own[key]):
            weights[key] = resample_patch_embed(weights[key], list(own[key].shape[2:]))
    # Old files lack these counts, which nothing reads.
    counts = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    weights = counts | weights
    if wrong := _misfits(weights, own):
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise InputError(
            f"{what}: weights of {found.name} do not fit --backbone {name} with its stem and "
            f"arguments: {', '.join(wrong[:_NAMED])}{more}"
        )
    backbone.load_state_dict(weights, strict=True)
    fitted = [
        f"{k} {_shape(found.backbone[k])} -> {_shape(v)}"
        for k, v in weights.items()
        if k in found.backbone and found.backbone[k].shape != v.shape
    ]
    return f"{what}: the backbone's weights, {'fitted: ' + ', '.join(fitted) if fitted else 'all'}"


def _load_projector(found: Found, encoder: Encoder) -> str:
    """Take over a projector that has the encoder's shape; returns what was done."""
    own = encoder.projector.state_dict()
    if not found.projector:
        return "the projector is new"
    if wrong := _misfits(found.projector, own):
        return f"the projector is new; the run's does not fit: {wrong[0]}"
    encoder.projector.load_state_dict(found.projector, strict=True)
    return "the projector is the run's"


def _misfits(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Say what is wrong with weights for a module that has `own`; empty if they fit."""
    lacking = [f"{k} is missing" for k in own if k not in weights]
    unknown = [f"{k} has no place" for k in weights if k not in own]
    shapes = [
        f"{k} is {_shape(weights[k])}, not {_shape(v)}"
        for k, v in own.items()
        if k in weights and weights[k].shape != v.shape
    ]
    return [*shapes, *lacking, *unknown]


def _first_convolutions(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that see the image, as timm has them."""
    first = (getattr(backbone, "pretrained_cfg", None) or {}).get("first_conv") or ()
    return (first,) if isinstance(first, str) else tuple(first)


def _differ_in_size(weight: Tensor, own: Tensor) -> bool:
    """Say whether two kernels [out, in, h, w] differ, and in height and width alone."""
    is_kernel = weight.ndim == own.ndim == 4
    return is_kernel and weight.shape[:2] == own.shape[:2] and weight.shape != own.shape


def _differ_in_channels(weight: Tensor, own: Tensor) -> bool:
    """Say whether kernels are of RGB and of other channels, to which timm fits them."""
    are_kernels = weight.ndim == own.ndim == 4
    return are_kernels and weight.shape[1] == 3 != own.shape[1]


def _shape(weight: Tensor) -> str:
    return "x".join(map(str, weight.shape)) or "a number"


def _numbers(values: Colours) -> str:
    return " ".join(f"{value:g}" for value in values)

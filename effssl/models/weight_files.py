"""Backbones in files that runs write; timm_files.py has timm's own weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from effssl import InputError
from effssl.models.backbones import Stem, create_backbone
from effssl.ranges import ImageSize
from effssl.run import checkpoint
from effssl.run.files import atomic

Colours = tuple[float, ...]  # one number a channel, of values in [0, 1]
# In a run's folder: the backbone of --init, as training began with it, and that of --ema
START, AVERAGED = "start.safetensors", "backbone-averaged.safetensors"
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
    mean: Colours
    """Mean that images are normalised with, RGB in [0, 1]; of others as many as channels."""
    std: Colours
    """Standard deviation that images are normalised with."""
    kept_channels: int | None = None
    """What --channels was in training; None for RGB of 8 bits, and in files that do not say it."""
    gray_range: tuple[float, float] | None = None
    """What --gray-range was in training, the values that were black and white in images of more
    than 8 bits; None for 0 and 65535 in 16 bits, and 0 and 1 in floats."""

    @property
    def channels(self) -> int:
        """The channels of the images."""
        return len(self.mean)

    @property
    def keeps_values(self) -> bool:
        """Images keep their values, as with --channels; else they are RGB of 8 bits."""
        return self.kept_channels is not None or self.channels != 3


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
    file = backbone_file(Path(path))
    weights, spec = read_run_file(file)
    model = create_backbone(
        spec.backbone,
        spec.image_size,
        stem=spec.stem,
        kwargs=spec.backbone_kwargs,
        channels=spec.channels,
    )
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise _not_what_it_says(file, error) from None
    return model.eval(), spec


def check_channels(spec: BackboneSpec, channels: int, what: str) -> None:
    """Raise InputError, which begins with `what`, if a backbone takes images of other channels."""
    if spec.channels != channels:
        raise InputError(f"{what}: takes images of {spec.channels} channels, not {channels}")


def read_run_file(file: Path) -> tuple[dict[str, Tensor], BackboneSpec]:
    """Read the weights of a run's backbone, and their spec. Raises InputError for other files."""
    spec, _ = _metadata(file)
    try:
        return load_file(file), spec
    except (SafetensorError, RuntimeError) as error:
        raise _not_what_it_says(file, error) from None


def projector_of(run: Path, backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights of the projector from the checkpoint beside a run's backbone.

    Args:
        run: the run's folder, or the backbone.safetensors in it.
        backbone: the backbone's weights.

    Raises:
        InputError: if there is no checkpoint, or if its backbone is not this one, as in a run that
            has ended and goes on with more epochs.
    """
    folder = run if run.is_dir() else run.parent
    state = checkpoint.load(folder / "checkpoint.pt")["model"]
    there = _below("backbone.", state)
    if backbone.keys() != there.keys() or any(
        not torch.equal(weight, there[name]) for name, weight in backbone.items()
    ):
        files = "checkpoint.pt and backbone.safetensors"
        raise InputError(f"{run}: {files} are of different weights; let the run finish")
    return _below("projector.", state)


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _not_what_it_says(file: Path, error: Exception) -> InputError:
    return InputError(f"{file} does not hold what it says it holds: {one_line(error)[:200]}")


def read_extra(file: Path) -> dict[str, Any]:
    """Return the `extra` that `save_backbone` wrote into a file; empty if it wrote none.

    Raises InputError if the file is not a backbone of a run.
    """
    return _metadata(file)[1]


def _metadata(file: Path) -> tuple[BackboneSpec, dict[str, Any]]:
    """Return what a run's file says of itself: the spec, and what else it was given to say."""
    try:
        with safe_open(file, framework="pt") as opened:
            extra = json.loads((opened.metadata() or {})[_KEY])
        names = [field.name for field in fields(BackboneSpec)]
        values = {name: extra.pop(name) for name in names if name in extra}
        of_numbers = [name for name in ("mean", "std", "gray_range") if values.get(name)]
        values |= {name: tuple(map(float, values[name])) for name in of_numbers}
        if isinstance(values["image_size"], list):
            height, width = values["image_size"]
            values["image_size"] = height, width
        return BackboneSpec(**values), extra
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except Exception as error:  # safetensors raises its own type for damaged files
        raise InputError(f"{file} is not a backbone of a run: {one_line(error)}") from None


def is_of_a_run(file: Path) -> bool:
    """Say whether a file is a backbone that a run wrote."""
    try:
        with safe_open(file, framework="pt") as opened:
            return _KEY in (opened.metadata() or {})
    except Exception:  # it is not safetensors at all
        return False


def backbone_file(path: Path) -> Path:
    """Return the file of a run's backbone, by itself or by the run's folder.

    Raises InputError for a folder of anything else, and for that of a run that is not finished: one
    that goes on with more epochs still has the backbone of its earlier end, given by that file's
    own path alone.
    """
    if not path.is_dir():
        return path
    file, settings = path / "backbone.safetensors", path / "config.yaml"
    if not file.is_file() and not settings.is_file():
        raise InputError(f"{path} is not a run: neither {file.name} nor {settings.name} in it")
    if file.is_file() and ((path / "result.json").is_file() or not settings.is_file()):
        return file
    earlier = f", or name {file}, which may be of an earlier end" if file.is_file() else ""
    how_to = f"go on with: python -m effssl.train --resume {path}"
    raise InputError(f"{path} is not finished; {how_to}{earlier}")


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split())

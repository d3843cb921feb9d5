"""timm backbones, with stems that fit small images, and the projector."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models import ResNet
from torch import Tensor, nn

from effssl import InputError

_VITS = ("vision_transformer", "deit", "eva")
Stem = Literal["auto", "timm", "small", "small-s2"]
Norm = Literal["batch", "layer", "none"]


def create_backbone(name: str, image_size: int, *, stem: Stem = "auto", kwargs: str = "{}") -> nn.Module:
    """A timm model without its classifier: images [n, 3, image_size, image_size] -> representation [n, d_h].

    name: any timm name. kwargs: further arguments of timm.create_model as a YAML mapping.
    stem: "small" replaces a ResNet's first convolution by 3x3 stride 1 (stride 2 for "small-s2") and drops its
    max-pool; a ViT or ConvNeXt gets a smaller patch instead. "auto" is "small" up to 64 px where the model has a place
    for it, else "timm".
    Raises InputError for an unknown name, unusable arguments, or a stem that the model has no place for.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"--backbone {name}: timm has no such model{hint}")
    wanted = _wanted(stem, image_size)
    arguments = timm_arguments(name, image_size, stem=stem, kwargs=kwargs)
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        if wanted != "timm" and isinstance(model, ResNet):
            shrink_stem(model, stride=1 if wanted == "small" else 2)
        elif wanted != "timm" and stem != "auto" and "patch_size" not in _fitting(name, image_size, wanted):
            raise InputError(f"--stem {stem}: {name} has no place for it; use timm or auto")
        with torch.no_grad():
            shape = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except InputError:
        raise
    except Exception as error:  # timm models raise many types for arguments and sizes that do not fit
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"--backbone {name} cannot be built for images of {image_size} px: {reason}") from None
    if shape != (1, representation_dim(model)):
        raise InputError(f"--backbone {name} gives {list(shape)} for an image, not one vector")
    return model.train()


def timm_arguments(name: str, image_size: int, *, stem: Stem, kwargs: str) -> dict[str, Any]:
    """All that create_backbone gives to timm.create_model beside `num_classes=0`; a ResNet's small stem is no argument.
    Raises InputError for `kwargs` that are no YAML mapping."""
    return _fitting(name, image_size, _wanted(stem, image_size)) | _mapping(kwargs)


def representation_dim(backbone: nn.Module) -> int:
    """Width of h; some timm models (MobileNetV3) have a further layer behind their last features."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def _mapping(text: str) -> dict[str, Any]:
    try:
        arguments = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InputError(f'--backbone-kwargs must be a YAML mapping such as "{{drop_path_rate: 0.1}}", not {text!r}')
    return arguments


def _wanted(stem: Stem, image_size: int) -> Stem:
    return ("small" if image_size <= 64 else "timm") if stem == "auto" else stem


def _fitting(name: str, image_size: int, wanted: Stem) -> dict[str, Any]:
    """Arguments for models that cut the image into patches: a ViT is built for the size of image, and a small stem sees
    about 8x8 patches or more; a ConvNeXt's starts at full resolution (its first stage halves it again where the patch
    is 2)."""
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    if family in _VITS:
        patch = {"patch_size": max(2, min(16, image_size // 8))} if wanted == "small" else {}
        return patch | {"img_size": image_size}
    return {"patch_size": 1} if wanted == "small" and family == "convnext" else {}


def shrink_stem(model: ResNet, stride: int) -> None:
    """Replace the first convolution by a new one, 3x3 of this stride, and drop the max-pool."""
    first = first_convolution(model)
    small = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(model.conv1, nn.Sequential):
        model.conv1[0] = small
    else:
        model.conv1 = small
    model.maxpool = nn.Identity()  # type: ignore[assignment]


def first_convolution(model: ResNet) -> nn.Conv2d:
    """The convolution that sees the image: conv1, or the first of it in a deep stem."""
    first = model.conv1[0] if isinstance(model.conv1, nn.Sequential) else model.conv1
    assert isinstance(first, nn.Conv2d)
    return first


class Projector(nn.Sequential):
    """MLP from representation to embedding: (Linear, norm, ReLU) x (layers - 1), Linear; [n, in_dim] -> [n, dim].

    With norm "batch", 2 layers and hidden_dim = dim it is the projector of arXiv 2312.10725, with 3 layers of 8192 that
    of the official VICReg and Barlow Twins.
    """

    def __init__(self, in_dim: int, hidden_dim: int, dim: int, layers: int, norm: Norm = "batch"):
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
        steps: list[nn.Module] = []
        width = in_dim
        for _ in range(layers - 1):
            steps += [nn.Linear(width, hidden_dim, bias=norm == "none"), norms[norm](hidden_dim), nn.ReLU(inplace=True)]
            width = hidden_dim
        super().__init__(*steps, nn.Linear(width, dim, bias=False))


class Encoder(nn.Module):
    """Backbone and projector: images [n, 3, h, w] -> (representation [n, representation_dim], embedding [n, dim])."""

    def __init__(self, backbone: nn.Module, hidden_dim: int, dim: int, layers: int, norm: Norm = "batch"):
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(representation_dim(backbone), hidden_dim, dim, layers, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.backbone(x)
        return h, self.projector(h)


def save_backbone(backbone: nn.Module, path: Path, description: dict[str, Any]) -> None:
    """Write the weights; `description` holds what load_backbone needs: backbone, image_size, stem, backbone_kwargs,
    mean, std."""
    weights = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    save_file(weights, temporary, metadata={"effssl": json.dumps(description)})
    temporary.replace(path)


def load_backbone(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a run's folder, or its backbone.safetensors: the timm model in eval mode with its weights, strictly, and a
    description (backbone, image_size, stem, backbone_kwargs, mean, std). Raises InputError for anything else."""
    path = _backbone_file(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["effssl"])
        weights = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # safetensors raises its own type for damaged files
        raise InputError(f"{path} is not a backbone of a run: {' '.join(str(error).split())}") from None
    try:
        model = create_backbone(
            description["backbone"],
            description["image_size"],
            stem=description["stem"],
            kwargs=description["backbone_kwargs"],
        )
        model.load_state_dict(weights, strict=True)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} does not hold what it says it holds: {' '.join(str(error).split())[:200]}") from None
    return model.eval(), description


def load_weights(name: str, file: Path, image_size: int | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """A backbone from weights on disk, strictly, and a description (image_size, mean, std).

    file: backbone.safetensors of a run, or weights of the timm model `name` (.safetensors, .pth), whose classifier is
    left out. image_size: for the latter, None is the size that it was made for. Raises InputError for any other file.
    """
    if not file.is_file():
        raise InputError(f"--checkpoint {name}={file}: no such file")
    if _is_of_a_run(file):
        return load_backbone(file)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(f"--checkpoint {name}={file}: timm has no such model; did you mean {', '.join(close)}?")
    try:
        weights = timm.models.load_state_dict(str(file), weights_only=True)
        family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        sized: dict[str, Any] = {"img_size": image_size} if image_size and family in _VITS else {}
        model = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        heads = timm.get_pretrained_cfg_value(name, "classifier") or ()
        dropped = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(dropped)}, strict=True)
        about = timm.data.resolve_model_data_config(model)
    except Exception as error:  # damaged files and weights of other models make torch raise many types
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--checkpoint {name}={file}: not weights of that timm model: {reason}") from None
    size = image_size or about["input_size"][-1]
    return model.eval(), {"image_size": size, "mean": tuple(about["mean"]), "std": tuple(about["std"])}


def check_takes(backbone: nn.Module, image_size: int, name: str) -> None:
    """Raises InputError where a backbone does not take images of this size."""
    where = next(backbone.parameters()).device
    training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, image_size, image_size, device=where))
    except Exception as error:  # timm models raise many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{name} does not take images of {image_size} px: {reason}") from None
    finally:
        backbone.train(training)


def _is_of_a_run(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return "effssl" in (opened.metadata() or {})
    except Exception:  # not safetensors at all
        return False


def _backbone_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = path / "backbone.safetensors"
    if file.is_file():
        return file
    if (path / "config.yaml").is_file():
        raise InputError(f"{path} is not finished; go on with: python -m effssl.train --resume {path}")
    raise InputError(f"{path} is not a run: neither {file.name} nor config.yaml in it")

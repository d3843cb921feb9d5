"""The README.md of an export: the lines that load it, without effssl."""

from __future__ import annotations

from timm.models import ResNet
from torch import nn

from effssl.export.projector_file import PROJECTOR
from effssl.export.timm_folder import WEIGHTS_AFTER_STEM, has_small_stem
from effssl.models import BackboneSpec, Projector, representation_dim
from effssl.models.stems import first_convolution
from effssl.ranges import height_width


def readme(backbone: nn.Module, spec: BackboneSpec, projector: Projector | None) -> str:
    """Return the text; `projector` is None if its weights are not exported."""
    dim, (height, width) = representation_dim(backbone), height_width(spec.image_size)
    central = (
        f"makes the central square {height} px large"
        if height == width
        else f"makes the largest central part of this shape {height} px high and {width} px wide"
    )
    lines = [
        f"# {spec.backbone} trained without labels, by effssl",
        "",
        f"Images [n, {spec.channels}, {height}, {width}] -> representations [n, {dim}]. "
        "In this folder, with timm >= 1.0.16:",
        "",
        "```python",
        *_lines_that_load(backbone),
        *_lines_that_encode(spec),
        "```",
        "",
        _about_values(spec)
        if spec.keeps_values
        else f"The transform {central} and normalises it with mean "
        f"{list(spec.mean)} and std {list(spec.std)} (RGB in [0, 1]).{_about_gray(spec)}",
    ]
    if has_small_stem(backbone):
        lines += [
            "",
            "No argument of timm gives this stem (3x3, no max-pool): it is replaced before the "
            "weights are loaded, and",
            "`pretrained=True` finds none.",
        ]
    if projector is not None:
        lines += [
            "",
            "The projector, representations -> embeddings:",
            "",
            "```python",
            "import safetensors.torch",
            "import torch",
            "",
            "projector = torch.nn.Sequential(",
            *(f"    torch.nn.{_code_of(layer)}," for layer in projector),
            ").eval()",
            f'projector.load_state_dict(safetensors.torch.load_file("{PROJECTOR}"))',
            "```",
        ]
    return "\n".join(lines) + "\n"


def _about_values(spec: BackboneSpec) -> str:
    others = "0 and 65535 in those of 16 bits, and 0 and 1 in floats"
    if spec.gray_range is not None:
        low, high = spec.gray_range
        others = f"{low:.9g} and {high:.9g} in all others"
    return (
        f"Values are mapped to [0, 1] first, from what was black and white in training: 0 and 255 "
        f"in images of 8 bits, {others}. What lies beyond is clipped, and NaN is black."
    )


def _about_gray(spec: BackboneSpec) -> str:
    if spec.gray_range is None:
        return ""
    low, high = spec.gray_range
    return (
        f" Gray of more than 8 bits became RGB first, with {low:.9g} as black and {high:.9g} as "
        "white."
    )


def _lines_that_encode(spec: BackboneSpec) -> list[str]:
    if not spec.keeps_values:
        return [
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            "# h = model(torch.stack([transform(image) for image in images]))   "
            "# of Pillow's RGB images",
        ]
    return [
        f"mean, std = torch.tensor([{list(spec.mean)},",
        f"                          {list(spec.std)}]).view(2, 1, -1, 1, 1)",
        "# h = model((images - mean) / std)   # of floats in [0, 1]",
    ]


def _lines_that_load(backbone: nn.Module) -> list[str]:
    imports = ["import timm", "import torch", ""]
    if not has_small_stem(backbone):
        return [*imports, 'model = timm.create_model("local-dir:.", pretrained=True).eval()']
    assert isinstance(backbone, ResNet)
    first = first_convolution(backbone)
    place = "conv1[0]" if isinstance(backbone.conv1, nn.Sequential) else "conv1"
    channels = f"{first.in_channels}, {first.out_channels}"
    return [
        *imports,
        'model = timm.create_model("local-dir:.").eval()',
        f"model.{place} = torch.nn.Conv2d({channels}, 3, stride={first.stride[0]}, "
        "padding=1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
        f'timm.models.load_checkpoint(model, "{WEIGHTS_AFTER_STEM}")',
    ]


def _code_of(layer: nn.Module) -> str:
    match layer:
        case nn.Linear():
            bias = layer.bias is not None
            return f"Linear({layer.in_features}, {layer.out_features}, bias={bias})"
        case nn.BatchNorm1d():
            return f"BatchNorm1d({layer.num_features})"
        case nn.LayerNorm():
            return f"LayerNorm({layer.normalized_shape[0]})"
        case _:
            return f"{type(layer).__name__}()"

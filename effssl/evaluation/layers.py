"""What the layers of a timm backbone give, for comparing backbones layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from effssl import InputError


def layer_names(backbone: nn.Module) -> tuple[str, ...]:
    """Names of the layers that timm describes, first to last: act1 and layer1 to layer4 of a ResNet, every block of a
    ViT, the stages of a ConvNeXt. Raises InputError for a model that timm describes none of."""
    described = getattr(backbone, "feature_info", None)
    if not described or not hasattr(backbone, "forward_intermediates"):
        raise InputError(f"{type(backbone).__name__}: timm does not give the layers of this model")
    return tuple(layer["module"] for layer in described)


def layer_features(
    backbone: nn.Module,
    batches: Iterable[Tensor],
    names: Sequence[str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Outputs of the layers `names` (all of layer_names), averaged over space: name -> float32 [n, channels], on the
    device of the batches. One pass in eval mode; at no time more than one batch of feature maps is held.

    batches: normalised clean views [b, 3, h, w]. dtype: bfloat16 for autocast. Of a ViT it is the patches' tokens that
    are averaged, before its last norm: class and register tokens are left out. Raises InputError for an unknown name.
    """
    known = layer_names(backbone)
    chosen = known if names is None else tuple(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise InputError(f"no layer {', '.join(unknown)}; there are {', '.join(known)}")
    indices = sorted(known.index(name) for name in set(chosen))  # timm gives them in the order of the model
    parts: dict[str, list[Tensor]] = {known[i]: [] for i in indices}
    with evaluating(backbone):
        for x in batches:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                maps = backbone.forward_intermediates(  # type: ignore[operator]
                    x.to(memory_format=torch.channels_last), indices=indices, stop_early=True, intermediates_only=True
                )
            for part, feature_map in zip(parts.values(), maps, strict=True):
                part.append(feature_map.float().mean((2, 3)))  # [b, channels, h, w]
    return {name: torch.cat(parts[name]) for name in chosen}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards every part is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training

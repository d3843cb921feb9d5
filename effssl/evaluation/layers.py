"""What the layers of a timm backbone give, for comparing backbones layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from effssl import InputError
from effssl.run.device import Runtime


def layer_names(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that timm describes, first to last.

    They are act1 and layer1 to layer4 of a ResNet, every block of a ViT, the stages of a ConvNeXt.
    Raises InputError for a model of which timm describes no layer.
    """
    described = getattr(backbone, "feature_info", None)
    if not described or not hasattr(backbone, "forward_intermediates"):
        raise InputError(f"{type(backbone).__name__}: timm does not give the layers of this model")
    return tuple(layer["module"] for layer in described)


def layer_features(
    backbone: nn.Module, batches: Iterable[Tensor], runtime: Runtime
) -> dict[str, Tensor]:
    """Return the outputs of all layers, averaged over space, by name: float32 [n, channels].

    They stay on the batches' device. There is one pass, in eval mode, which holds no more than one
    batch of feature maps at a time. Of a ViT, whose layers are looked at before its last norm, the
    patches' tokens are averaged; class and register tokens are left out.

    Args:
        backbone: a timm model, on the batches' device.
        batches: normalised clean views, each [b, 3, h, w].
        runtime: says in what precision.

    Raises:
        InputError: for a model of which timm describes no layer.
    """
    names = layer_names(backbone)
    pooled: dict[str, list[Tensor]] = {name: [] for name in names}
    with evaluating(backbone):
        for x in batches:
            with runtime.autocast():
                maps = backbone.forward_intermediates(  # type: ignore[operator]
                    x.to(memory_format=torch.channels_last),
                    indices=list(range(len(names))),
                    stop_early=True,
                    intermediates_only=True,
                )
            for name, feature_map in zip(names, maps, strict=True):
                pooled[name].append(feature_map.float().mean((2, 3)))  # [b, channels, h, w]
    return {name: torch.cat(of_batches) for name, of_batches in pooled.items()}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Keep a module in eval mode and without gradients within the block.

    Afterwards each of its parts is in the mode that it was in.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training

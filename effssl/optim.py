"""Parameter groups, optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import fnmatch
import math
from itertools import compress
from typing import Any

import timm.models
import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from effssl import InputError
from effssl.muon import build_muon
from effssl.ranges import Decay, OptimizerName

_FUSED = ("cuda", "cpu")  # kinds of devices where one pass over all parameters is a step
_LR_SCALE = "lr_scale"  # of a group, where it has a rate of its own: that rate by the others'


def build_optimizer(
    model: nn.Module,
    name: OptimizerName,
    *,
    lr: float,
    weight_decay: float,
    lr_bias: float | None = None,
    layer_decay: float = 1.0,
    in_a_graph: bool = False,
) -> torch.optim.Optimizer:
    """Build AdamW, Adam, Muon, or LARS or SGD with momentum 0.9, on the trainable parameters.

    Biases and normalisation (parameters of one dimension), and what timm's models name in
    `no_weight_decay` (class tokens, position embeddings), get no weight decay, and with LARS no
    adaptation and with Muon AdamW. Adam is that of arXiv 2312.10725: its weight decay is an L2 term
    in the gradient, of all parameters alike. AdamW, Adam and SGD are fused on CUDA and on CPUs.

    Args:
        model: what is trained.
        name: which optimizer.
        lr: learning rate.
        weight_decay: weight decay of all other parameters.
        lr_bias: learning rate of the parameters without weight decay; None is `lr`.
        layer_decay: learning rate of each layer of the backbone, as timm divides it, as a part of
            that of the layer above (arXiv 2106.08254); the highest, and what is above, have `lr`.
        in_a_graph: whether Muon's steps are replayed from a CUDA graph.

    Raises:
        InputError: if layer_decay is not 1 and timm does not say what the layers are.
    """
    spared = _without_decay(model)
    parts = {} if layer_decay == 1 else _rates_by_layer(model, layer_decay)
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = _groups([(n, p) for n, p in parameters if n not in spared], lr, parts)
    part = 1.0 if lr_bias is None else lr_bias / lr
    others = _groups([(n, p) for n, p in parameters if n in spared], lr, parts, part)
    for group in decayed:
        group["weight_decay"] = weight_decay
    for group in others:
        group["weight_decay"] = weight_decay if name == "adam" else 0.0
    groups = decayed + others
    fused = parameters[0][1].device.type in _FUSED
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=fused)
        case "muon":
            for group in others:
                group["use_fallback"] = True
            return build_muon(groups, lr, in_a_graph=in_a_graph)
        case "lars":
            for group in decayed:
                group["always_adapt"] = True  # without weight decay too, where timm would not
            return Lars(groups, lr=lr, momentum=0.9)


def weight_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a model's weights and buffers.

    Its first `update_parameters` copies the model. The one after step t, from 0, moves it toward
    the model by 1 - d with d = min(decay, (1 + t) / (10 + t)), so that what the weights began with
    is soon forgotten. Counts of batches are those of the model.
    """
    return _WeightAverage(model, decay)


class _WeightAverage(AveragedModel):
    """torch's, but for its update, which moves its count of steps to the device and reads it there,
    so that a GPU would be waited for in every step."""

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average toward the model."""
        averages, values = _tensors(self.module), _tensors(model)
        step = int(self.n_averaged)  # which is on the CPU
        is_moved = [step > 0 and each.is_floating_point() for each in averages]
        is_copied = [not each for each in is_moved]
        if any(is_moved):
            part = 1 - min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                [*compress(averages, is_moved)], [*compress(values, is_moved)], part
            )
        if any(is_copied):
            torch._foreach_copy_([*compress(averages, is_copied)], [*compress(values, is_copied)])
        self.n_averaged += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _groups(
    parameters: list[tuple[str, nn.Parameter]],
    lr: float,
    parts: dict[str, float],
    part: float = 1.0,
) -> list[dict[str, Any]]:
    """Group parameters by their learning rate, a part of `lr`: `part` times that of their layer."""
    by_rate: dict[float, list[nn.Parameter]] = {part: []} if not parts else {}
    for name, parameter in parameters:
        by_rate.setdefault(part * parts.get(name, 1.0), []).append(parameter)
    return [
        {"params": members} | ({} if rate == 1 else {"lr": rate * lr, _LR_SCALE: rate})
        for rate, members in by_rate.items()
    ]


def _rates_by_layer(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return the learning rate of each of the backbone's parameters, as a part of the highest."""
    backbones = [(n, m) for n, m in model.named_modules() if hasattr(m, "group_matcher")]
    if not backbones:
        raise InputError("--layer-decay: timm does not say what the layers of this backbone are")
    prefix, backbone = backbones[0]
    matcher = backbone.group_matcher(coarse=False)  # type: ignore[operator]
    layers = timm.models.group_parameters(backbone, matcher, reverse=True)
    return {
        f"{prefix}.{name}" if prefix else name: layer_decay ** (max(layers.values()) - layer)
        for name, layer in layers.items()
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group this learning rate, times its own factor if it was built with one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(_LR_SCALE, 1.0)


def learning_rate(
    step: int,
    *,
    peak: float,
    final: float,
    warmup_steps: int,
    total_steps: int,
    decay: Decay = "cosine",
) -> float:
    """Return the learning rate of a step.

    It rises linearly from 0 to `peak`, which the last step of the warm-up has, then falls by half a
    cosine, or linearly, to `peak * final` after the last of `total_steps`.

    Args:
        step: number of the step, from 0.
        peak: highest learning rate.
        final: learning rate at the end, as a part of the peak.
        warmup_steps: steps of the warm-up.
        total_steps: steps of the schedule, warm-up included.
        decay: how it falls.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = 1 - progress if decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final + (1 - final) * left)


def _without_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that get no weight decay.

    timm's models name theirs, from themselves on, by shell patterns; parts of them may name more.
    """
    patterns = [
        f"{prefix}.{name}" if prefix else name
        for prefix, part in model.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in part.no_weight_decay()  # type: ignore[operator]
    ]
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or any(fnmatch.fnmatchcase(name, p) for p in patterns)
    }

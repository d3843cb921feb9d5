"""Parameter groups, optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import Lars
from torch import nn

from effssl.ranges import OptimizerName


def build_optimizer(
    model: nn.Module,
    name: OptimizerName,
    *,
    lr: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Build AdamW, Adam, or LARS or SGD with momentum 0.9, on the model's trainable parameters.

    Biases and normalisation (parameters of one dimension) get no weight decay, and with LARS no
    adaptation. Adam is that of arXiv 2312.10725: its weight decay is an L2 term in the gradient, of
    all parameters alike. All but LARS are fused on CUDA.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type == "cuda"
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=fused)
        case "lars":
            groups[0]["always_adapt"] = True  # without weight decay too, where timm would not
            return Lars(groups, lr=lr, momentum=0.9)


def learning_rate(
    step: int, *, peak: float, final: float, warmup_steps: int, total_steps: int
) -> float:
    """Return the learning rate of a step.

    It rises linearly from 0 to `peak`, which the last step of the warm-up has, then falls by half a
    cosine to `peak * final` after the last of `total_steps`.

    Args:
        step: number of the step, from 0.
        peak: highest learning rate.
        final: learning rate at the end, as a part of the peak.
        warmup_steps: steps of the warm-up.
        total_steps: steps of the schedule, warm-up included.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))

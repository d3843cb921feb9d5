"""Parameter groups, optimizers, and the schedule as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from timm.optim import Lars
from torch import nn


def build_optimizer(
    model: nn.Module, name: Literal["adamw", "lars", "sgd"], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, LARS or SGD (momentum 0.9) on the model's parameters; biases and normalisation (one dimension) have
    neither weight decay nor, with LARS, its adaptation. Fused on CUDA where torch has it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type == "cuda"
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=fused)
        case "lars":
            groups[0]["always_adapt"] = True  # without weight decay too, where timm would leave it out
            return Lars(groups, lr=lr, momentum=0.9)


def learning_rate(step: int, *, peak: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of 0-based `step`: linear from 0 to `peak` over the warm-up (reached at its end), then half a
    cosine down to `peak * final` after the last of `total_steps`."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))

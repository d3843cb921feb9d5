"""Settings that follow from the set of images; YAML files and flags override them."""

from __future__ import annotations

from typing import Any

_CIFAR = {
    "image_size": 32,
    "blur_prob": 0.0,
    "solarize_prob": 0.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.247, 0.2435, 0.2616),
}
SET_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "image_size": 8,
        "crop_scale": (0.5, 1.0),
        "hflip_prob": 0.0,
        "blur_prob": 0.0,
        "solarize_prob": 0.0,
        "mean": (0.3, 0.3, 0.3),
        "std": (0.35, 0.35, 0.35),
        "backbone_kwargs": "{channels: [32, 64, 128, 256], layers: [1, 1, 1, 1]}",
        "proj_dim": 64,
        "batch_size": 64,
        "optimizer": "muon",
        "lr": 3e-2,
        "epochs": 20,
        "probe_every": 5,
    },
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "stl10": {"image_size": 96, "solarize_prob": 0.0},
    "imagenet": {},
    "imagenet100": {},
    "folder": {},
    "list": {},
    "hf": {},
}

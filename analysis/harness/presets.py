"""The scales of the runs: --preset cpu, scarce, photographs, gpu, paper and digits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_CONFIGS = Path(__file__).parents[2] / "configs"
# The claims stay with the recipe that they were measured with, whatever the configs become.
_ADAMW = ("--optimizer", "adamw", "--lr", "3e-3")
_DIGITS = ("--data", "digits", *_ADAMW)
HALF_RESNET = (
    *("--backbone", "resnet18", "--backbone-kwargs", "{channels: [32, 64, 128, 256]}"),
    *("--stem", "small-s2"),
)
_CPU = (
    *("--data", "cifar10", *HALF_RESNET, "--crop-scale", "0.2", "1"),
    *("--batch-size", "64", *_ADAMW, "--weight-decay", "1e-4", "--warmup-epochs", "0.2"),
    *("--precision", "bf16", "--fraction", "0.4", "--epochs", "1", "--probe-every", "1"),
)
_GPU = (
    *("--data", "cifar10", "--backbone", "resnet18", "--batch-size", "256"),
    *("--optimizer", "adamw", "--lr", "2e-3", "--weight-decay", "1e-4", "--warmup-epochs", "2"),
    *("--epochs", "100", "--probe-every", "5"),
)
# Where images are scarce: 5,120 of CIFAR-10's, and an encoder small enough to see each of them 400
# times at K = 1's count, so that K = 2 has something to lose with three quarters of them. All parts
# are whole batches. LOG.md has the pilot that chose the length.
_SCARCE = (
    *("--data", "cifar10", "--backbone", "resnet18", "--stem", "small-s2"),
    *("--backbone-kwargs", "{channels: [16, 32, 64, 128]}", "--crop-scale", "0.2", "1"),
    *("--fraction", "0.11378", "--batch-size", "256", *_ADAMW, "--weight-decay", "1e-4"),
    # In float32, so that CPUs and GPUs give what can be compared, and the latter launch no casts.
    *("--precision", "fp32", "--compile", "false", "--warmup-epochs", "2"),
)
# For a user's own photographs stand Imagenette's, at half of their 96 px: what is not said here is
# as `effssl train --data folder` has it, whose optimizer was AdamW when this was compared.
_PHOTOGRAPHS = (
    *("--data", "folder", "--image-size", "48", "--backbone", "resnet18", "--stem", "small-s2"),
    *("--backbone-kwargs", "{channels: [32, 64, 128, 256], layers: [1, 1, 1, 1]}"),
    *("--batch-size", "64", "--precision", "bf16", "--compile", "false"),
    *("--optimizer", "adamw", "--lr", "1e-3"),
)
_PAPER = (
    *("--config", str(_CONFIGS / "cifar10_authors.yaml"), "--batch-size", "128"),
    *("--pairing", "all", "--hold-out"),  # one loss for every K; choices need held-out images
)
_AT_THE_END = ("--probe-every", "0", "--final-images", "0")  # probes, and none of the test split
_CLAIM = ("--proj-dim", "256", *_AT_THE_END)


class Preset(NamedTuple):
    """The scale of a study. warmup: part of a run; widths: of the projectors that are compared;
    rates: of the trials for each K, in multiples of the scale's (none: one rate for all K)."""

    flags: tuple[str, ...]
    seeds: int
    warmup: float = 0.0
    widths: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()


class Sweep(NamedTuple):
    """What the sweep over widths changes of the claims' scale. batch: None for the scale's."""

    widths: tuple[int, ...]
    views: int
    batch: int | None


# --epochs is that of K = 8 on all images of the scale; --fraction is of the set's images.
CLAIMS = {
    "digits": Preset((*_DIGITS, "--epochs", "8", *_CLAIM), 3, 0.1),
    "cpu": Preset((*_CPU, *_CLAIM), 3, 0.1),
    "scarce": Preset((*_SCARCE, "--epochs", "50", *_CLAIM), 5, 0.1, rates=(1.0, 3.0, 9.0)),
    "photographs": Preset((*_PHOTOGRAPHS, "--epochs", "3", *_CLAIM), 3, 0.1),
    # These runs take a minute: compiling would take as long as it saves, and count as training.
    "gpu": Preset((*_GPU, "--compile", "false", "--epochs", "4", *_CLAIM), 1, 0.1),
    "paper": Preset((*_PAPER, "--epochs", "100", *_CLAIM), 3),
}
PROJECTOR = {
    "digits": Sweep((64, 256, 1024), 4, None),
    "cpu": Sweep((64, 256, 1024, 8192), 4, None),
    "scarce": Sweep((64, 256, 1024, 8192), 4, None),
    "photographs": Sweep((64, 256, 1024, 8192), 4, None),
    "gpu": Sweep((64, 256, 1024, 8192), 4, None),
    "paper": Sweep((64, 128, 256, 512, 1024, 2048, 4096, 8192), 2, 512),
}
ORTHOGONALITY = {
    "digits": Preset((*_DIGITS, "--epochs", "16", "--probe-every", "2"), 3, widths=(64,)),
    "cpu": Preset((*_CPU, "--probe-every", "0"), 1, widths=(64, 256, 1024)),
    "gpu": Preset((*_GPU, "--epochs", "10", "--probe-every", "1"), 2, widths=(64, 256, 1024)),
    "paper": Preset(_GPU, 3, widths=(64, 256, 1024, 8192)),
}
WEIGHT_RULE = {
    "cpu": Preset((*_CPU, *_AT_THE_END), 1, widths=(64, 256, 1024, 4096)),
    "gpu": Preset((*_GPU, "--epochs", "10", *_AT_THE_END), 1, widths=(64, 256, 1024, 4096)),
}

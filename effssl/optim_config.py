"""The settings of the optimizer, of its schedule and of its steps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from effssl.ranges import (
    SETTINGS,
    AtLeast0,
    AtLeast1,
    Decay,
    Epochs,
    NotNegative,
    OptimizerName,
    Part,
    Positive,
    PositiveFinite,
    Probability,
)

# The peak learning rates of `--lr auto`, as analysis/rates.py measured them, for batches of 32 to
# 288 images in 2 to 8 views. It looks for powers of the batch and of K too, and has shown none.
AUTO_RATES = {"muon": 0.087}


@dataclass(frozen=True, config=SETTINGS)
class Optim:
    """Optimizer and schedule."""

    optimizer: OptimizerName = "adamw"
    """Optimizer; lars and sgd use momentum 0.9. adam is as in arXiv 2312.10725. muon: for matrices
    and convolutions, with AdamW for the rest."""
    lr: PositiveFinite | Literal["auto"] = 1e-3
    """Peak learning rate. auto: the one that was measured for the optimizer (muon), of short runs;
    docs/measurements.md says how far it goes."""
    lr_bias: PositiveFinite | None = None
    """Peak learning rate of what gets no weight decay: biases, normalisation (None: lr)."""
    layer_decay: Part = 1.0
    """Learning rate of each layer of the backbone as a part of that of the layer above it; below 1
    what was learned before changes least in the lowest layers."""
    weight_decay: NotNegative = 1e-4
    """Weight decay; not on biases, normalisation, class tokens and position embeddings. adam: an
    L2 term, on all parameters."""
    warmup_epochs: Epochs = 1.0
    """Epochs of linear warm-up."""
    decay: Decay = "cosine"
    """How the learning rate falls after the warm-up: by half a cosine, or linearly."""
    final_lr: Probability = 0.0
    """Learning rate at the end, as a part of the peak."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images per step over all devices, before views."""
    micro_batch: AtLeast1 | Literal["auto"] | None = None
    """Images whose views are encoded at a time, to save memory; the gradient is that of the whole
    batch, but BatchNorm's statistics are of these images. auto: the batch, halved until it fits
    (None: the batch)."""
    clip_grad: PositiveFinite | None = None
    """Largest norm of the gradient; a longer one is shortened to it."""
    max_skipped: AtLeast0 = 0
    """Steps that may be skipped because their gradient is not finite, or its norm is ten times the
    median of those before it (0: none, and such a loss ends the run). With fp16, whose scaler skips
    gradients that overflow, it is the loss that has to be finite."""
    drop_last: bool = True
    """Leave out what an epoch's images leave over for a last, smaller batch; else train on it."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of a moving average of the weights, which is judged beside the last ones and
    kept as backbone-averaged.safetensors (0: none); 0.999 remembers about a thousand steps."""
    epochs: AtLeast1 = 100
    """Passes over the training images; the schedule ends with them. With --resume more than the run
    had: the rest follows the longer schedule."""
    max_seconds: Positive | None = None
    """Stop after this much training time (probes excluded); the schedule still follows `epochs`."""

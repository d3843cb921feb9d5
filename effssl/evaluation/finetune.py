"""Training a classifier on a backbone: on few labels, on all of them, or from scratch; and adapting its BatchNorm.

The published protocol of semi-supervised fine-tuning (SimCLR's, arXiv 2002.05709; VICReg's and Barlow Twins' own code):
a linear head on the backbone, both trained, on crops and flips of 1% or 10% of the labels. Supervised training from
scratch is the same loop on an untrained backbone, at one rate, with the views and the steps of a pretraining run.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from effssl.evaluation.layers import evaluating
from effssl.models.backbones import representation_dim
from effssl.optim import build_optimizer, learning_rate

# (backbone, head) for SGD with batches of 256: VICReg's own for 1% of ImageNet after 1000 epochs; encoders that were
# trained for minutes want more
RATES = ((0.03, 0.08), (0.1, 0.1), (0.4, 0.4))

# epoch -> (views [views, batch, 3, size, size], labels int64 [batch]); data.labelled.labelled_views makes them
Epochs = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class Recipe(NamedTuple):
    """How a classifier is trained."""

    backbone_lr: float  # peak; at 0 the backbone is frozen, BatchNorm's statistics too
    head_lr: float  # peak
    steps: int  # the cosine falls over all of them
    optimizer: Literal["adamw", "lars", "sgd"] = "sgd"
    weight_decay: float = 0.0
    warmup_steps: int = 0
    final_lr: float = 0.0  # as a part of the peak


class Cost(NamedTuple):
    """What a training took."""

    steps: int
    encoded_views: int
    seconds: float


class Classifier(NamedTuple):
    """A trained classifier, chosen on validation."""

    model: nn.Sequential  # (backbone, head), in eval mode
    recipe: Recipe
    val_accuracy: float  # in [0, 1]
    cost: Cost  # of this recipe alone
    tried: tuple[tuple[Recipe, float], ...]  # every recipe and its validation accuracy, nan where it diverged


def best_classifier(
    backbone: nn.Module,
    num_classes: int,
    epochs: Epochs,
    val_views: Callable[[], Iterable[Tensor]],
    val_labels: Tensor,
    recipes: Iterable[Recipe],
    *,
    seed: int = 0,
    autocast: bool = False,
    compiled: bool = False,
    max_seconds: float | None = None,
) -> Classifier:
    """Train a copy of `backbone` with a linear head by each of `recipes`, and return that of the best accuracy on
    validation after its last step; `backbone` itself stays as it is.

    val_views: clean views [b, 3, h, w] in the order of val_labels [n], anew at every call. The test split has no place
    here: read it once, with `accuracy`, from what comes back. max_seconds: of each recipe.
    Raises FloatingPointError where every recipe diverges.
    """
    best: Classifier | None = None
    tried: list[tuple[Recipe, float]] = []
    for recipe in recipes:
        head = nn.Linear(representation_dim(backbone), num_classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model = nn.Sequential(copy.deepcopy(backbone), head).to(next(backbone.parameters()).device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        limits = {"seed": seed, "autocast": autocast, "compiled": compiled, "max_seconds": max_seconds}
        try:
            cost = fine_tune(model, epochs, recipe, **limits)  # type: ignore[arg-type]
        except FloatingPointError:
            tried.append((recipe, float("nan")))
            continue
        reached = accuracy(model, val_views(), val_labels, autocast=autocast)
        tried.append((recipe, reached))
        if best is None or reached > best.val_accuracy:
            best = Classifier(model.eval(), recipe, reached, cost, ())
    if best is None:
        raise FloatingPointError(f"training diverged with each of {len(tried)} settings; lower the learning rates")
    return best._replace(tried=tuple(tried))


def fine_tune(
    model: nn.Sequential,
    epochs: Epochs,
    recipe: Recipe,
    *,
    seed: int = 0,
    autocast: bool = False,
    compiled: bool = False,
    max_seconds: float | None = None,
) -> Cost:
    """Train `model` = (backbone, head) in place for recipe.steps, by the mean cross-entropy of all views of a batch.

    seed: of dropout and drop path; on the CPU the same call gives the same weights. autocast: bfloat16 in the forward
    pass. max_seconds: stop after this much, the schedule still follows recipe.steps.
    Raises FloatingPointError where the loss was not finite, looked at after every epoch.
    """
    backbone, head = model
    device = next(head.parameters()).device
    frozen = recipe.backbone_lr == 0
    parts = [(head, recipe.head_lr)] if frozen else [(backbone, recipe.backbone_lr), (head, recipe.head_lr)]
    optimizers = [
        (build_optimizer(part, recipe.optimizer, lr=lr, weight_decay=recipe.weight_decay), lr) for part, lr in parts
    ]
    backbone.train(not frozen)
    head.train()
    encode = torch.compile(backbone) if compiled else backbone
    step, epoch, encoded, began = 0, 0, 0, time.perf_counter()
    out_of_time = False
    label = f"training at {recipe.backbone_lr:g}, {recipe.head_lr:g}"
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        tqdm(total=recipe.steps, desc=label, unit="step", leave=False, disable=None) as bar,
    ):
        torch.manual_seed(seed)
        while step < recipe.steps and not out_of_time:
            before = step
            for x, labels in epochs(epoch):
                for optimizer, peak in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(
                            step, peak=peak, final=recipe.final_lr,
                            warmup_steps=recipe.warmup_steps, total_steps=recipe.steps,
                        )  # fmt: skip
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    with torch.set_grad_enabled(not frozen):
                        h = encode(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
                    logits = head(h)  # [views * batch, classes]
                loss = F.cross_entropy(logits.float(), labels.repeat(len(x)))
                loss.backward()
                for optimizer, _ in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                step, encoded = step + 1, encoded + len(logits)
                bar.update()
                out_of_time = max_seconds is not None and time.perf_counter() - began >= max_seconds
                if step == recipe.steps or out_of_time:
                    break
            if step == before:
                raise ValueError("an epoch without a batch: fewer images than the batch size?")
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
            epoch += 1
    return Cost(step, encoded, time.perf_counter() - began)


def accuracy(model: nn.Module, views: Iterable[Tensor], labels: Tensor, *, autocast: bool = False) -> float:
    """Share of clean views, batches of [b, 3, h, w], whose largest logit is that of labels int64 [n]; in [0, 1]."""
    predicted = []
    with evaluating(model):
        for x in views:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
                predicted.append(model(x.to(memory_format=torch.channels_last)).argmax(1).cpu())
    return float((torch.cat(predicted) == labels.cpu()).double().mean())


def adapt_batch_norm(backbone: nn.Module, views: Iterable[Tensor], *, autocast: bool = False) -> int:
    """Replace the running statistics of every BatchNorm by those of `views` [b, 3, h, w] (AdaBN, arXiv 1603.04779), in
    place, without labels and without touching a weight. Returns how many: 0 says that nothing was done.

    Means and unbiased variances of the batches are averaged with the weight of their sizes (with batches of one size
    the cumulative average of momentum=None); meanwhile each layer sees inputs normalised by their own batch. A batch of
    one image is left out, as it may have no variance. All else is in eval mode; modes are as before afterwards.
    """
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    before = [norm.momentum for norm in norms]
    seen = 0
    try:
        with evaluating(backbone):
            for norm in norms:
                norm.train()
            for x in views:
                if len(x) < 2:
                    continue
                for norm in norms:
                    if seen == 0:
                        norm.reset_running_stats()
                    norm.momentum = len(x) / (seen + len(x))
                with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
                    backbone(x.to(memory_format=torch.channels_last))
                seen += len(x)
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
    return len(norms) if seen else 0

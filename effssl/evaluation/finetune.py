"""Training a classifier on a backbone.

The published protocol of semi-supervised fine-tuning (SimCLR's, arXiv 2002.05709; VICReg's and
Barlow Twins' own code) is a linear head on the backbone, both trained, on crops and flips of 1% or
10% of the labels. Supervised training from scratch is the same loop on an untrained backbone, at
one rate, with the views and the steps of a pretraining run.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from effssl.evaluation.layers import evaluating
from effssl.evaluation.probes import best_of_grid
from effssl.losses.near_start import distance_from_start
from effssl.models.backbones import representation_dim
from effssl.optim import build_optimizer, learning_rate, set_learning_rate
from effssl.ranges import Decay, OptimizerName
from effssl.run.device import Runtime

# Rates (of the backbone, of the head) for SGD with batches of 256. The first two are VICReg's own
# for 10% and 1% of ImageNet after 1000 epochs; encoders that were trained for minutes want more.
RATES = ((0.01, 0.1), (0.03, 0.08), (0.1, 0.1), (0.4, 0.4), (1.6, 1.6))

# epoch -> (views [views, batch, 3, size, size], labels int64 [batch]), as labelled_views makes them
Epochs = Callable[[int], Generator[tuple[Tensor, Tensor], None, None]]


class Near(NamedTuple):
    """How near the backbone stays to where it began: see losses/near_start.py."""

    weight: float
    fisher: list[Tensor] | None  # of its parameters, on the device; None: all matter alike


class Recipe(NamedTuple):
    """How a classifier is trained."""

    backbone_lr: float  # peak; at 0 the backbone is frozen, BatchNorm's statistics too
    head_lr: float  # peak
    steps: int
    optimizer: OptimizerName = "sgd"
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule_steps: int | None = None  # over which the rate falls; None: over all of `steps`
    decay: Decay = "cosine"  # how it falls
    final_lr: float = 0.0  # as a part of the peak
    lr_bias: float | None = (
        None  # peak for what gets no weight decay; None: as the rest of its part
    )
    near: Near | None = None  # None: it goes as far as it goes


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
    tried: tuple[tuple[Recipe, float], ...]  # each recipe, its validation accuracy: nan if diverged


def best_classifier(
    backbone: nn.Module,
    num_classes: int,
    epochs: Epochs,
    val_views: Callable[[], Iterable[Tensor]],
    val_labels: Tensor,
    recipes: Sequence[Recipe],
    *,
    seed: int,
    runtime: Runtime,
) -> Classifier:
    """Train a classifier by each recipe, and return that of the best accuracy on validation.

    Of equals it is the first that is no end of the recipes, as by probes.best_of_grid.

    Each is a copy of the backbone with a linear head, looked at after its last step. The test split
    has no place here: read it once, with `accuracy`, from what comes back.

    Args:
        backbone: stays as it is.
        num_classes: width of the head.
        epochs: makes the training views and their labels, an epoch at a time.
        val_views: makes clean views [b, 3, h, w] in the order of `val_labels`, anew at every call.
        val_labels: int64 [n].
        recipes: what is tried.
        seed: of dropout and drop path.
        runtime: where, and in what precision.

    Raises:
        FloatingPointError: if every recipe diverges.
    """
    best: Classifier | None = None
    reached: list[float] = []
    for recipe in recipes:
        head = nn.Linear(representation_dim(backbone), num_classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model = nn.Sequential(copy.deepcopy(backbone), head).to(runtime.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            cost = fine_tune(model, epochs, recipe, seed=seed, runtime=runtime)
        except FloatingPointError:
            reached.append(float("nan"))
            continue
        reached.append(accuracy(model, val_views(), val_labels, runtime))
        so_far = [*reached, *[float("nan")] * (len(recipes) - len(reached))]
        if best_of_grid(so_far) == len(reached) - 1:
            best = Classifier(model.eval(), recipe, reached[-1], cost, ())
    if best is None:
        rates = ", ".join(f"{each.backbone_lr:g} and {each.head_lr:g}" for each in recipes)
        raise FloatingPointError(
            f"the loss is not finite at any learning rate of backbone and head ({rates})"
        )
    return best._replace(tried=tuple(zip(recipes, reached, strict=True)))


def fine_tune(
    model: nn.Sequential, epochs: Epochs, recipe: Recipe, *, seed: int, runtime: Runtime
) -> Cost:
    """Train `model` = (backbone, head) in place, by the mean cross-entropy of a batch's views, and
    by the recipe's penalty on how far the backbone goes.

    On the CPU the same call gives the same weights. The caller's random numbers stay as they were.

    Args:
        model: on the runtime's device.
        epochs: makes the views and their labels, an epoch at a time.
        recipe: says how, and for how many steps.
        seed: of dropout and drop path.
        runtime: where, and in what precision.

    Raises:
        FloatingPointError: if the loss is not finite; it is looked at after every epoch.
        ValueError: if an epoch has no batch.
    """
    backbone, head = model
    is_frozen = recipe.backbone_lr == 0
    optimizers, scaler = _optimizers(backbone, head, recipe), runtime.scaler()
    backbone.train(not is_frozen)
    head.train()
    penalty = _penalty(backbone, recipe.near)
    step, epoch, encoded, began_s = 0, 0, 0, time.perf_counter()
    label = f"training at {recipe.backbone_lr:g}, {recipe.head_lr:g}"
    with (
        torch.random.fork_rng([runtime.device] if runtime.device.type == "cuda" else []),
        tqdm(total=recipe.steps, desc=label, unit="step", leave=False, disable=None) as bar,
    ):
        torch.manual_seed(seed)
        while step < recipe.steps:
            first_step = step
            with closing(epochs(epoch)) as batches:
                for views, labels in batches:
                    _set_rates(optimizers, recipe, step)
                    x = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                    with runtime.autocast():
                        with torch.set_grad_enabled(not is_frozen):
                            h = backbone(x)
                        logits = head(h)  # [views * batch, classes]
                    loss = F.cross_entropy(logits.float(), labels.repeat(len(views)))
                    scaler.scale(loss + penalty()).backward()
                    for optimizer, _ in optimizers:
                        scaler.step(optimizer)
                        optimizer.zero_grad(set_to_none=True)
                    scaler.update()
                    step, encoded = step + 1, encoded + len(logits)
                    bar.update()
                    if step == recipe.steps:
                        break
            if step == first_step:
                raise ValueError("an epoch without a batch: fewer images than the batch size?")
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
            epoch += 1
    return Cost(step, encoded, time.perf_counter() - began_s)


def _penalty(backbone: nn.Module, near: Near | None) -> Callable[[], Tensor | float]:
    """Return the weighed penalty on how far the backbone has gone from where it is now."""
    if near is None:
        return lambda: 0.0
    trained = list(backbone.parameters())
    start = [p.detach().clone() for p in trained]
    return lambda: near.weight * distance_from_start(trained, start, near.fisher)


def accuracy(model: nn.Module, views: Iterable[Tensor], labels: Tensor, runtime: Runtime) -> float:
    """Return the share, in [0, 1], of views whose largest logit is that of their label.

    views: clean ones, in batches of [b, 3, h, w], on the runtime's device; labels: int64 [n].
    """
    predicted = []
    with evaluating(model):
        for x in views:
            with runtime.autocast():
                logits = model(x.to(memory_format=torch.channels_last))
            predicted.append(logits.argmax(1).cpu())
    return float((torch.cat(predicted) == labels.cpu()).double().mean())


def _optimizers(
    backbone: nn.Module, head: nn.Module, recipe: Recipe
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Build an optimizer for each part that is trained, with its peak rate."""
    rates = [(head, recipe.head_lr)]
    if recipe.backbone_lr != 0:
        rates.insert(0, (backbone, recipe.backbone_lr))
    decay, lr_bias = recipe.weight_decay, recipe.lr_bias
    return [
        (build_optimizer(p, recipe.optimizer, lr=lr, weight_decay=decay, lr_bias=lr_bias), lr)
        for p, lr in rates
    ]


def _set_rates(
    optimizers: list[tuple[torch.optim.Optimizer, float]], recipe: Recipe, step: int
) -> None:
    for optimizer, peak in optimizers:
        rate = learning_rate(
            step,
            peak=peak,
            final=recipe.final_lr,
            warmup_steps=recipe.warmup_steps,
            total_steps=recipe.schedule_steps or recipe.steps,
            decay=recipe.decay,
        )
        set_learning_rate(optimizer, rate)

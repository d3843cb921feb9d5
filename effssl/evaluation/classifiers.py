"""What probes of a frozen backbone leave out: it fine-tuned, its BatchNorm adapted, and its supervised twin."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import torch
from torch import nn

from effssl.config import Augment, Config
from effssl.data import Data
from effssl.data.label_files import label_fraction
from effssl.evaluation.encode import Clean, backbone_features, clean_views, spread
from effssl.evaluation.finetune import RATES, Classifier, Epochs, Recipe, accuracy, adapt_batch_norm, best_classifier
from effssl.evaluation.finished_run import FinishedRun, build_encoder, strengths
from effssl.evaluation.labelled_views import NO_COLOURS, even_batch_size, labelled_views
from effssl.evaluation.probes import wilson_interval
from effssl.evaluation.protocols import (
    Columns,
    choose_linear,
    encode_splits,
    labelled_positions,
    linear,
    reported_images,
)
from effssl.models import backbones as models

SUPERVISED = "supervised.safetensors"
ADAPT_IMAGES = 10_000  # that BatchNorm's statistics are taken of


def fine_tuned(
    backbone: nn.Module,
    data: Data,
    clean: Clean,
    augment: Augment,
    *,
    name: str,
    fraction: float,
    epochs: int,
    max_steps: int | None,
    seed: int,
) -> Columns:
    """Accuracy in [0, 1] of backbone and linear head, both trained on a `fraction` of the labels by crops and flips;
    `backbone` itself stays as it is. Learning rates are those of RATES that are best on validation.

    The labels are noted in a text file beside the .beton, which later calls read. Batches are of 256 images, fewer
    where that would be fewer than 25 steps an epoch, with rates in proportion.
    """
    positions = labelled_positions(data)
    if fraction < 1:
        folder = data.train.path.parent
        positions = label_fraction(folder, name, data.train, data.train_positions, fraction=fraction, seed=seed)
    batch = even_batch_size(len(positions), min(256, max(16, len(positions) // 25)))
    views = labelled_views(
        data.train, positions, batch_size=batch, views=1, size=clean.size, mean=clean.mean, std=clean.std,
        strengths=strengths(augment) | NO_COLOURS, seed=seed, workers=clean.workers, device=clean.device,
    )  # fmt: skip
    scale = batch / 256
    steps = min(epochs * views.steps_per_epoch, max_steps or sys.maxsize)
    recipes = [Recipe(b * scale, h * scale, steps) for b, h in RATES]
    chosen = _best(backbone, data, clean, views.epoch, recipes, seed)
    reached, count = _accuracy(chosen, data, clean)
    low, high = wilson_interval(reached, count)
    key = f"fine_tuned/{fraction:g}"
    columns = {key: reached, f"{key}_low": low, f"{key}_high": high, f"{key}_val": chosen.val_accuracy}
    return columns | {f"{key}_backbone_lr": chosen.recipe.backbone_lr, f"{key}_head_lr": chosen.recipe.head_lr}


def adapted(backbone: nn.Module, data: Data, clean: Clean, train_images: int) -> Columns:
    """The linear probe's columns once BatchNorm's statistics are those of clean views of the set's training images;
    none where there is no BatchNorm. `backbone` itself stays as it is."""
    backbone = copy.deepcopy(backbone)
    some = clean_views(data.train, spread(data.train_positions, ADAPT_IMAGES), clean)
    if not adapt_batch_norm(backbone, some, autocast=clean.dtype == torch.bfloat16):
        return {}
    encoded = encode_splits(backbone_features(backbone, clean), data, train_images)
    return linear(encoded, choose_linear(encoded), "adapted")


def supervised(run: FinishedRun, data: Data, clean: Clean) -> tuple[nn.Module, dict[str, Any]]:
    """The run's backbone trained with labels in place of the loss on embeddings, from the same weights, with the same
    views, steps and schedule; and its description (accuracy, split, val_accuracy, seconds, steps).

    data: the run's own. It is trained at the first call, and lies in the run's folder from then on.
    """
    file = run.folder / SUPERVISED
    if not file.is_file():
        cfg = run.cfg
        o, a = cfg.optim, cfg.augment
        encoded_views = json.loads((run.folder / "result.json").read_text())["encoded_views"]
        views = labelled_views(
            data.train, data.train_positions, batch_size=o.batch_size, views=a.views, size=clean.size, mean=clean.mean,
            std=clean.std, strengths=strengths(a), seed=cfg.run.seed, workers=clean.workers, device=clean.device,
        )  # fmt: skip
        steps = encoded_views // (o.batch_size * a.views)
        warmup = round(o.warmup_epochs * views.steps_per_epoch)
        recipe = Recipe(o.lr, o.lr, steps, o.optimizer, o.weight_decay, warmup, o.final_lr)
        chosen = _best(_fresh(cfg, clean), data, clean, views.epoch, [recipe], cfg.run.seed)
        reached, count = _accuracy(chosen, data, clean)
        about = {"accuracy": reached, "images": count, "val_accuracy": chosen.val_accuracy, **chosen.cost._asdict()}
        described = models.load_backbone(run.folder)[1] | {"supervised": about}
        models.save_backbone(chosen.model[0], file, described)
    backbone, described = models.load_backbone(file)
    return backbone, described["supervised"]


def _fresh(cfg: Config, clean: Clean) -> nn.Module:
    return build_encoder(cfg).backbone.to(clean.device)


def _best(
    backbone: nn.Module, data: Data, clean: Clean, epochs: Epochs, recipes: list[Recipe], seed: int
) -> Classifier:
    labels = torch.from_numpy(data.train.labels[data.val_positions])
    return best_classifier(
        backbone, len(data.train.classes), epochs, lambda: clean_views(data.train, data.val_positions, clean), labels,
        recipes, seed=seed, autocast=clean.dtype == torch.bfloat16,
    )  # fmt: skip


def _accuracy(chosen: Classifier, data: Data, clean: Clean) -> tuple[float, int]:
    """On the reported split, and its images."""
    beton, positions = reported_images(data)
    labels = torch.from_numpy(beton.labels[positions])
    views = clean_views(beton, positions, clean)
    return accuracy(chosen.model, views, labels, autocast=clean.dtype == torch.bfloat16), len(positions)

"""What probes of a frozen backbone leave out: fine-tuning, adapted BatchNorm, a supervised twin."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import torch
from torch import nn

from effssl.data.label_files import label_fraction
from effssl.data.stored import Data
from effssl.evaluation.batch_norm import adapt_batch_norm
from effssl.evaluation.encode import Streams, backbone_features, crops_and_flips, spread
from effssl.evaluation.finetune import (
    RATES,
    Classifier,
    Recipe,
    accuracy,
    best_classifier,
)
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.labelled_views import (
    LabelledViews,
    even_batch_size,
    labelled_views,
)
from effssl.evaluation.probes import wilson_interval
from effssl.evaluation.protocols import (
    Columns,
    choose_linear,
    encode_splits,
    labelled_positions,
    linear,
    reported_images,
)
from effssl.models import build_encoder, load_backbone, save_backbone
from effssl.models.weight_files import read_extra

SUPERVISED = "supervised.safetensors"
ADAPT_IMAGES = 10_000  # that BatchNorm's statistics are taken of


def fine_tuned(
    backbone: nn.Module,
    data: Data,
    streams: Streams,
    *,
    name: str,
    fraction: float,
    epochs: int,
    max_steps: int | None,
    seed: int,
) -> Columns:
    """Judge backbone and linear head, both trained on a part of the labels by crops and flips.

    The labels are noted in a text file beside the .beton, which later calls read. Batches are of
    256 images, fewer if that would be fewer than 25 steps an epoch, with rates in proportion. The
    rates are those of RATES that are best on validation.

    Args:
        backbone: stays as it is.
        data: the set.
        streams: the views of its splits.
        name: of the split in the text file.
        fraction: part of the labels, in (0, 1].
        epochs: passes over them.
        max_steps: bounds the steps; None does not.
        seed: of the choice of labels, the views, their order, and dropout.

    Returns:
        Accuracy in [0, 1], its interval, and what was chosen, as columns of fine_tuned/FRACTION.
    """
    positions = labelled_positions(data)
    if fraction < 1:
        folder = data.train.path.parent
        positions = label_fraction(
            folder, name, data.train, data.train_positions, fraction=fraction, seed=seed
        )
    stream = streams["train"]
    batch_size = even_batch_size(len(positions), min(256, max(16, len(positions) // 25)))
    crops = crops_and_flips(stream.augment, views=1)
    views = labelled_views(
        stream.with_views(crops, seed=seed, batch_size=batch_size), positions, seed=seed
    )
    scale = batch_size / 256
    steps = min(epochs * views.steps_per_epoch, max_steps or sys.maxsize)
    recipes = [Recipe(lr * scale, head_lr * scale, steps) for lr, head_lr in RATES]
    chosen = _best(backbone, data, streams, views, recipes, seed, f"--fine-tune {fraction:g}")
    share, count = _accuracy(chosen, data, streams)
    low, high = wilson_interval(share, count)
    key = f"fine_tuned/{fraction:g}"
    columns = {key: share, f"{key}_low": low, f"{key}_high": high}
    columns |= {f"{key}_val": chosen.val_accuracy}
    recipe = chosen.recipe
    return columns | {f"{key}_backbone_lr": recipe.backbone_lr, f"{key}_head_lr": recipe.head_lr}


def adapted(backbone: nn.Module, data: Data, streams: Streams, train_images: int) -> Columns:
    """Judge the linear probe once BatchNorm's statistics are those of the set's training images.

    They are taken of clean views. `backbone` itself stays as it is. Without BatchNorm in it there
    are no columns.
    """
    backbone = copy.deepcopy(backbone)
    stream = streams["train"]
    views = stream.clean(spread(data.train_positions, ADAPT_IMAGES))
    if not adapt_batch_norm(backbone, views, stream.runtime):
        return {}
    encoded = encode_splits(backbone_features(backbone, streams), data, train_images)
    return linear(encoded, choose_linear(encoded), "adapted")


def supervised(run: FinishedRun, data: Data, streams: Streams) -> tuple[nn.Module, dict[str, Any]]:
    """Train the run's backbone with labels in place of the loss on embeddings.

    It starts from the same weights, and has the same views, steps and schedule. It is trained at
    the first call, and lies in the run's folder from then on.

    Args:
        run: gives the recipe.
        data: the set that it was trained on.
        streams: the views of that set's splits.

    Returns:
        The backbone and a description: accuracy, images, val_accuracy, steps, encoded_views,
        seconds.
    """
    file = run.folder / SUPERVISED
    if not file.is_file():
        _train_supervised(run, data, streams)
    backbone, _ = load_backbone(file)
    return backbone, read_extra(file)["supervised"]


def _train_supervised(run: FinishedRun, data: Data, streams: Streams) -> None:
    """Train the supervised twin, and write it to the run's folder."""
    cfg, optim, stream = run.cfg, run.cfg.optim, streams["train"]
    views = labelled_views(
        stream.with_views(stream.augment, seed=cfg.run.seed, batch_size=optim.batch_size),
        data.train_positions,
        seed=cfg.run.seed,
    )
    encoded_views = json.loads((run.folder / "result.json").read_text())["encoded_views"]
    recipe = Recipe(
        backbone_lr=optim.lr,
        head_lr=optim.lr,
        steps=encoded_views // (optim.batch_size * cfg.augment.views),
        optimizer=optim.optimizer,
        weight_decay=optim.weight_decay,
        warmup_steps=round(optim.warmup_epochs * views.steps_per_epoch),
        final_lr=optim.final_lr,
        lr_bias=optim.lr_bias,
    )
    untrained = build_encoder(cfg.model, cfg.augment.image_size, cfg.run.seed).backbone
    chosen = _best(untrained, data, streams, views, [recipe], cfg.run.seed, "--supervised")
    share, count = _accuracy(chosen, data, streams)
    about = {"accuracy": share, "images": count, "val_accuracy": chosen.val_accuracy}
    _, spec = load_backbone(run.folder)
    save_backbone(
        chosen.model[0],
        run.folder / SUPERVISED,
        spec,
        extra={"supervised": about | chosen.cost._asdict()},
    )


def _best(
    backbone: nn.Module,
    data: Data,
    streams: Streams,
    views: LabelledViews,
    recipes: list[Recipe],
    seed: int,
    asked_by: str,
) -> Classifier:
    """Do what best_classifier does; an error names the flag that asked for it, and the ways out."""
    stream = streams["train"]
    try:
        return best_classifier(
            backbone,
            len(data.train.classes),
            views.epoch,
            lambda: stream.clean(data.val_positions),
            torch.from_numpy(data.train.labels[data.val_positions]),
            recipes,
            seed=seed,
            runtime=stream.runtime,
        )
    except FloatingPointError as error:
        in_half = stream.runtime.autocast_dtype is not None
        ways_out = "try --precision fp32, or " * in_half + "leave it out"
        raise FloatingPointError(f"{asked_by}: {error}; {ways_out}") from None


def _accuracy(chosen: Classifier, data: Data, streams: Streams) -> tuple[float, int]:
    """Return a classifier's accuracy on the reported split, and how many images that has."""
    split, positions = reported_images(data)
    labels = torch.from_numpy(data.stored(split).labels[positions])
    stream = streams[split]
    return accuracy(chosen.model, stream.clean(positions), labels, stream.runtime), len(positions)

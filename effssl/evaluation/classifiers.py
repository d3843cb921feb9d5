"""What probes of a frozen backbone leave out: adapted BatchNorm, and a supervised twin.

semi_supervised.py has the columns of backbones that are trained further.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import torch
from torch import nn

from effssl.data.splits import batch_ends
from effssl.data.stored import Data
from effssl.evaluation.batch_norm import adapt_batch_norm
from effssl.evaluation.encode import Streams, backbone_features, spread
from effssl.evaluation.finetune import (
    Classifier,
    Recipe,
    accuracy,
    best_classifier,
)
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.labelled_views import (
    LabelledViews,
    labelled_views,
)
from effssl.evaluation.protocols import (
    Columns,
    choose_linear,
    encode_splits,
    linear,
    reported_images,
)
from effssl.models import START, build_encoder, load_backbone, save_backbone
from effssl.models.weight_files import read_extra
from effssl.views.sizes import growing_sizes, size_at
from effssl.views.stream import ViewStream

SUPERVISED = "supervised.safetensors"
ADAPT_IMAGES = 10_000  # that BatchNorm's statistics are taken of


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

    It starts from the same weights, and has the same steps, schedule and views, but no small ones:
    the schedule of all the run's epochs, though it may have ended before, and though an epoch of
    labelled images alone may have fewer steps. It is trained at the first call, and lies in the
    run's folder from then on; it is trained anew if it was of other images, steps or schedule.

    Args:
        run: gives the recipe.
        data: the images that it was trained on, cut as they were then.
        streams: the run's views of that set's splits.

    Returns:
        The backbone and a description: accuracy, images, val_accuracy, steps, encoded_views,
        seconds, and what it was trained on: identity, fraction, split_seed, warmup_steps and
        schedule_steps.

    Raises:
        InputError: if the weights that the run began with are lost, or no image has a label.
        FloatingPointError: if training diverges.
    """
    file, images, optim = run.folder / SUPERVISED, run.cfg.images, run.cfg.optim
    num_images = len(data.pretrain_positions)
    steps_per_epoch = len(batch_ends(num_images, optim.batch_size, optim.drop_last, fewest=2))
    trained_on = {
        "identity": data.train.identity,
        "fraction": images.fraction,
        "split_seed": images.split_seed,
        "steps": json.loads((run.folder / "result.json").read_text())["steps"],
        "warmup_steps": round(optim.warmup_epochs * steps_per_epoch),
        "schedule_steps": optim.epochs * steps_per_epoch,
    }
    is_kept = file.is_file()
    if is_kept and not trained_on.items() <= read_extra(file)["supervised"].items():
        print(f"{file} is not known to be of these images and steps: trained anew", flush=True)
        is_kept = False
    if not is_kept:
        _train_supervised(run, data, streams, trained_on)
    backbone, _ = load_backbone(file)
    return backbone, read_extra(file)["supervised"]


def _train_supervised(
    run: FinishedRun, data: Data, streams: Streams, trained_on: dict[str, Any]
) -> None:
    """Train the supervised twin, and write it to the run's folder, with what it was trained on."""
    cfg, optim, stream = run.cfg, run.cfg.optim, streams["train"]
    schedule_steps = trained_on["schedule_steps"]
    sizes = growing_sizes(cfg.augment.image_size, cfg.sizes)
    views = labelled_views(
        stream.with_views(stream.augment, seed=cfg.run.seed, batch_size=optim.batch_size),
        data.train_positions,
        seed=cfg.run.seed,
        size_of=lambda step: size_at(step, schedule_steps, sizes, cfg.sizes.grow_until),
    )
    recipe = Recipe(
        backbone_lr=cfg.lr,
        head_lr=cfg.lr,
        steps=trained_on["steps"],
        optimizer=optim.optimizer,
        weight_decay=optim.weight_decay,
        warmup_steps=trained_on["warmup_steps"],
        schedule_steps=schedule_steps,
        decay=optim.decay,
        final_lr=optim.final_lr,
        lr_bias=optim.lr_bias,
    )
    begun = (
        load_backbone(run.folder / START)[0]
        if cfg.start.init
        else build_encoder(cfg.model, cfg.augment, cfg.run.seed).backbone
    )
    chosen = chosen_classifier(
        begun, data, stream, views, [recipe], cfg.run.seed, data.val_positions, "--supervised"
    )
    share, count = reported_accuracy(chosen, data, streams)
    about = {"accuracy": share, "images": count, "val_accuracy": chosen.val_accuracy}
    _, spec = load_backbone(run.folder)
    save_backbone(
        chosen.model[0],
        run.folder / SUPERVISED,
        spec,
        extra={"supervised": trained_on | about | chosen.cost._asdict()},
    )


def chosen_classifier(
    backbone: nn.Module,
    data: Data,
    stream: ViewStream,
    views: LabelledViews,
    recipes: list[Recipe],
    seed: int,
    held: np.ndarray,
    asked_by: str,
) -> Classifier:
    """Train a classifier by each recipe, and choose on train's images at the positions `held`.

    asked_by: the flag that asks for it, which FloatingPointError names, with the ways out, if
    training diverges by every recipe.
    """
    try:
        return best_classifier(
            backbone,
            len(data.train.classes),
            views.epoch,
            lambda: stream.clean(held),
            torch.from_numpy(data.train.labels[held]),
            recipes,
            seed=seed,
            runtime=stream.runtime,
        )
    except FloatingPointError as error:
        in_half = stream.runtime.autocast_dtype is not None
        ways_out = "try --precision fp32, or " * in_half + "leave it out"
        raise FloatingPointError(f"{asked_by}: {error}; {ways_out}") from None


def reported_accuracy(chosen: Classifier, data: Data, streams: Streams) -> tuple[float, int]:
    """Return a classifier's accuracy on the reported split, and how many images that has."""
    split, positions = reported_images(data)
    labels = torch.from_numpy(data.stored(split).labels[positions])
    stream = streams[split]
    return accuracy(chosen.model, stream.clean(positions), labels, stream.runtime), len(positions)

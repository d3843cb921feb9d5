"""Classifiers of images with a patch in a corner, whose colour gives the class away, mostly."""

from __future__ import annotations

import colorsys
import copy
from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from effssl.data.stored import Data, Split
from effssl.evaluation.batch_norm import adapt_batch_norm
from effssl.evaluation.encode import Streams, crops_and_flips, spread
from effssl.evaluation.finetune import Recipe, fine_tune
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.labelled_views import labelled_views, tuning_batch_size
from effssl.evaluation.layers import evaluating
from effssl.models import representation_dim

AGREES = 0.95  # part of the training images whose patch has the colour of their class


class Fitted(NamedTuple):
    """A classifier, and the accuracy of each group of validation images [2, classes]."""

    method: str
    recipe: Recipe
    model: nn.Sequential
    val: np.ndarray


class Trial(NamedTuple):
    """What a seed chooses, and what its classifiers are made of."""

    seed: int
    data: Data
    streams: Streams
    colours: Tensor  # [classes, 3, 1, 1], normalised
    val: np.ndarray
    test: np.ndarray


def trial_of(run: FinishedRun, data: Data, streams: Streams, seed: int, images: int) -> Trial:
    """Choose the images of a seed to validate and test on, and the colours of the patches."""
    augment, classes = run.cfg.augment, len(data.train.classes)
    hues = torch.linspace(0, 1, classes + 1)[:-1]
    rgb = torch.tensor([colorsys.hsv_to_rgb(float(hue), 1, 1) for hue in hues])
    colours = (rgb - torch.tensor(augment.mean)) / torch.tensor(augment.std)
    of_test = np.flatnonzero(data.stored("test").labels >= 0)
    device = streams["train"].runtime.device
    return Trial(
        seed,
        data,
        streams,
        colours.to(device)[:, :, None, None],
        spread(data.val_positions, images),
        spread(of_test, images),
    )


def fit(
    method: str,
    recipe: Recipe,
    backbone: nn.Module,
    trial: Trial,
    positions: np.ndarray,
    *,
    adapts: bool,
) -> Fitted:
    """Train a classifier on images with patches, at the positions, and judge it on validation.

    adapts: BatchNorm takes its statistics of such images first.
    """
    stream, classes = trial.streams["train"], len(trial.data.train.classes)
    runtime, backbone = stream.runtime, copy.deepcopy(backbone)
    batch = tuning_batch_size(len(positions))
    crops = crops_and_flips(stream.augment, views=1)
    views = labelled_views(
        stream.with_views(crops, seed=trial.seed, batch_size=batch), positions, seed=trial.seed
    )

    def epoch(number: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        generator = torch.Generator().manual_seed(1000 * trial.seed + number)
        with closing(views.epoch(number)) as batches:
            for x, y in batches:
                yield with_patches(x, drawn(y, classes, generator), trial.colours), y

    if adapts:
        seen = (x.flatten(0, 1) for x, _ in epoch(0))
        adapt_batch_norm(backbone, seen, runtime)
    head = nn.Linear(representation_dim(backbone), classes).to(runtime.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    model = nn.Sequential(backbone, head)
    fine_tune(model, epoch, recipe, seed=trial.seed, runtime=runtime)
    return Fitted(method, recipe, model.eval(), accuracies(model, trial, "train", trial.val))


def drawn(y: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Draw the colour of each image's patch: its class, or in 5% of cases another one."""
    other = (y.cpu() + torch.randint(1, classes, y.shape, generator=generator)) % classes
    agrees = torch.rand(y.shape, generator=generator) < AGREES
    return torch.where(agrees, y.cpu(), other).to(y.device)


def with_patches(x: Tensor, which: Tensor, colours: Tensor) -> Tensor:
    """Return views [..., n, 3, h, w] with a patch of colours[which] in the upper left corner, a
    fifth of the side wide."""
    side = max(1, x.shape[-1] // 5)
    patched = x.clone()
    patched[..., :side, :side] = colours[which]
    return patched


def accuracies(
    model: nn.Sequential, trial: Trial, split: Split, positions: np.ndarray
) -> np.ndarray:
    """Return the accuracy on clean views of each class [2, classes]: with the patch of its own
    colour, and of another one."""
    stream = trial.streams[split]
    y = torch.from_numpy(trial.data.stored(split).labels[positions])
    classes, shift = len(trial.colours), torch.Generator().manual_seed(trial.seed)
    other = (y + torch.randint(1, classes, y.shape, generator=shift)) % classes
    groups = []
    for which in (y, other):
        right, start = [], 0
        with evaluating(model), closing(stream.clean(positions)) as batches:
            for x in batches:
                at = slice(start, start := start + len(x))
                patched = with_patches(x, which[at].to(x.device), trial.colours)
                logits = model(patched.contiguous(memory_format=torch.channels_last))
                right.append(logits.argmax(1).cpu() == y[at])
        hits = torch.cat(right).double()
        groups.append([float(hits[y == c].mean()) for c in range(classes)])
    return np.array(groups)

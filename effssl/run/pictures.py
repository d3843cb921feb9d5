"""Pictures of a run: sample views and curves."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from effssl.image_config import Augment
from effssl.run.files import atomic


@contextlib.contextmanager
def or_a_line(picture: Path, say: Callable[[str], object] = print) -> Iterator[None]:
    """Say in a line why the block could not draw `picture`, whatever the reason, and go on.

    Hours of computing must not end for a picture.
    """
    with _young_garbage_collected():
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            say(f"{picture} was not drawn ({reason}); the rest goes on")


@contextlib.contextmanager
def _young_garbage_collected() -> Iterator[None]:
    """Free what the block made and left.

    The parts of a figure know each other, and would wait, with megabytes each, for a collection of
    all objects, which takes half a second and is seldom made. Without collections in between all of
    them are young when the block ends, and the young alone are looked through in milliseconds.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if was_enabled:
            gc.enable()


def save_views(path: Path, clean: Tensor, groups: list[Tensor], augment: Augment) -> None:
    """Show an image a row: its clean view [n, c, h, w], then groups of others [views, n, c, h, w].

    All are normalised as `augment` says, and shown in one size, whatever theirs is.
    """
    scale, shift = (torch.tensor(of)[:, None, None] for of in (augment.std, augment.mean))
    chosen = list(augment.picture_bands or ((0, 1, 2) if augment.channels > 2 else (0, 0, 0)))
    every = (x.float().cpu() for views in (clean[None], *groups) for x in views)
    shown = [(x * scale + shift)[:, chosen] for x in every]
    rows, columns = len(clean), len(shown)
    figure = Figure(figsize=(1.1 * columns, 1.1 * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, row in enumerate(axes):
        for k, axis in enumerate(row):
            axis.imshow(shown[k][i].clamp(0, 1).permute(1, 2, 0).numpy())
        if i == 0:
            for k, axis in enumerate(row):
                axis.set_title("image" if k == 0 else f"view {k}", fontsize=8)
        for axis in row:
            axis.axis("off")
    save(figure, path)


def save_curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Show loss terms against steps, and probe accuracy against seconds and encoded views.

    records: those of a run's metrics.jsonl.
    """
    train = [r for r in records if r["kind"] == "train"]
    probes = [r for r in records if r["kind"] == "probe"]
    figure = Figure(figsize=(12, 3.6))
    left, middle, right = figure.subplots(1, 3)
    for name in [k for k in (train[0] if train else {}) if k.startswith("loss")]:
        label = "total" if name == "loss" else name.partition("/")[2]
        left.plot([r["step"] for r in train], [r[name] for r in train], label=label, linewidth=1)
    left.set(xlabel="step", title="loss terms, before weighting", yscale="log")
    for axis, key, label in (
        (middle, "seconds", "training seconds"),
        (right, "encoded_views", "encoded views (millions)"),
    ):
        scale = 1e-6 if key == "encoded_views" else 1
        for name in ("linear", "knn"):
            points = [(r[key] * scale, 100 * r[name]) for r in probes if name in r]
            if points:
                axis.plot(*np.transpose(points), marker="o", markersize=3, label=f"{name} probe")
        axis.set(
            xlabel=label, ylabel="validation accuracy (%)", title="probes on the validation split"
        )
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(
                fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False
            )
        else:
            axis.text(0.5, 0.5, "no records", ha="center", transform=axis.transAxes)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all. Raises InputError if it cannot be written."""
    figure.tight_layout()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")

"""Pictures of a run: sample views, curves, and two backbones compared layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def save_views(path: Path, whole: Tensor, views: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """A row per image: the clean view [n, 3, h, w], then the others [views, n, 3, h, w]; all normalised."""
    shown = torch.cat([whole[None], views]).float().cpu()
    shown = shown * shown.new_tensor(std)[:, None, None] + shown.new_tensor(mean)[:, None, None]
    rows, columns = len(whole), len(shown)
    figure, axes = plt.subplots(rows, columns, figsize=(1.1 * columns, 1.1 * rows + 0.3), squeeze=False)
    for i, row in enumerate(axes):
        for k, axis in enumerate(row):
            axis.imshow(shown[k, i].clamp(0, 1).permute(1, 2, 0).numpy())
        if i == 0:
            for k, axis in enumerate(row):
                axis.set_title("image" if k == 0 else f"view {k}", fontsize=8)
        for axis in row:
            axis.axis("off")
    _save(figure, path)


def save_curves(path: Path, records: list[dict[str, Any]], title: str) -> None:
    """Loss terms against steps, and probe accuracy against seconds and encoded views, from a run's records."""
    train = [r for r in records if r["kind"] == "train"]
    probes = [r for r in records if r["kind"] == "probe"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6))
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
        axis.set(xlabel=label, ylabel="validation accuracy (%)", title="probes on the validation split")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, frameon=False)
        else:
            axis.text(0.5, 0.5, "no records", ha="center", transform=axis.transAxes)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def save_cka(
    path: Path, matrix: Tensor, names_a: Sequence[str], names_b: Sequence[str], *, axes: tuple[str, str] = ("", "")
) -> None:
    """CKA of every layer of one backbone, a row each from the bottom up, with every layer of another, [rows, columns];
    see spectrum.cka_matrix. axes: what the two are called."""
    rows, columns = len(names_a), len(names_b)
    figure, axis = plt.subplots(figsize=(1.8 + 0.5 * columns, 1.4 + 0.5 * rows))
    shown = axis.imshow(matrix.cpu().numpy(), origin="lower", vmin=0, vmax=1, cmap="magma")
    for i in range(rows):
        for j in range(columns):
            value = float(matrix[i, j])
            shade = "black" if value > 0.6 else "white"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
    axis.set_xticks(range(columns), names_b, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(rows), names_a, fontsize=8)
    axis.set(ylabel=axes[0], xlabel=axes[1])
    figure.colorbar(shown, ax=axis, label="linear CKA, unbiased", fraction=0.046)
    _save(figure, path)


def save_evaluation(
    path: Path,
    confusion: list[list[int]],
    classes: list[str],
    rows: dict[str, dict[str, Any]],
    *,
    title: str,
    averaged_views: int,
    few_labels: int,
) -> None:
    """The confusion matrix [classes, classes] of the first row's linear probe, and the accuracies of all `rows`
    (numbers by name, as protocols.py gives them) by protocol with their intervals."""
    protocols = {
        "linear": "linear",
        "averaged": f"linear, {averaged_views} views",
        "knn": "kNN",
        "few_labels": f"linear,\n{few_labels} labels a class",
        "corrupted": "linear,\ncorrupted images",
    }
    shown = [name for name in protocols if any(name in row for row in rows.values())]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), width_ratios=[1, 1.2])
    counts = np.asarray(confusion, dtype=float)
    left.imshow(100 * counts / counts.sum(1, keepdims=True).clip(min=1), cmap="Blues", vmin=0, vmax=100)
    left.set(xlabel="predicted", ylabel="class", title=f"{next(iter(rows))}: linear probe, % of each class")
    if len(classes) <= 20:
        left.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
        left.set_yticks(range(len(classes)), classes, fontsize=8)
        for (i, j), share in np.ndenumerate(100 * counts / counts.sum(1, keepdims=True).clip(min=1)):
            if share >= 0.5:
                left.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color="w" if share > 60 else "k")
    width = 0.8 / len(rows)
    for i, (row, numbers) in enumerate(rows.items()):
        at = [x + (i - (len(rows) - 1) / 2) * width for x, name in enumerate(shown) if name in numbers]
        values = [100 * numbers[name] for name in shown if name in numbers]
        errors = np.transpose([_errors(numbers, name) for name in shown if name in numbers])
        right.bar(at, values, width, yerr=errors, label=row, capsize=2, error_kw={"linewidth": 1})
    right.set_xticks(range(len(shown)), [protocols[name] for name in shown], fontsize=8)
    right.set(ylabel="accuracy (%)", ylim=(0, 100), title="95% intervals over images; few labels: +- std over draws")
    right.grid(axis="y", alpha=0.3)
    right.set_axisbelow(True)
    right.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _errors(numbers: dict[str, Any], name: str) -> tuple[float, float]:
    """In points, below and above."""
    if f"{name}_std" in numbers:
        return 100 * numbers[f"{name}_std"], 100 * numbers[f"{name}_std"]
    value = numbers[name]
    return 100 * (value - numbers.get(f"{name}_low", value)), 100 * (numbers.get(f"{name}_high", value) - value)


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    temporary = path.with_suffix(".tmp")
    try:
        figure.savefig(temporary, dpi=130, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)

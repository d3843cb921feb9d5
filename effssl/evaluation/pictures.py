"""Pictures of an evaluation: accuracies, the confusion matrix, and two backbones layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from effssl.run.pictures import save


def save_cka(
    path: Path,
    matrix: Tensor,
    row_layers: Sequence[str],
    column_layers: Sequence[str],
    *,
    backbones: tuple[str, str],
) -> None:
    """Show how alike the layers of two backbones are.

    matrix: [rows, columns] of cka.cka_matrix. The rows, from the bottom up, are the layers of the
    first of `backbones`, the columns those of the second.
    """
    rows, columns = matrix.shape
    figure = Figure(figsize=(1.8 + 0.5 * columns, 1.4 + 0.5 * rows))
    axis = figure.subplots()
    image = axis.imshow(matrix.cpu().numpy(), origin="lower", vmin=0, vmax=1, cmap="magma")
    for i in range(rows):
        for j in range(columns):
            value = float(matrix[i, j])
            shade = "black" if value > 0.6 else "white"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
    axis.set_xticks(range(columns), column_layers, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(rows), row_layers, fontsize=8)
    axis.set(ylabel=backbones[0], xlabel=backbones[1])
    figure.colorbar(image, ax=axis, label="linear CKA, unbiased", fraction=0.046)
    save(figure, path)


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
    """Show what an evaluation says at a glance.

    On the left is the confusion matrix [classes, classes] of the first row's linear probe; on the
    right are the accuracies of all `rows` (numbers by name, as protocols.py gives them) by
    protocol, with their intervals. averaged_views and few_labels are named in the labels.
    """
    labels = {
        "linear": "linear",
        "averaged/authors": f"linear,\nauthors' {averaged_views} views",
        "averaged/crops": f"linear,\n{averaged_views} crops",
        "knn": "kNN",
        "few_labels": f"linear,\n{few_labels} labels a class",
        "corrupted": "linear,\ncorrupted images",
    }
    shown = {k: text for k, text in labels.items() if any(k in row for row in rows.values())}
    figure = Figure(figsize=(13, 5.6))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    _draw_confusion(left, np.asarray(confusion, dtype=float), classes, next(iter(rows)))
    _draw_accuracies(right, rows, shown)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _draw_confusion(axis: Axes, counts: np.ndarray, classes: list[str], row: str) -> None:
    percent = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    axis.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    title = f"{row}: linear probe, % of each class"
    axis.set(xlabel="predicted", ylabel="class", title=title)
    if len(classes) > 20:  # their names and numbers would overlap
        return
    axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    for (i, j), share in np.ndenumerate(percent):
        if share >= 0.5:
            shade = "w" if share > 60 else "k"
            axis.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color=shade)


def _draw_accuracies(axis: Axes, rows: dict[str, dict[str, Any]], shown: dict[str, str]) -> None:
    """Draw a group of bars for each protocol `shown`, which are labels by name: a bar a row."""
    width = 0.8 / len(rows)
    for i, (row, numbers) in enumerate(rows.items()):
        offset = (i - (len(rows) - 1) / 2) * width
        names = [name for name in shown if name in numbers]
        axis.bar(
            [x + offset for x, name in enumerate(shown) if name in numbers],
            [100 * numbers[name] for name in names],
            width,
            yerr=np.transpose([_errors(numbers, name) for name in names]),
            label=row,
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axis.set_xticks(range(len(shown)), list(shown.values()), fontsize=8)
    title = "95% intervals over images; few labels: +- std over draws"
    axis.set(ylabel="accuracy (%)", ylim=(0, 100), title=title)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4)


def _errors(numbers: dict[str, Any], name: str) -> tuple[float, float]:
    """Return how far the interval reaches below and above an accuracy, in points."""
    if f"{name}_std" in numbers:
        return 100 * numbers[f"{name}_std"], 100 * numbers[f"{name}_std"]
    value = numbers[name]
    low, high = numbers.get(f"{name}_low", value), numbers.get(f"{name}_high", value)
    return 100 * (value - low), 100 * (high - value)

"""Pictures of an evaluation: accuracies, the confusion matrix, and two backbones layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from effssl.run.pictures import save


def save_cka(
    path: Path, matrix: Tensor, names_a: Sequence[str], names_b: Sequence[str], *, axes: tuple[str, str] = ("", "")
) -> None:
    """CKA of every layer of one backbone, a row each from the bottom up, with every layer of another, [rows, columns];
    see spectrum.cka_matrix. axes: what the two are called."""
    rows, columns = len(names_a), len(names_b)
    figure = Figure(figsize=(1.8 + 0.5 * columns, 1.4 + 0.5 * rows))
    axis = figure.subplots()
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
    figure = Figure(figsize=(13, 5.6))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
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
    save(figure, path)


def _errors(numbers: dict[str, Any], name: str) -> tuple[float, float]:
    """In points, below and above."""
    if f"{name}_std" in numbers:
        return 100 * numbers[f"{name}_std"], 100 * numbers[f"{name}_std"]
    value = numbers[name]
    return 100 * (value - numbers.get(f"{name}_low", value)), 100 * (numbers.get(f"{name}_high", value) - value)

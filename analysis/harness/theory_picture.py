"""The picture of theory.py: predictions as lines, measurements as points."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.harness.plots import COLOURS


def picture(
    spans: pd.DataFrame, estimates: pd.DataFrame, ranks: pd.DataFrame, batch: int
) -> Figure:
    """Draw the rows of the three tables. batch: images of a step in `spans`."""
    figure = Figure(figsize=(11, 9.5))
    ((left, right), below) = figure.subplots(2, 2)
    _draw_spans(left, spans, batch)
    _draw_estimates(right, estimates)
    for axis, (loss, own) in zip(below, ranks.groupby("loss", sort=False), strict=True):
        _draw_ranks(axis, str(loss), own)
    for axis in (left, right, *below):
        axis.grid(alpha=0.3)
        axis.xaxis.set_minor_locator(NullLocator())
        look: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
        columns = 2 if axis in (left, right) else 3
        axis.legend(fontsize=8, ncols=columns, frameon=False, **look)
    figure.tight_layout()
    return figure


def _draw_spans(axis: Axes, spans: pd.DataFrame, batch: int) -> None:
    lines = spans.groupby(["loss", "views"], sort=False)
    for colour, ((loss, views), own) in zip(COLOURS, lines, strict=False):
        mean = own.groupby("step")["span_error"].mean()
        axis.plot(mean.index, mean, color=colour, label=f"{loss}, K = {views}")
    axis.set(xlabel=f"steps of {batch} images", ylabel="mean squared sine of angles", yscale="log")
    title = "1. the learned span nears the top eigenfunctions (predicted: 0)"
    axis.set_title(title, fontsize=10)


def _draw_estimates(axis: Axes, estimates: pd.DataFrame) -> None:
    lines = estimates.groupby(["eigenfunctions", "at"], sort=False)
    for colour, ((count, at), own) in zip(COLOURS, lines, strict=False):
        label = f"{count} eigenfunctions, {at}"
        axis.plot(own["views"], own["predicted"], color=colour, label=label)
        bars = 2 * own["standard_error"]
        axis.errorbar(own["views"], own["measured"], bars, color=colour, fmt="o", markersize=4)
    axis.set(xlabel="views K", ylabel="squared error / |T|$^2$", xscale="log", yscale="log")
    axis.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
    title = "2. estimate of the kernel: predicted (lines), measured (points)"
    axis.set_title(title, fontsize=10)


def _draw_ranks(axis: Axes, loss: str, ranks: pd.DataFrame) -> None:
    products = sorted(ranks["w d"].unique())
    for colour, (dim, own) in zip(COLOURS, ranks.groupby("d", sort=False), strict=False):
        axis.plot(own["w d"], own["predicted"], color=colour, label=f"d = {dim}")
        axis.plot(own["w d"], own["learned"], "o", color=colour)
    axis.set(xlabel="w d", ylabel="effective rank of z", xscale="log")
    axis.set_xticks(products, [f"{product:g}" for product in products])
    axis.set_title(f"3. {loss}: predicted (lines), learned (points)", fontsize=10)

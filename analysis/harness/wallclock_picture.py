"""The picture of wallclock.py: accuracy by seconds, times faster and of what parts, and where the
time of a step goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.harness import plots
from analysis.harness.speedups import Speedup
from analysis.harness.stats import estimate

_ORDER = (3, 1, 0, 2, 4, 5, 6)  # of the colours: K has its own, the baseline another


def picture(
    curves: Mapping[str, Sequence[pd.DataFrame]],
    ratios: Sequence[tuple[str, Speedup]],
    parts: Sequence[tuple[str, Speedup]],
    steps: Mapping[str, Mapping[str, float]],
    factor: float,
) -> Figure:
    """Draw the four panels.

    curves: recipe -> the rows of its lengths, the baseline first. ratios: label and speedup of each
    comparison. parts: name and speedup of each part of the ratio, the last the whole; none if they
    are not known. steps: recipe -> milliseconds of each part of a step, and its encoded views.
    """
    figure = Figure(figsize=(10, 9.5 if parts else 7))
    grid = figure.add_gridspec(
        3 if parts else 2, 2, height_ratios=(1.25, 1, 0.8)[: 2 + bool(parts)]
    )
    _draw_curves(figure.add_subplot(grid[0, :]), curves)
    _draw_ratios(figure.add_subplot(grid[1, 0]), ratios, factor)
    _draw_steps(figure.add_subplot(grid[1, 1]), steps)
    if parts:
        _draw_parts(figure.add_subplot(grid[2, :]), parts)
    figure.tight_layout()
    return figure


def _draw_curves(axis: Axes, curves: Mapping[str, Sequence[pd.DataFrame]]) -> None:
    for i, (name, lengths) in enumerate(curves.items()):
        look = plots.style(_ORDER[i % len(_ORDER)])
        points = [(own["seconds"], 100 * own["linear"]) for own in lengths]
        plots.draw(axis, points, **look, label=name)
        target = estimate(100 * lengths[-1]["linear"])
        if i == 0 and target:
            axis.axhline(target.mean, color=look["color"], linestyle=":", linewidth=1)
    axis.set(xlabel="training seconds", ylabel=plots.ACCURACY)
    plots.few_log_ticks(axis)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def _draw_ratios(axis: Axes, ratios: Sequence[tuple[str, Speedup]], factor: float) -> None:
    plots.forest(axis, [(label, faster.log2_ratio) for label, faster in ratios])
    low, high = axis.get_xlim()
    powers = range(math.floor(low), math.ceil(high) + 1)
    axis.set_xticks(list(powers), [f"{2.0**power:g}" for power in powers])
    axis.axvline(math.log2(factor), color="0.5", linewidth=1, linestyle=":")
    axis.set_xlabel("times faster (dotted: the claim), 95% interval")


def _draw_parts(axis: Axes, parts: Sequence[tuple[str, Speedup]]) -> None:
    """Each part begins where the one before it ends, by the mean over seeds."""
    end = 0.0
    for i, (_, times) in enumerate(parts):
        assert times.log2_ratio is not None
        begin, long = (0.0 if i == len(parts) - 1 else end), times.log2_ratio.mean
        colour = plots.COLOURS[_ORDER[1 if i == len(parts) - 1 else 2]]
        axis.barh(i, long, left=begin, color=colour, height=0.6)
        bound = " or ".join(sorted(times.bounds))
        axis.annotate(
            f"{2**long:.2f}{f' ({bound})' if bound else ''}",
            (max(begin, begin + long), i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        end = begin + long
    axis.set_yticks(range(len(parts)), [name for name, _ in parts], fontsize=8)
    axis.invert_yaxis()
    axis.xaxis.set_major_formatter(lambda power, _: f"{2**power:.2f}")
    axis.margins(x=0.2)
    axis.set_xlabel(
        "times faster by step cost: parts that multiply out to the whole, means over seeds"
    )


def _draw_steps(axis: Axes, steps: Mapping[str, Mapping[str, float]]) -> None:
    left = [0.0] * len(steps)
    parts = [part for part in next(iter(steps.values())) if part != "encoded_views"]
    for i, part in enumerate(parts):
        width = [1000 * cost[part] / cost["encoded_views"] for cost in steps.values()]
        axis.barh(range(len(steps)), width, left=left, color=plots.COLOURS[i], label=part)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axis.set_yticks(range(len(steps)), list(steps), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("ms for 1,000 encoded views")
    axis.yaxis.set_minor_locator(NullLocator())
    below = (1.02, -0.2)
    axis.legend(loc="upper right", bbox_to_anchor=below, ncols=3, frameon=False, fontsize=8)


def label(name: str, other: str, faster: Speedup) -> str:
    """Return a comparison in a few words, for the picture."""
    bounds = " or ".join(sorted(faster.bounds))
    return f"{name}\nagainst {other.partition(':')[0]}{f' ({bounds})' if bounds else ''}"

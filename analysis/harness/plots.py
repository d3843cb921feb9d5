"""Style of the pictures: colours that the colour-blind tell apart, error bars over seeds, ticks that can be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from intervals import Estimate, estimate
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

Point = tuple[Iterable[float], Iterable[float]]  # x and y, by seed

# Okabe and Ito's colours, which the colour-blind tell apart; markers say the same again.
STYLES = {2: ("#D55E00", "s"), 4: ("#0072B2", "o"), 8: ("#009E73", "^")}
OTHERS = (("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#000000", "X"))
ACCURACY = "linear probe, validation (%)"


def style(index: int) -> dict[str, Any]:
    """The index-th of the colours and markers."""
    colour, marker = (*STYLES.values(), *OTHERS)[index % 7]
    return {"color": colour, "marker": marker, "markersize": 5, "capsize": 3, "linewidth": 1.3}


def style_of_views(views: int) -> dict[str, Any]:
    """A colour and marker for K, the same in all pictures."""
    return style(list(STYLES).index(views) if views in STYLES else 3)


def draw(axis: Axes, points: Iterable[Point], *, apart: float = 1.0, **how: Any) -> None:
    """A line of means over seeds with standard deviations as bars, both ways. apart: factor on x that moves bars off
    those of other lines."""
    pairs = [(estimate(x), estimate(y)) for x, y in points]
    known = sorted((x, y) for x, y in pairs if x is not None and y is not None)
    if not known:
        return
    dx, dy = ([0.0 if math.isnan(e.std) else e.std for e in side] for side in zip(*known, strict=True))
    at = [apart * x.mean for x, _ in known]
    axis.errorbar(at, [y.mean for _, y in known], dy, dx if any(dx) else None, **how)


def apart(index: int, count: int) -> float:
    """The factor for one of `count` lines on a logarithmic axis: 2% from line to line."""
    return 1.02 ** (index - (count - 1) / 2)


def forest(axis: Axes, questions: Sequence[tuple[str, Estimate | None]], *, zero: float = 0.0) -> None:
    """Means with 95% intervals, a line each from above; a line at `zero`."""
    axis.axvline(zero, color="0.5", linewidth=1, linestyle="--")
    for i, (_, found) in enumerate(questions):
        if found is not None:
            half = found.half if math.isfinite(found.half) else None
            axis.errorbar([found.mean], [-i], xerr=half, **style(1), linestyle="")
    axis.set_yticks([-i for i in range(len(questions))], [text for text, _ in questions], fontsize=8)
    axis.set_ylim(-len(questions) + 0.4, 0.6)
    axis.grid(alpha=0.3, axis="x")


def plain_log(axis: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with these ticks and no others."""
    axis.set_xscale("log")
    axis.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def few_log_ticks(axis: Axes) -> None:
    """A logarithmic x axis with a few plain numbers: 1, 2, 3, 5 and 7 times powers of ten, or 1, 2 and 5, or 1."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
        if len(ticks) <= 6:
            break
    plain_log(axis, ticks)
    axis.set_xlim(low, high)


def legend_below(figure: Figure, axis: Axes) -> None:
    """One legend under all panels, of one panel's lines."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="lower center", ncols=min(4, len(labels)), frameon=False, fontsize=9)

"""Style of the pictures: colours that the colour-blind tell apart, error bars over seeds, plain
ticks."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from analysis.harness.stats import Estimate, estimate
from effssl.run.files import atomic

Point = tuple[Iterable[float], Iterable[float]]  # x and y, by seed

# Okabe and Ito's colours, which the colour-blind tell apart; markers say the same again.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("s", "o", "^", "D", "v", "P", "X")
_STYLE_OF_VIEWS = {2: 0, 4: 1, 8: 2}
ACCURACY = "linear probe, validation (%)"


def style(index: int) -> dict[str, Any]:
    """Return the index-th of the colours and markers, for an error bar."""
    at = index % len(COLOURS)
    look = {"color": COLOURS[at], "marker": _MARKERS[at]}
    return {**look, "markersize": 5, "capsize": 3, "linewidth": 1.3}


def style_of_views(views: int) -> dict[str, Any]:
    """Return a colour and marker for K, the same in all pictures."""
    return style(_STYLE_OF_VIEWS.get(views, 3))


def draw(axis: Axes, points: Iterable[Point], *, apart: float = 1.0, **look: Any) -> None:
    """Draw a line of means over seeds with standard deviations as bars, both ways. apart: factor on
    x that moves bars off those of other lines."""
    pairs = [(estimate(x), estimate(y)) for x, y in points]
    known = sorted((x, y) for x, y in pairs if x is not None and y is not None)
    if not known:
        return
    dx, dy = (
        [0.0 if math.isnan(e.std) else e.std for e in side] for side in zip(*known, strict=True)
    )
    at = [apart * x.mean for x, _ in known]
    axis.errorbar(at, [y.mean for _, y in known], dy, dx if any(dx) else None, **look)


def apart(index: int, count: int) -> float:
    """Return the factor for one of `count` lines on a logarithmic axis: 2% from line to line."""
    return 1.02 ** (index - (count - 1) / 2)


def forest(axis: Axes, lines: Sequence[tuple[str, Estimate | None]]) -> None:
    """Draw means with 95% intervals, a labelled line each from above, beside a line at 0."""
    axis.axvline(0, color="0.5", linewidth=1, linestyle="--")
    for i, (_, mean) in enumerate(lines):
        if mean is not None:
            half = mean.half if math.isfinite(mean.half) else None
            axis.errorbar([mean.mean], [-i], xerr=half, **style(1), linestyle="")
    axis.set_yticks([-i for i in range(len(lines))], [label for label, _ in lines], fontsize=8)
    axis.set_ylim(-len(lines) + 0.4, 0.6)
    axis.grid(alpha=0.3, axis="x")


def plain_log(axis: Axes, ticks: Sequence[float]) -> None:
    """Make x logarithmic, with these ticks and no others."""
    axis.set_xscale("log")
    axis.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def few_log_ticks(axis: Axes) -> None:
    """Make x logarithmic with a few plain numbers: 1, 2, 3, 5 and 7 times powers of ten, or 1, 2
    and 5, or 1."""
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
    """Put one legend under all panels, of one panel's lines."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        columns = min(4, len(labels))
        figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=9)


def write_picture(path: Path, figure: Figure, *, dpi: int = 200, palette: bool = False) -> None:
    """Write a .png, whole or not at all; with a palette of 256 colours, which takes a quarter of
    the space. Raises InputError if it cannot be written."""
    with atomic(path) as temporary:
        if palette:
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=dpi)
            coloured = Image.open(drawn).convert("RGB")
            few = coloured.quantize(256, Image.Quantize.MAXCOVERAGE)
            few.save(temporary, "png", optimize=True)
        else:
            figure.savefig(temporary, format="png", dpi=dpi)

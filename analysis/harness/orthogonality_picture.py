"""The picture of orthogonality.py: correlations, eigenspectra, their course through training, and
all by width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.harness.orthogonality_measures import Measured
from analysis.harness.plots import ACCURACY, COLOURS

MAX_MAPS = 6  # recipes whose correlations are shown
FIRST, LAST = 4, 100  # ranks of the fit, as the defaults of spectrum.decay_exponent
NAMES = {
    "effective_rank": "effective rank",
    "off_diagonal": "off-diagonal energy",
    "alpha": "alpha",
    "lidar": "LiDAR",
    "linear": ACCURACY,
}
LINES: dict[str, Any] = {"z": "-", "h": ":"}
UNTRAINED = "0.55"


def fitted(eigenvalues: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks and eigenvalues on the line of slope -alpha on log-log axes that decay_exponent
    fitted: least squares with weight 1 / rank, so through the weighted mean."""
    rank = np.arange(FIRST, min(LAST, len(eigenvalues)) + 1)
    log_rank, log_value = np.log(rank), np.log(eigenvalues[FIRST - 1 : rank[-1]])
    level = np.average(log_value, weights=1 / rank) + alpha * np.average(log_rank, weights=1 / rank)
    return rank, np.exp(level - alpha * log_rank)


def picture(measured: Sequence[Measured]) -> Figure:
    """Draw it. Correlations and spectra are of the first run of each recipe, all else of every
    run."""
    firsts = list({each.recipe: each for each in reversed(measured)}.values())[::-1]
    trained = [each for each in firsts if each.row["method"]]
    colours = {
        each.recipe: _colour(trained, each) if each.row["method"] else UNTRAINED for each in firsts
    }
    mapped = trained[:MAX_MAPS]
    is_small = len(mapped) <= 2
    lines, columns = (1, 2 * len(mapped)) if is_small else (2, len(mapped))
    height = lines * 13 / max(columns, 4)
    figure = Figure(figsize=(13, 10.6 + height), layout="constrained")
    rows: Any = figure.subfigures(4, 1, height_ratios=[height, 3.6, 3, 3])
    maps, spectra, course, widths = rows
    _draw_maps(maps, mapped, len(trained), lines, columns)
    _draw_spectra(spectra, firsts, colours)
    _draw_course(course, measured, colours)
    _draw_widths(widths, measured, colours)
    _draw_legend(figure, colours)
    return figure


def _draw_legend(figure: Figure, colours: dict[str, Any]) -> None:
    handles = [
        Line2D([], [], color=colour, marker="o", label=recipe) for recipe, colour in colours.items()
    ]
    for of, line in LINES.items():
        look: dict[str, Any] = {"color": "black", "linestyle": line, "marker": "o"}
        face = "black" if of == "z" else "white"
        handles.append(Line2D([], [], **look, markerfacecolor=face, label=of))
    below: dict[str, Any] = {"loc": "outside lower center", "fontsize": 9, "frameon": False}
    figure.legend(handles=handles, ncols=min(4, len(handles)), **below)


def _colour(trained: list[Measured], each: Measured) -> Any:
    if len(trained) <= len(COLOURS):
        return COLOURS[trained.index(each)]
    return mpl.colormaps["viridis"](trained.index(each) / len(trained))


def _draw_maps(figure: Any, mapped: list[Measured], of_all: int, lines: int, columns: int) -> None:
    shown = [(of, each) for of in ("z", "h") for each in mapped]
    axes = figure.subplots(lines, columns, squeeze=False)
    image = None
    for axis, (of, each) in zip(axes.flat, shown, strict=True):
        if of not in each.correlation:
            axis.set_axis_off()
            continue
        c, dim = each.correlation[of], each.dims[of]
        image = axis.imshow(c, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        cut = f"first {len(c)} of {dim}" if len(c) < dim else f"{dim}"
        axis.set_title(f"{each.recipe}\n{of}: {cut} dimensions", fontsize=8)
        axis.set(xticks=[], yticks=[])
    if image is not None:
        figure.colorbar(image, ax=axes, label="correlation", fraction=0.02, pad=0.01)
    left_out = f" (of the first {len(mapped)} of {of_all} recipes)" if len(mapped) < of_all else ""
    figure.suptitle(f"correlations of dimensions, in order{left_out}", fontsize=11)


def _draw_spectra(figure: Any, firsts: list[Measured], colours: dict[str, Any]) -> None:
    axes = figure.subplots(1, 2)
    for axis, of in zip(axes, ("z", "h"), strict=True):
        for each in firsts:
            if of not in each.eigenvalues:
                continue
            values, alpha = each.eigenvalues[of], each.row[f"{of}/alpha"]
            share = values / values.sum()
            label = None if alpha == "" else f"alpha {alpha:.2f}"
            axis.plot(np.arange(1, len(share) + 1), share, color=colours[each.recipe], label=label)
            if alpha != "":
                axis.plot(*fitted(share, alpha), "--", color=colours[each.recipe], linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel="rank", ylabel="share of the variance")
        axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-9))
        axis.set_title(
            f"eigenvalues of the covariance of {of}; dashed: fit over ranks {FIRST} to {LAST}",
            fontsize=10,
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


def _draw_course(figure: Any, measured: Sequence[Measured], colours: dict[str, Any]) -> None:
    figure.suptitle("through training", fontsize=11)
    for axis, name in zip(
        figure.subplots(1, 4), ("effective_rank", "off_diagonal", "alpha", "linear"), strict=True
    ):
        for each in measured:
            for key, style in (
                [("linear", "-")]
                if name == "linear"
                else [(f"{of}/{name}", LINES[of]) for of in LINES]
            ):
                known = [record for record in each.course if key in record]
                x = [record["encoded_views"] / 1000 for record in known]
                y = [record[key] * (100 if name == "linear" else 1) for record in known]
                axis.plot(
                    x, y, style, marker=".", markersize=4, color=colours[each.recipe], linewidth=1.2
                )
        axis.set(xlabel="encoded views (thousands)", ylabel=NAMES[name])
        axis.grid(alpha=0.3)


def _draw_widths(figure: Any, measured: Sequence[Measured], colours: dict[str, Any]) -> None:
    """Against the projector's width; of one width alone, the recipes side by side."""
    widths = sorted({each.row["dim"] for each in measured})
    several = len(widths) > 1
    figure.suptitle(
        "by the projector's width d" if several else f"by recipe, at d = {widths[0]}", fontsize=11
    )
    recipes = list(colours)
    for axis, name in zip(
        figure.subplots(1, 4), ("linear", "effective_rank", "off_diagonal", "lidar"), strict=True
    ):
        for of in ("z",) if name == "linear" else LINES:
            key = name if name == "linear" else f"{of}/{name}"
            means: dict[str, list[tuple[float, float]]] = {}
            for i, recipe in enumerate(recipes):
                own = [
                    each.row for each in measured if each.recipe == recipe and each.row[key] != ""
                ]
                if not own:
                    continue
                x = own[0]["dim"] if several else i
                y = [row[key] * (100 if name == "linear" else 1) for row in own]
                axis.plot([x] * len(y), y, "_", color=colours[recipe], markersize=9)
                full = {"markerfacecolor": colours[recipe] if of == "z" else "white"}
                axis.plot(x, np.mean(y), "o", color=colours[recipe], markersize=6, **full)
                if not several:
                    digits = {"off_diagonal": 3}.get(name, 1)
                    at = {
                        "xytext": (7, 0),
                        "textcoords": "offset points",
                        "va": "center",
                        "fontsize": 8,
                    }
                    axis.annotate(f"{np.mean(y):.{digits}f}", (x, np.mean(y)), **at)
                means.setdefault(recipe.replace(f"d = {own[0]['dim']}", ""), []).append(
                    (x, float(np.mean(y)))
                )
            for line in means.values():
                axis.plot(
                    *np.transpose(sorted(line)), LINES[of], color="0.7", linewidth=1, zorder=0
                )
        axis.set(ylabel=NAMES[name])
        if several:
            axis.set(xlabel="d", xscale="log")
            axis.set_xticks(widths, [str(width) for width in widths])
            axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        else:
            axis.set(xticks=[], xlim=(-0.5, len(recipes) - 0.2))
        axis.grid(alpha=0.3)

"""Table and picture of the benchmark of losses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from analysis.harness import runs
from analysis.harness.plots import COLOURS, write_picture
from analysis.harness.tables import markdown, write_csv
from effssl.run.files import write_text
from effssl.run.provenance import machine

Rows = dict[tuple[str, int, int, int], dict[str, Any]]  # by loss, loop, views, dim


def report(rows: list[dict[str, Any]], device: torch.device, out: Path) -> None:
    """Write losses_cost.csv, summary.md and losses_cost.png, and print the summary."""
    write_csv(out / "losses_cost.csv", rows)
    by_case: Rows = {(r["loss"], r["loop"], r["views"], r["dim"]): r for r in rows}
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    views, dims = (sorted({row[key] for row in rows}) for key in ("views", "dim"))
    few, many = views[0], rows[-1]["views"]
    ms = {key: row["both_ms"] for key, row in by_case.items()}
    shown = {key: f"{r['both_ms']:,g} ({r['forward_ms']:,g})" for key, r in by_case.items()}
    times = [
        {"loss": x, "K": k} | {f"d = {d}": shown[x, 0, k, d] for d in dims}
        for x, k in product(losses, views)
    ]
    growth = [
        {"loss": x} | {f"d = {d}": f"{ms[x, 0, many, d] / ms[x, 0, few, d]:.2f}" for d in dims}
        for x in losses
    ]
    loops = [
        _against_loop(by_case[x, 0, many, d], by_case[x, 1, many, d])
        for x, d in product(losses, dims)
    ]
    about = machine(device)
    text = (
        f"{runs.origin([about])}; {about['hardware']['threads']} threads\n\n"
        f"Milliseconds of forward and backward (forward alone), N = {rows[0]['batch']}:\n\n"
        f"{markdown(times)}\n"
        f"K = {many} over K = {few}, forward and backward; linear is {many / few:g}:\n\n"
        f"{markdown(growth)}\n"
        f"Against double loops at K = {many}, forward and backward; peak memory beyond z and its "
        f"gradient:\n\n{markdown(loops)}"
    )
    write_text(out / "summary.md", text)
    figure = _picture(by_case, losses, views, dims, many)
    write_picture(out / "losses_cost.png", figure, dpi=130)
    print(f"{text}\n{out / 'losses_cost.csv'}\n{out / 'losses_cost.png'}")


def _against_loop(ours: dict[str, Any], loop: dict[str, Any]) -> dict[str, Any]:
    line = {"loss": ours["loss"], "d": ours["dim"]}
    for key, unit in (("both_ms", "ms"), ("peak_mb", "MB")):
        line |= {unit: f"{ours[key]:,g}", f"loop, {unit}": f"{loop[key]:,g}"}
        line |= {f"ratio of {unit}": f"{loop[key] / ours[key]:.2f}"}
    return line | {"loop's calls": loop["calls"], "note": loop["note"] or ours["note"]}


def _picture(
    by_case: Rows, losses: Sequence[str], views: Sequence[int], dims: Sequence[int], many: int
) -> Figure:
    figure = Figure(figsize=(max(9, 4 * len(dims)), 4.2))
    axes = figure.subplots(1, len(dims), squeeze=False)[0]
    for axis, dim in zip(axes, dims, strict=True):
        for colour, loss in zip(COLOURS, losses, strict=False):
            ms = [by_case[loss, 0, k, dim]["both_ms"] for k in views]
            axis.plot(views, ms, "o-", markersize=4, color=colour, label=loss)
            linear = [ms[0] * k / views[0] for k in views]
            axis.plot(views, linear, "--", linewidth=0.9, color=colour)
            loop_ms = by_case[loss, 1, many, dim]["both_ms"]
            axis.plot(many, loop_ms, "X", markersize=8, color=colour)
        is_measured = any(row["both_ms"] > 0 for key, row in by_case.items() if key[-1] == dim)
        _decorate(axis, dim, views, "log" if is_measured else "linear")
    axis.plot([], [], "--", linewidth=0.9, color="gray", label=f"linear from K = {views[0]}")
    axis.plot([], [], "X", markersize=8, color="gray", label=f"double loop, K = {many}")
    below: dict[str, Any] = {"loc": "lower center", "fontsize": 9, "frameon": False}
    figure.legend(*axis.get_legend_handles_labels(), ncols=5, **below)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


def _decorate(axis: Axes, dim: int, views: Sequence[int], scale: str) -> None:
    axis.set(xscale="log", yscale=scale, title=f"d = {dim}")
    axis.set(xlabel="views K", ylabel="forward and backward (ms)")
    axis.set_xticks(views, [str(k) for k in views])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.yaxis.set_minor_formatter(LogFormatter())  # labels if there is less than a decade
    axis.grid(alpha=0.3)

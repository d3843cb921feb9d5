"""The tables and the picture of analysis/scaling.py."""

from __future__ import annotations

import argparse
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.harness.communication import Link
from analysis.harness.plots import plain_log, style
from analysis.harness.tables import markdown

_NAMES = {"gradients": "gradients", "loss": "loss", "batch_norm": "BatchNorm"}


def picture(rows: list[dict[str, Any]]) -> Figure:
    """Draw megabytes a step by the number of GPUs: gradients, and the loss of each recipe."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, recipe in enumerate(dict.fromkeys(row["recipe"] for row in rows)):
        own = [row for row in rows if row["recipe"] == recipe]
        gpus = [row["gpus"] for row in own]
        loss, gradients = ([row[f"{name}_mb"] for row in own] for name in ("loss", "gradients"))
        left.plot(gpus, loss, **_line(i), label=f"loss, {recipe}")
        left.plot(gpus, gradients, **_line(i), linestyle="--", label=f"gradients, {recipe}")
        right.plot(gpus, [row["all_ms"] for row in own], **_line(i), label=recipe)
    _label(left, rows, "MB that a GPU sends in a step")
    _label(right, rows, "ms of exchanges in a step (model)")
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    return figure


def _line(index: int) -> dict[str, Any]:
    return {k: v for k, v in style(index).items() if k != "capsize"}


def _label(axis: Axes, rows: list[dict[str, Any]], what: str) -> None:
    plain_log(axis, sorted({row["gpus"] for row in rows}))
    axis.set_xlabel("GPUs")
    axis.set_ylabel(what)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def summary(
    args: argparse.Namespace,
    counted: list[dict[str, Any]],
    fits: dict[str, Link],
    checks: list[dict[str, Any]],
    origin: str,
) -> str:
    """Return the tables in Markdown: what is counted and modelled, and what was measured."""
    table = [
        {
            "recipe": row["recipe"],
            "GPUs": row["gpus"],
            **{f"{name} (MB)": f"{row[f'{key}_mb']:,.1f}" for key, name in _NAMES.items()},
            "exchanges": sum(row[f"{key}_messages"] for key in _NAMES),
            **{f"{name} (ms)": f"{row[f'{key}_ms']:.1f}" for key, name in _NAMES.items()},
            "all (ms)": f"{row['all_ms']:.1f}",
        }
        for row in counted
    ]
    of_two = [
        {
            "recipe": row["recipe"],
            "images": row["images"],
            "exchanges": row["messages"],
            "MB": f"{row['mb']:.1f}",
            "loss (ms)": f"{row['loss_ms']:.1f}",
            "of it the exchange (ms)": f"{row['exchange_ms']:.1f}",
            "the fit says (ms)": f"{row['fit_ms']:.1f}",
        }
        for row in checks
    ]
    links = ", ".join(
        f"{name} {link.latency_s * 1e6:.0f} us + bytes / {link.bytes_per_s * 1e-9:.2f} GB/s"
        for name, link in fits.items()
    )
    assumed = f"{args.latency_us:g} us an exchange and {args.gb_per_s:g} GB/s a GPU"
    return (
        f"A step of {args.backbone} with {args.method}, {args.images_each} images a GPU at K = 2 "
        f"and as many encoded views at any K. MB are those that a GPU sends round a ring; ms are "
        f"the model's, with {assumed} assumed and nothing hidden:\n\n{markdown(table)}\n"
        f"Two processes on this machine: {links}.\n\n{markdown(of_two)}\n{origin}\n"
    )

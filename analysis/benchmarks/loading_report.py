"""Tables and picture of the benchmark of loading."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.benchmarks.turns import CONTENDERS, OURS
from analysis.harness import runs
from analysis.harness.plots import COLOURS, write_picture
from analysis.harness.tables import markdown, write_csv
from effssl.run.files import write_text
from effssl.run.provenance import machine

KINDS = {"crops": "crops alone", "all": "all augmentations"}


def report(
    rows: list[dict[str, Any]], shares: list[dict[str, Any]], device: torch.device, out: Path
) -> None:
    """Write throughput.csv, steps.csv, summary.md and throughput.png, and print the summary."""
    write_csv(out / "throughput.csv", rows)
    table = pd.DataFrame(rows)
    origin, workers = runs.origin([machine(device)]), rows[0]["workers"]
    parts = [f"{origin}; {workers} workers; {_versions()}\n"]
    for size, of_size in table.groupby("size", sort=False):
        parts += _parts_of_size(size, of_size)
    if shares:
        write_csv(out / "steps.csv", shares)
        parts += [
            "A ResNet-50 step: augmentation over encoding, and waiting over all of it:\n",
            markdown(shares),
        ]
    text = "\n".join(parts)
    write_text(out / "summary.md", text)
    write_picture(out / "throughput.png", _picture(table), dpi=130)
    print(f"{text}\n{out / 'throughput.csv'}\n{out / 'throughput.png'}")


def _parts_of_size(size: object, rows: pd.DataFrame) -> list[str]:
    alone, most = rows.iloc[0], rows.iloc[-1]
    parts = [
        f"{size} px: {alone['images']:,} images in batches of {alone['batch']} read and decoded "
        f"without views: {alone['images_per_s']:,.0f} images/s. Images/s of {most['images']:,} in "
        f"batches of {most['batch']} for each K, and in brackets effssl's over it:\n"
    ]
    for kind, words in KINDS.items():
        of_kind = rows[(rows["augmentations"] == kind) & (rows["views"] > 0)]
        lines = []
        for name, own in of_kind.groupby("loader", sort=False):
            line = {words: str(name)}
            for _, row in own.iterrows():
                over = "" if name == OURS else f" ({row['effssl_over_it']:.2f})"
                line[f"K = {row['views']}"] = f"{row['images_per_s']:,g}{over}"
            lines.append(line)
        parts.append(markdown(lines))
    return parts


def _versions() -> str:
    versions = []
    for package in ("torchvision", "ffcv", "pillow", "lightly"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(versions)


def _picture(table: pd.DataFrame) -> Figure:
    sizes = list(table["size"].unique())
    figure = Figure(figsize=(4.2 * len(sizes), 4.2))
    colours = dict(zip(CONTENDERS, COLOURS, strict=False))
    axes = figure.subplots(1, len(sizes), squeeze=False)[0]
    for axis, size in zip(axes, sizes, strict=True):
        rows = table[(table["size"] == size) & (table["views"] > 0)]
        for name, colour in colours.items():
            for kind, line in {"all": "o-", "crops": "o--"}.items():
                own = rows[(rows["loader"] == name) & (rows["augmentations"] == kind)]
                if not own.empty:
                    label = f"{name}, crops alone" if kind == "crops" else name
                    look = {"color": colour, "markersize": 4, "label": label}
                    axis.plot(own["views"], own["images_per_s"], line, **look)
        axis.set(
            xscale="log", yscale="log", title=f"{size} px", xlabel="views K", ylabel="images/s"
        )
        views = sorted(rows["views"].unique())
        axis.set_xticks(views, [str(k) for k in views])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.grid(alpha=0.3, which="both")
    below: dict[str, Any] = {"loc": "lower center", "fontsize": 8, "frameon": False}
    figure.legend(*axis.get_legend_handles_labels(), ncols=4, **below)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    return figure

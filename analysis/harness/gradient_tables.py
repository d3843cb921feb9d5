"""What gradient_noise.py says of its rows: a table and a picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import plots, verdicts
from analysis.harness.stats import estimate, interval, mean_std
from analysis.harness.tables import markdown


def table(rows: pd.DataFrame) -> str:
    """Return a line for each time, K and number of images, those of as many views together."""
    lines = []
    for (at, views, images), own in verdicts.groups(
        rows.sort_values(["at", "encoded_views", "views"]), "at", "views", "images"
    ):
        lines.append(
            {
                "after": f"{at:.0%} of the steps",
                "K": views,
                "images": images,
                "encoded views": views * images,
                "noise over signal": _plain(own["to_signal"]),
                "variance, halvings less than K = 2": _halvings(rows, own),
                "cosine": mean_std(own["cosine"], "{:.3f}"),
            }
        )
    return markdown(lines)


def _plain(ratios: pd.Series) -> str:
    return mean_std(ratios, "{:.2f}") if np.isfinite(ratios).all() else "no signal in a seed"


def _halvings(rows: pd.DataFrame, own: pd.DataFrame) -> str:
    """Return how many times the variance halves from K = 2 of as many encoded views, with Student's
    interval over seeds."""
    at, count = own["at"].iloc[0], own["encoded_views"].iloc[0]
    two = verdicts.only(rows, at=at, encoded_views=count, views=rows["views"].min())
    both = verdicts.pairs(two, own, "variance")
    less = estimate(np.log2(both["ours"] / both["others"]))
    if less is None or own["views"].iloc[0] == rows["views"].min():
        return ""
    return f"{less.mean:+.2f}" + f" ({interval(less, '{:+.2f}')})" * (less.n > 1)


def picture(rows: pd.DataFrame) -> Figure:
    """Draw the variance, in doublings from that of K = 2 at the most views, and the cosine against
    the encoded views of a batch, for each time and K."""
    rows = rows.assign(doublings=_doublings(rows))
    times = sorted(rows["at"].unique())
    figure = Figure(figsize=(3.6 * len(times), 6))
    grid = figure.subplots(2, len(times), sharey="row", sharex=True, squeeze=False)
    kinds = sorted(rows["views"].unique())
    for column, at in enumerate(times):
        for row, what in enumerate(("doublings", "cosine")):
            panel = grid[row][column]
            for i, k in enumerate(kinds):
                own = verdicts.only(rows, at=at, views=k)
                points = [
                    (each["encoded_views"], each[what])
                    for _, each in verdicts.groups(own, "encoded_views")
                ]
                look = plots.style_of_views(k) | {"apart": plots.apart(i, len(kinds))}
                plots.draw(panel, points, **look, label=f"K = {k}")
            plots.plain_log(panel, sorted(rows["encoded_views"].unique()))
            panel.grid(alpha=0.3)
        grid[0][column].set_title(f"after {at:.0%} of the steps")
        grid[1][column].set_xlabel("encoded views of a batch")
    grid[0][0].set_ylabel(f"variance of the gradient, doublings\nfrom K = {kinds[0]} at most views")
    grid[1][0].set_ylabel("cosine to the reference")
    plots.legend_below(figure, grid[0][0])
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def _doublings(rows: pd.DataFrame) -> list[float]:
    two = verdicts.only(rows, views=rows["views"].min(), encoded_views=rows["encoded_views"].max())
    base = two.set_index(["seed", "at"])["variance"]
    return [np.log2(row.variance / base[row.seed, row.at]) for row in rows.itertuples()]

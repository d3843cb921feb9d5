"""The rules for what supports the claims: theory, decorrelation rule, costs, single runs; each a
function whose docstring is the rule in words, as in claim_rules.py.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.harness.at_rule import at_rule, with_rule
from analysis.harness.methods import NAMES, RULES
from analysis.harness.rules import Rule, table_rule
from analysis.harness.tables import Missing, read_json
from analysis.harness.verdicts import (
    Part,
    differences,
    groups,
    only,
    over_seeds,
    pairs,
    plainly,
)


def orthogonality(rows: pd.DataFrame) -> list[Part]:
    """At one width, a decorrelation weight far below the rule's costs orthogonality and accuracy:
    of each method and width in orthogonality/runs.csv, at the rule's weight less at the smallest:
    linear accuracy above 0; and the off-diagonal energy of z at the smallest less at the rule's
    above 0."""
    parts = []
    for (method, dim), own in groups(with_rule(rows), "method", "dim"):
        least = own["weight"].min()
        right, wrong = at_rule(own), only(own, weight=least)
        if right.empty or right["weight"].iloc[0] == least:
            continue
        what = f"{NAMES[method]}, d = {dim:.0f}: the rule's weight beside {least * dim:.2g} / d"
        gain = differences(right, wrong, "linear", 100)
        parts.append(over_seeds(f"{what}: more accurate", gain))
        less = differences(wrong, right, "z/off_diagonal")
        says = f"{what}: z more orthogonal (off-diagonal energy falls)"
        parts.append(over_seeds(says, less, unit=""))
    if not parts:
        raise Missing("orthogonality/runs.csv has no width at two weights, one of them the rule's")
    return parts


def gradient_noise(rows: pd.DataFrame) -> list[Part]:
    """More views make less noise in the gradient at as many encoded views: in
    gradient_noise/runs.csv, at each time of training, the base-2 logarithm of the variance over
    batches at K = 2 by that at K = 4, and by that at K = 8, of as many encoded views, is above
    0."""
    parts = []
    as_many = only(rows, encoded_views=rows["encoded_views"].max())
    for (at,), own in groups(as_many, "at"):
        for k in (4, 8):
            both = pairs(only(own, views=2), only(own, views=k), "variance")
            halvings = np.log2(both["ours"] / both["others"])
            says = f"after {at:.0%} of the steps, K = {k}: less noise than K = 2"
            parts.append(over_seeds(says, halvings, unit="halvings"))
    return parts


def spans(rows: pd.DataFrame) -> list[Part]:
    """The losses find the eigenfunctions: in theory/spans.csv, the mean squared sine of the angles
    between the learned span and the top eigenfunctions is at most 0.01 after training with Barlow
    Twins and with VICReg; and with Barlow Twins its mean over training is smaller with K = 8 than
    with K = 2 at equal steps, in which K = 8 sees four times as many views."""
    last, parts = rows["step"].max(), []
    ours = rows[rows["loss"].str.startswith(("Barlow", "VICReg"))]
    for (loss, k), own in groups(ours, "loss", "views"):
        room = 0.01 - only(own, step=last)["span_error"]
        says = f"{loss}, K = {k:.0f}: below 0.01 after training"
        parts.append(over_seeds(says, room, unit="below 0.01"))
    two, eight = (only(rows, loss="Barlow Twins, all pairs", views=k) for k in (2, 8))
    if not two.empty and not eight.empty:
        sooner = differences(two, eight, "span_error")
        says = "Barlow Twins: sooner with K = 8 than with K = 2, at equal steps"
        parts.append(over_seeds(says, sooner, unit=""))
    return parts


def estimates(rows: pd.DataFrame) -> list[Part]:
    """More views estimate the kernel better: in theory/estimates.csv, every measured error lies
    within four standard errors of the one predicted, and at equal images it falls with every K."""
    off = ((rows["measured"] - rows["predicted"]).abs() / rows["standard_error"]).max()
    seen = f"at most {off:.1f} standard errors from it"
    parts = [plainly("the error is the one predicted", off <= 4, seen)]
    equal = only(rows, at="equal images").sort_values("views", kind="stable")
    for (count,), own in groups(equal, "eigenfunctions"):
        errors = list(own["measured"])
        falls = all(a > b for a, b in itertools.pairwise(errors))
        says = f"{count:.0f} eigenfunctions: it falls with every K at equal images"
        parts.append(plainly(says, falls, f"{errors[0]:.3g} to {errors[-1]:.3g}"))
    return parts


def ranks(rows: pd.DataFrame) -> list[Part]:
    """The effective rank follows w d: in theory/ranks.csv, the learned rank is within 10% of that
    of the loss's minimum in the median over all widths and weights, of each loss."""
    parts = []
    for (loss,), own in groups(rows, "loss"):
        off = (own["learned"] / own["predicted"] - 1).abs().median()
        says = f"{loss}: the learned rank is that of the minimum"
        parts.append(plainly(says, off <= 0.1, f"median off by {off:.1%}"))
    return parts


def weight_rule(rows: pd.DataFrame) -> list[Part]:
    """The best decorrelation weight falls as 1/d: in weight_rule/runs.csv, at every width of a
    method the w d with the best mean accuracy lies within a factor of 4 (a step of the grid) of the
    rule's. VICReg is judged at d > 1024 alone: its 40 / d was read off these very runs at d = 64,
    256 and 1024, which could not speak against it. The 3.4 / d of Barlow Twins was fitted to the
    weights that arXiv 2312.10725 found best."""
    parts = []
    ruled = rows[rows["method"].isin(list(RULES))]
    ruled = ruled[(ruled["method"] != "vicreg") | (ruled["dim"] > 1024)]
    for (method, dim), own in groups(ruled, "method", "dim"):
        means = own.groupby("product", sort=False)["linear"].mean()
        best = max(means.index, key=lambda product: means[product])
        near = 1 / 4.001 < best / RULES[method] < 4.001
        n = own["seed"].nunique()
        seeds = f"{n} seed{'s' * (n > 1)}"
        seen = f"best at w d = {best:g}, the rule's is {RULES[method]:g} ({seeds})"
        parts.append(plainly(f"{NAMES[method]}, d = {dim:.0f}", near, seen))
    return parts


def losses_cost(rows: pd.DataFrame) -> list[Part]:
    """K views cost little: in losses_cost/losses_cost.csv, of each loss at every d, forward and
    backward at K = 8 take at most 5 times those at K = 2 (linear is 4), and less time than the
    double loop over pairs of views."""
    parts = []
    for (loss,), own in groups(rows, "loss"):
        ms = own.set_index(["loop", "views", "dim"])["both_ms"]
        dims = sorted(own["dim"].unique())
        growth = [
            ms[0, 8, d] / ms[0, 2, d] for d in dims if {(0, 8, d), (0, 2, d)} <= set(ms.index)
        ]
        gains = [ms[1, 8, d] / ms[0, 8, d] for d in dims if {(0, 8, d), (1, 8, d)} <= set(ms.index)]
        for says, ratios, fine in (
            ("K = 8 over K = 2", growth, max(growth, default=9) <= 5),
            ("the double loop over it", gains, min(gains, default=0) > 1),
        ):
            if ratios:
                shown = ", ".join(f"{ratio:.3g}" for ratio in ratios)
                seen = f"{shown} at d = {', '.join(f'{d:.0f}' for d in dims)}"
                parts.append(plainly(f"{loss}: {says}", fine, seen))
    return parts


def throughput(rows: pd.DataFrame) -> list[Part]:
    """Views reach the encoder sooner than with other loaders: in throughput/throughput.csv, at
    every size and K the median ratio of images a second to each other loader's is above 1. What
    effssl does without FFCV is none."""
    parts = []
    others = rows[(rows["views"] > 0) & ~rows["loader"].str.startswith("effssl")]
    for (loader, size), own in groups(others, "loader", "size"):
        ratios = own["effssl_over_it"]
        seen = f"{ratios.min():.2g} to {ratios.max():.2g} times over {len(ratios)} settings"
        parts.append(plainly(f"beside {loader} at {size:.0f} px", ratios.min() > 1, seen))
    if not parts:
        raise Missing("throughput/throughput.csv has no other loader")
    return parts


def beats_baselines(rows: pd.DataFrame) -> list[Part]:
    """Pretraining beats the untrained backbone and the pixels: in result.json, on the reported
    split, by linear probe on all labels, on few labels and by kNN. One run: no interval."""
    parts = []
    for other, column in itertools.product(
        ("untrained", "pixels"), ("linear", "few_labels", "knn")
    ):
        ours, theirs = (100 * float(rows[column][row]) for row in ("trained", other))
        says = f"above {other}, {column.replace('_', ' ')}"
        parts.append(plainly(says, ours > theirs, f"{ours:.1f} beside {theirs:.1f}%"))
    return parts


def final_table(results: Path, folder: str) -> pd.DataFrame:
    """Return the final table in results/folder/result.json: a row for each backbone, a column for
    each protocol, accuracies in [0, 1]. Raises Missing."""
    file = results / folder / "result.json"
    if not file.is_file():
        raise Missing(f"{folder}/result.json is not there")
    rows = read_json(file)["final"]["rows"]
    if lacking := [row for row in ("trained", "untrained", "pixels") if row not in rows]:
        raise Missing(f"{folder}/result.json has no row {', '.join(lacking)}")
    return pd.DataFrame.from_dict(rows, orient="index")


ORTHOGONALITY = table_rule(
    orthogonality,
    "orthogonality/runs.csv",
    ("dim", "weight", "seed", "linear", "z/off_diagonal"),
    ("method",),
)
GRADIENT_NOISE = table_rule(
    gradient_noise,
    "gradient_noise/runs.csv",
    ("at", "views", "images", "encoded_views", "seed", "variance"),
)
SPANS = table_rule(spans, "theory/spans.csv", ("views", "seed", "step", "span_error"), ("loss",))
ESTIMATES = table_rule(
    estimates,
    "theory/estimates.csv",
    ("eigenfunctions", "views", "predicted", "measured", "standard_error"),
    ("at",),
)
RANKS = table_rule(ranks, "theory/ranks.csv", ("predicted", "learned"), ("loss",))
WEIGHT_RULE = table_rule(
    weight_rule, "weight_rule/runs.csv", ("dim", "product", "seed", "linear"), ("method",)
)
LOSSES_COST = table_rule(
    losses_cost, "losses_cost/losses_cost.csv", ("loop", "views", "dim", "both_ms"), ("loss",)
)
THROUGHPUT = table_rule(
    throughput, "throughput/throughput.csv", ("size", "views", "effssl_over_it"), ("loader",)
)
BEATS_BASELINES = {
    folder: Rule(functools.partial(final_table, folder=folder), beats_baselines)
    for folder in ("cifar10_cpu", "digits")
}

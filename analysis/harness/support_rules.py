"""The rules for what supports the claims: theory, decorrelation rule, costs, single runs; as claim_rules.py."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

from claim_rules import NAMES, RULES
from verdicts import (
    Judge,
    Missing,
    Part,
    differences,
    groups,
    mean_of,
    only,
    over_seeds,
    plainly,
    read,
    read_json,
)


def spans(results: Path) -> list[Part]:
    """The losses find the eigenfunctions: in theory/spans.csv, the mean squared sine of the angles between the learned
    span and the top eigenfunctions is at most 0.01 after training with Barlow Twins and with VICReg; and with Barlow
    Twins its mean over training is smaller with K = 8 than with K = 2."""
    rows = read(results, "theory/spans.csv", ("views", "seed", "step", "span_error"), ("loss",))
    last = max(row["step"] for row in rows)
    parts = []
    for (loss, k), own in groups(
        [r for r in rows if r["loss"].startswith(("Barlow", "VICReg"))], "loss", "views"
    ).items():
        room = [0.01 - row["span_error"] for row in own if row["step"] == last]
        parts.append(over_seeds(f"{loss}, K = {k:.0f}: below 0.01 after training", room, unit="below 0.01"))
    two, eight = (only(rows, loss="Barlow Twins, all pairs", views=k) for k in (2, 8))
    if two and eight:
        sooner = differences(two, eight, "span_error")
        parts.append(over_seeds("Barlow Twins: sooner with K = 8 than with K = 2", sooner, unit=""))
    return parts


def estimates(results: Path) -> list[Part]:
    """More views estimate the kernel better: in theory/estimates.csv, every measured error lies within four standard
    errors of the one predicted, and at equal images it falls with every K."""
    columns = ("eigenfunctions", "views", "predicted", "measured", "standard_error")
    rows = read(results, "theory/estimates.csv", columns, ("at",))
    off = [abs(row["measured"] - row["predicted"]) / row["standard_error"] for row in rows]
    parts = [
        plainly("the error is the one predicted", max(off) <= 4, f"at most {max(off):.1f} standard errors from it")
    ]
    for (count,), own in groups(only(rows, at="equal images"), "eigenfunctions").items():
        errors = [row["measured"] for row in sorted(own, key=lambda row: row["views"])]
        falls = all(a > b for a, b in itertools.pairwise(errors))
        seen = f"{errors[0]:.3g} to {errors[-1]:.3g}"
        parts.append(plainly(f"{count:.0f} eigenfunctions: it falls with every K at equal images", falls, seen))
    return parts


def ranks(results: Path) -> list[Part]:
    """The effective rank follows w d: in theory/ranks.csv, the learned rank is within 10% of that of the loss's minimum
    in the median over all widths and weights, of each loss."""
    rows = read(results, "theory/ranks.csv", ("predicted", "learned"), ("loss",))
    parts = []
    for (loss,), own in groups(rows, "loss").items():
        off = statistics.median(abs(row["learned"] / row["predicted"] - 1) for row in own)
        parts.append(
            plainly(f"{loss}: the learned rank is that of the minimum", off <= 0.1, f"median off by {off:.1%}")
        )
    return parts


def weight_rule(results: Path) -> list[Part]:
    """The best decorrelation weight falls as 1/d: in weight_rule/runs.csv, at every width of a method the w d with the
    best mean accuracy lies within a factor of 4 (a step of the grid) of the rule's."""
    rows = read(results, "weight_rule/runs.csv", ("dim", "product", "seed", "linear"), ("method",))
    parts = []
    for (method, dim), own in groups([row for row in rows if row["method"] in RULES], "method", "dim").items():
        means = {product: mean_of(each, "linear") for (product,), each in groups(own, "product").items()}
        best, n = max(means, key=lambda product: means[product]), len({row["seed"] for row in own})
        near = 1 / 4.001 < best / RULES[method] < 4.001
        seen = f"best at w d = {best:g}, the rule's is {RULES[method]:g} ({n} seed{'s' * (n > 1)})"
        parts.append(plainly(f"{NAMES[method]}, d = {dim:.0f}", near, seen))
    return parts


def losses_cost(results: Path) -> list[Part]:
    """K views cost little: in losses_cost/losses_cost.csv, of each loss at every d, forward and backward at K = 8 take
    at most 5 times those at K = 2 (linear is 4), and less time than the double loop over pairs of views."""
    rows = read(results, "losses_cost/losses_cost.csv", ("loop", "views", "dim", "both_ms"), ("loss",))
    parts = []
    for (loss,), own in groups(rows, "loss").items():
        ms = {(row["loop"], row["views"], row["dim"]): row["both_ms"] for row in own}
        dims = sorted({row["dim"] for row in own})
        growth = [ms[0, 8, d] / ms[0, 2, d] for d in dims if (0, 8, d) in ms and (0, 2, d) in ms]
        gains = [ms[1, 8, d] / ms[0, 8, d] for d in dims if (0, 8, d) in ms and (1, 8, d) in ms]
        for says, ratios, fine in (
            ("K = 8 over K = 2", growth, max(growth, default=9) <= 5),
            ("the double loop over it", gains, min(gains, default=0) > 1),
        ):
            if ratios:
                seen = ", ".join(f"{ratio:.3g}" for ratio in ratios)
                parts.append(plainly(f"{loss}: {says}", fine, f"{seen} at d = {', '.join(f'{d:.0f}' for d in dims)}"))
    return parts


def throughput(results: Path) -> list[Part]:
    """Views reach the encoder sooner than with other loaders: in throughput/throughput.csv, at every size and K the
    median ratio of images a second to each other loader's is above 1."""
    columns = ("size", "views", "effssl_over_it")
    rows = [row for row in read(results, "throughput/throughput.csv", columns, ("loader",)) if row["views"]]
    parts = []
    for (loader, size), own in groups([row for row in rows if row["loader"] != "effssl"], "loader", "size").items():
        ratios = [row["effssl_over_it"] for row in own]
        seen = f"{min(ratios):.2g} to {max(ratios):.2g} times over {len(ratios)} settings"
        parts.append(plainly(f"beside {loader} at {size:.0f} px", min(ratios) > 1, seen))
    if not parts:
        raise Missing("throughput/throughput.csv has no other loader")
    return parts


def beats_baselines(folder: str) -> Judge:
    """The part about a committed run."""

    def judge(results: Path) -> list[Part]:
        """Pretraining beats the untrained backbone and the pixels: in result.json, on the reported split, by linear
        probe on all labels, on few labels and by kNN. One run: no interval."""
        file = results / folder / "result.json"
        if not file.is_file():
            raise Missing(f"{folder}/result.json is not there")
        rows = read_json(file)["final"]["rows"]
        if lacking := [row for row in ("trained", "untrained", "pixels") if row not in rows]:
            raise Missing(f"{folder}/result.json has no row {', '.join(lacking)}")
        parts = []
        for other, column in itertools.product(("untrained", "pixels"), ("linear", "few_labels", "knn")):
            ours, theirs = 100 * rows["trained"][column], 100 * rows[other][column]
            says = f"above {other}, {column.replace('_', ' ')}"
            parts.append(plainly(says, ours > theirs, f"{ours:.1f} beside {theirs:.1f}%"))
        return parts

    return judge

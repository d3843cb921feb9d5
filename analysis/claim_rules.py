"""The rule by which each claim is judged: a function each, its docstring the rule; verdicts.py judges by them."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from verdicts import (
    Judge,
    Missing,
    Part,
    Rows,
    answer,
    differences,
    interval,
    over_seeds,
    pairs,
    plainly,
    read,
    read_json,
)

from effssl import losses

MARGIN = 1.0  # points that count as noise where a claim says "as good as"
NAMES = {"vicreg": "VICReg", "barlow_twins": "Barlow Twins"}
RULES = {"vicreg": losses.cov_weight(1, 1.0), "barlow_twins": losses.redundancy_weight(1)}  # w d


def _groups(rows: Rows, *keys: str) -> dict[tuple, Rows]:
    found: dict[tuple, Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _only(rows: Rows, **wanted: Any) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _mean(rows: Rows, key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


def _at_rule(row: dict[str, Any]) -> bool:
    return math.isclose(row["weight"] * row["dim"], RULES[row["method"]], rel_tol=0.02)


# Claim 1


def orthogonality(results: Path) -> list[Part]:
    """At one width, a decorrelation weight far below the rule's costs orthogonality and accuracy: of each method and
    width in orthogonality/runs.csv, at the rule's weight less at the smallest: linear accuracy above 0; and the
    off-diagonal energy of z at the smallest less at the rule's above 0."""
    columns = ("dim", "weight", "seed", "linear", "z/off_diagonal")
    rows = [row for row in read(results, "orthogonality/runs.csv", columns, ("method",)) if row["method"] in RULES]
    parts = []
    for (method, dim), own in _groups(rows, "method", "dim").items():
        least = min(row["weight"] for row in own)
        right, wrong = [row for row in own if _at_rule(row)], _only(own, weight=least)
        if not right or right[0]["weight"] == least:
            continue
        what = f"{NAMES[method]}, d = {dim:.0f}: the rule's weight beside {least * dim:.2g} / d"
        gain = differences(right, wrong, "linear", 100)
        parts.append(over_seeds(f"{what}: more accurate", gain))
        less = differences(wrong, right, "z/off_diagonal")
        parts.append(over_seeds(f"{what}: z more orthogonal (off-diagonal energy falls)", less, unit=""))
    if not parts:
        raise Missing("orthogonality/runs.csv has no width at two weights, one of them the rule's")
    return parts


def width(results: Path) -> list[Part]:
    """With the rule's weight a small projector does as well as the widest, and costs less. Of each method in
    projector/runs.csv, d = 256 (or the width nearest to it) against the widest, both at the rule's weight: linear is no
    more than 1 point worse, and the widest takes more than 1 times the seconds; and at the smallest width, linear is
    better at the rule's weight than at the widest's."""
    rows = read(results, "projector/runs.csv", ("dim", "weight", "seed", "linear", "seconds"), ("method",))
    parts = []
    for (method,), own in _groups([row for row in rows if row["method"] in RULES], "method").items():
        right = [row for row in own if _at_rule(row)]
        dims = sorted({row["dim"] for row in right})
        if len(dims) < 2:
            continue
        name, least, widest = NAMES[method], dims[0], dims[-1]
        small = min(dims[:-1], key=lambda dim: abs(math.log(dim / 256)))
        ours, theirs = _only(right, dim=small), _only(right, dim=widest)
        what = f"{name}, the rule's weight, d = {small:.0f} against {widest:.0f}"
        gap = differences(ours, theirs, "linear", 100)
        parts.append(over_seeds(f"{what}: no more than {MARGIN:g} point worse", gap, -MARGIN))
        times = [slow / fast - 1 for slow, fast in pairs(theirs, ours, "seconds")]
        parts.append(over_seeds(f"{what}: cheaper", times, unit="of its seconds more for the widest"))
        fixed = [row for row in _only(own, dim=least) if math.isclose(row["weight"], theirs[0]["weight"], rel_tol=0.02)]
        gain = differences(_only(right, dim=least), fixed, "linear", 100)
        parts.append(over_seeds(f"{name}, d = {least:.0f}: better at the rule's weight than at the widest's", gain))
    if not parts:
        raise Missing("projector/runs.csv has no method at two widths with the rule's weight")
    return parts


# Claim 2


def views(results: Path) -> list[Part]:
    """More views of every image give features sooner. In views/runs.csv, K = 8 and K = 4 against K = 2, linear: better
    on the shortest runs, which have as many epochs; and their longest run better than that of K = 2 of as many encoded
    views, and than K = 2 after as many seconds of training, for which its accuracy is interpolated between its runs of
    that seed, linearly in log seconds (beyond them: of the nearest)."""
    rows = read(results, "views/runs.csv", ("views", "epochs", "seed", "linear", "seconds"))
    shortest = min(row["epochs"] for row in rows)
    two, parts = _only(rows, views=2), []
    lengths = {row["epochs"] for row in two}
    for k in (8, 4):
        own = _only(rows, views=k)
        longest = max((row["epochs"] for row in own), default=shortest)
        for budget, epochs, same in (("epochs", shortest, shortest), ("encoded views", longest, longest * k / 2)):
            gain = differences(_only(own, epochs=epochs), _only(two, epochs=same), "linear", 100)
            parts.append(over_seeds(f"K = {k} better than K = 2 at equal {budget}", gain))
        gain = []
        for row in _only(own, epochs=longest):
            points = [(other["seconds"], other["linear"]) for other in _only(two, seed=row["seed"])]
            if points and len(points) == len(lengths):
                gain.append(100 * (row["linear"] - _at_seconds(points, row["seconds"])))
        parts.append(over_seeds(f"K = {k} better than K = 2 at equal seconds", gain))
    return parts


def _at_seconds(points: Sequence[tuple[float, float]], seconds: float) -> float:
    """Accuracy at `seconds` between (seconds, accuracy) of runs, linear in log seconds; beyond them the nearest's."""
    at, reached = zip(*sorted(points), strict=True)
    return float(np.interp(math.log(seconds), np.log(at), reached))


# Claim 3


def subset(results: Path) -> list[Part]:
    """With more views fewer images suffice. In subset/runs.csv, at equal encoded views, linear: K = 8 on 25% of the
    images and K = 4 on 50% are no more than 1 point worse than K = 2 on all, and better than K = 2 on the same part."""
    rows = read(results, "subset/runs.csv", ("views", "part", "seed", "linear", "encoded_views"))
    parts = []
    for k, part in ((8, 0.25), (4, 0.5)):
        own = _only(rows, views=k, part=part)
        for other, says, at_least in (
            (1.0, f"no more than {MARGIN:g} point worse than K = 2 on all", -MARGIN),
            (part, f"better than K = 2 on {part:.0%}", 0.0),
        ):
            encoded = _mean(own, "encoded_views") if own else 0.0
            two = [
                row
                for row in _only(rows, views=2, part=other)
                if math.isclose(row["encoded_views"], encoded, rel_tol=0.05)
            ]
            parts.append(over_seeds(f"K = {k} on {part:.0%}: {says}", differences(own, two, "linear", 100), at_least))
    return parts


# Claim 4


def wallclock(results: Path) -> list[Part]:
    """The baseline's accuracy in at most half its seconds. In wallclock/runs.csv, K = 4 with the smallest projector
    against the baseline, K = 2 with the widest: of each seed, the seconds in which K = 4 has the baseline's accuracy
    are interpolated between its runs, linearly in log seconds; the ratio of the baseline's seconds to them is above 2,
    by the interval of its logarithm. Where its shortest run has that accuracy already the ratio is a lower bound, which
    answers no `no`; where none has it an upper one, which answers no `yes`."""
    rows = read(results, "wallclock/runs.csv", ("views", "dim", "epochs", "seed", "linear", "seconds"), ("name",))
    rows = [row for row in rows if re.search(r"_e\d+(_b\d+)?_s\d+$", row["name"])]  # others have further flags
    dims = sorted({row["dim"] for row in rows})
    baseline = _only(rows, views=2, dim=dims[-1]) if len(dims) > 1 else []
    own = _only(rows, views=4, dim=dims[0])
    lengths = {row["epochs"] for row in own}
    ratios, bounds = [], set()
    for row in baseline:
        points = sorted((r["seconds"], r["linear"]) for r in _only(own, seed=row["seed"]))
        if points and len(points) == len(lengths):
            at, bound = _seconds_to(points, row["linear"])
            ratios.append(math.log2(row["seconds"] / at))
            bounds.add(bound)
    says = f"K = 4, d = {dims[0]:.0f}: more than 2 times faster to the accuracy of K = 2, d = {dims[-1]:.0f}"
    if not ratios:
        return [Part(says, "missing", "no seed has both")]
    said = answer(ratios, 1.0)
    if (said == "yes" and "at most" in bounds) or (said == "no" and "at least" in bounds):
        said = "open"
    mean, low, high = (2.0**value for value in np.clip(interval(ratios), -99, 99))
    spread = (
        f"95% interval {low:.2f} to {high:.2f}, {len(ratios)} seeds" if len(ratios) > 1 else "one seed: no interval"
    )
    known = bounds - {""}
    bound = f"{known.pop()} " if len(known) == 1 else "about " * len(known)  # of some seeds at least, of others at most
    return [Part(says, said, f"{bound}{mean:.2f} times, {spread}")]


def _seconds_to(points: Sequence[tuple[float, float]], accuracy: float) -> tuple[float, str]:
    """Seconds at which runs (seconds, accuracy), in order, first have `accuracy`, linear in log seconds; and whether
    the ratio to them is then "at least" (the shortest has it) or "at most" (none has it) what it comes to."""
    if points[0][1] >= accuracy:
        return points[0][0], "at least" * (points[0][1] > accuracy)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y1 >= accuracy:
            return x0 * (x1 / x0) ** ((accuracy - y0) / (y1 - y0)), ""
    return points[-1][0], "at most"


# What supports them


def spans(results: Path) -> list[Part]:
    """The losses find the eigenfunctions: in theory/spans.csv, the mean squared sine of the angles between the learned
    span and the top eigenfunctions is at most 0.01 after training with Barlow Twins and with VICReg; and with Barlow
    Twins its mean over training is smaller with K = 8 than with K = 2."""
    rows = read(results, "theory/spans.csv", ("views", "seed", "step", "span_error"), ("loss",))
    last = max(row["step"] for row in rows)
    parts = []
    for (loss, k), own in _groups(
        [r for r in rows if r["loss"].startswith(("Barlow", "VICReg"))], "loss", "views"
    ).items():
        room = [0.01 - row["span_error"] for row in own if row["step"] == last]
        parts.append(over_seeds(f"{loss}, K = {k:.0f}: below 0.01 after training", room, unit="below 0.01"))
    two, eight = (_only(rows, loss="Barlow Twins, all pairs", views=k) for k in (2, 8))
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
    for (count,), own in _groups(_only(rows, at="equal images"), "eigenfunctions").items():
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
    for (loss,), own in _groups(rows, "loss").items():
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
    for (method, dim), own in _groups([row for row in rows if row["method"] in RULES], "method", "dim").items():
        means = {product: _mean(each, "linear") for (product,), each in _groups(own, "product").items()}
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
    for (loss,), own in _groups(rows, "loss").items():
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
    for (loader, size), own in _groups([row for row in rows if row["loader"] != "effssl"], "loader", "size").items():
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

"""The weights that `auto` and `authors` stand for: a rule in the width d of the embedding, and what
arXiv 2312.10725 found best."""

from __future__ import annotations

import dataclasses
from typing import Any

from effssl.config import Loss


def cov_weight(dim: int, inv_weight: float) -> float:
    """Return VICReg's covariance weight by the rule 40 inv_weight / dim.

    The rule was measured for 4 views and dim 64 to 1024 on CIFAR-10 (analysis/results/weight_rule).
    The weights that arXiv 2312.10725 found best for 2 views are 3 to 41 inv_weight / dim.
    """
    return 40 * inv_weight / dim


def redundancy_weight(dim: int) -> float:
    """Return Barlow Twins' redundancy weight by the rule 3.4 / dim.

    The rule was fitted to the weights that arXiv 2312.10725 found best for 2 views and dim 64 to
    8192 on CIFAR-10. Measured again for 4 views and dim 64 to 4096, the best weights lay at
    2.7 to 3.6 / dim (analysis/results/weight_rule).
    """
    return 3.4 / dim


# What arXiv 2312.10725 found best on CIFAR-10 with its own losses: for 2 views on all images by
# width (batches of 512), and by (views, part of the images, width) as its scripts repeat them
# (batches of 128). VICReg: the weight of invariance and variance beside a covariance weight of 1.
_AUTHORS_OF_TWO_VIEWS: dict[str, dict[int, float]] = {
    "barlow_twins": {
        64: 0.04, 128: 0.04, 256: 0.02, 512: 0.01,
        1024: 0.001, 2048: 0.001, 4096: 0.0004, 8192: 0.0008,
    },
    "vicreg": {64: 20, 128: 20, 256: 25, 512: 25, 1024: 25, 2048: 75, 4096: 200, 8192: 800},
}  # fmt: skip
_AUTHORS_OF_MORE_VIEWS: dict[str, dict[tuple[int, float, int], float]] = {
    "barlow_twins": {
        (4, 1.0, 256): 0.01, (4, 1.0, 8192): 0.0004, (8, 1.0, 256): 0.01, (8, 1.0, 8192): 0.0004,
        (4, 0.5, 256): 0.01, (4, 0.5, 8192): 0.0008, (8, 0.25, 256): 0.006, (8, 0.25, 8192): 0.0004,
    },
    "vicreg": {(4, 1.0, 256): 25, (4, 0.5, 256): 5, (8, 0.25, 256): 75},
}  # fmt: skip


def authors_weight(method: str, dim: int, views: int, part: float) -> float:
    """Return the weight that arXiv 2312.10725 found best for its own losses on CIFAR-10.

    It is the redundancy weight for Barlow Twins; for VICReg that of invariance and variance beside
    a covariance weight of 1. part: of the training images, in (0, 1].

    Raises:
        ValueError: if the authors give none for that method, width, number of views and part.
    """
    of_two = _AUTHORS_OF_TWO_VIEWS.get(method, {})
    known = {(2, 1.0, width): weight for width, weight in of_two.items()}
    known |= _AUTHORS_OF_MORE_VIEWS.get(method, {})
    if (views, part, dim) not in known:
        listed = ", ".join(f"{k} views, {p:.0%}, {d}" for k, p, d in sorted(known))
        raise ValueError(
            f"the authors give no weight of {method} for {views} views, {part:.0%} of the images, "
            f"width {dim}; they do for {listed}"
        )
    return known[views, part, dim]


def resolve(loss: Loss, dim: int, *, views: int = 2, part: float = 1.0) -> Loss:
    """Return the settings with a number wherever they said `auto` or `authors`.

    `auto` is a rule in the width `dim` of the embedding; the variance term weighs 25 in VICReg, and
    to the other losses it is an add-on, and weighs 0. `authors` also depends on the number of views
    and the part of the images: see authors_weight, which raises ValueError for what is not known.
    """
    rules = {
        "var_weight": 25.0 if loss.method == "vicreg" else 0.0,
        "cov_weight": cov_weight(dim, loss.inv_weight),
        "redundancy_weight": redundancy_weight(dim),
    }
    # A weight that the method does not have may say `authors` too: the rule is as good as any.
    resolved: dict[str, Any] = {
        name: rule for name, rule in rules.items() if isinstance(getattr(loss, name), str)
    }
    if loss.method == "vicreg" and loss.cov_weight == "authors":
        # Theirs is 1 beside that of invariance and variance; ours stands beside inv_weight.
        resolved["cov_weight"] = loss.inv_weight / authors_weight("vicreg", dim, views, part)
    if loss.method == "barlow_twins" and loss.redundancy_weight == "authors":
        resolved["redundancy_weight"] = authors_weight("barlow_twins", dim, views, part)
    return dataclasses.replace(loss, **resolved)


def decorrelation_weight(
    loss: Loss, dim: int, *, views: int = 2, part: float = 1.0
) -> float | None:
    """Return the weight w of the off-diagonal term against the invariance, or None if it has none.

    It is cov_weight / inv_weight for VICReg (None if inv_weight is 0), and redundancy_weight for
    Barlow Twins; the other losses have no such term.
    """
    resolved = resolve(loss, dim, views=views, part=part)
    match loss.method:
        case "vicreg" if loss.inv_weight > 0:
            return float(resolved.cov_weight) / loss.inv_weight
        case "barlow_twins":
            return float(resolved.redundancy_weight)
    return None

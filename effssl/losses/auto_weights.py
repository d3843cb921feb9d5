"""The weights that `auto` stands for, as rules in the width d of the embedding."""

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


def resolve(loss: Loss, dim: int) -> Loss:
    """Return the settings with a number wherever they said `auto`, for embeddings of width `dim`.

    The variance term weighs 25 in VICReg; to the other losses it is an add-on, and weighs 0.
    """
    rules = {
        "var_weight": 25.0 if loss.method == "vicreg" else 0.0,
        "cov_weight": cov_weight(dim, loss.inv_weight),
        "redundancy_weight": redundancy_weight(dim),
    }
    ruled: dict[str, Any] = {
        name: rule for name, rule in rules.items() if getattr(loss, name) == "auto"
    }
    return dataclasses.replace(loss, **ruled)


def decorrelation_weight(loss: Loss, dim: int) -> float | None:
    """Return the weight w of the off-diagonal term against the invariance, or None if it has none.

    It is cov_weight / inv_weight for VICReg (None if inv_weight is 0), and redundancy_weight for
    Barlow Twins; the other losses have no such term.
    """
    resolved = resolve(loss, dim)
    match loss.method:
        case "vicreg" if loss.inv_weight > 0:
            return float(resolved.cov_weight) / loss.inv_weight
        case "barlow_twins":
            return float(resolved.redundancy_weight)
    return None

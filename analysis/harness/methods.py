"""The methods: their names in tables, and the weight of decorrelation against invariance of each.

This weight is `redundancy_weight` for Barlow Twins and `cov_weight / inv_weight` for VICReg.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from effssl.config import Loss
from effssl.losses.auto_weights import cov_weight, decorrelation_weight, redundancy_weight

NAMES = {
    "vicreg": "VICReg",
    "barlow_twins": "Barlow Twins",
    "simclr": "SimCLR",
    "entropy_reconstruction": "entropy-reconstruction",
}
# Weight times width, w d, by the rule for each method that has one.
RULES = {"vicreg": cov_weight(1, 1.0), "barlow_twins": redundancy_weight(1)}
OF_CLAIMS = "barlow_twins"  # method of the claims' commands, unless --method says another
INV_WEIGHT = 25.0  # of VICReg's invariance and variance, where a command chooses them


def weight_flags(method: str, weight: float | None) -> list[str]:
    """Return the flags of effssl.train for a weight of decorrelation; None asks for the rule's."""
    if method == "vicreg":
        strengths = ["--inv-weight", str(INV_WEIGHT), "--var-weight", str(INV_WEIGHT)]
        cov = "auto" if weight is None else repr(weight * INV_WEIGHT)
        return [*strengths, "--cov-weight", cov]
    return ["--redundancy-weight", "auto" if weight is None else repr(weight)]


def weight_of(settings: dict[str, Any]) -> float | None:
    """Return the weight in a run's settings by name, the rule's resolved; None for a method that
    has none."""
    loss = Loss(**{field.name: settings[field.name] for field in dataclasses.fields(Loss)})
    views, part = settings["views"], settings["fraction"]
    return decorrelation_weight(loss, settings["proj_dim"], views=views, part=part)


def rule_weight(method: str, dim: int) -> float:
    """Return the rule's weight at a width."""
    if method == "vicreg":
        return cov_weight(dim, INV_WEIGHT) / INV_WEIGHT
    return redundancy_weight(dim)


def folder_of(command: str, method: str) -> str:
    """Return the name of the folder with the results of a claim's command: of Barlow Twins, which
    was measured first, that of the command."""
    return command if method == "barlow_twins" else f"{command}-{method}"

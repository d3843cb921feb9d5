"""The methods: their names in tables, and the weight of decorrelation against invariance of each.

This weight is `redundancy_weight` for Barlow Twins and `cov_weight / inv_weight` for VICReg.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

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


class Measured(NamedTuple):
    """How a claim is measured: the end of its results' folder, its name in tables, and what its
    command is called with."""

    ending: str
    name: str
    flags: str


# Each is judged by itself. The first was measured first, so its folders are called as the commands.
MEASURED = {
    "barlow_twins": Measured("", "Barlow Twins", ""),
    "vicreg": Measured("-vicreg", "VICReg", " --method vicreg"),
    "photographs": Measured("-photographs", "Barlow Twins, photographs", " --preset photographs"),
    "gpu": Measured("-gpu", "Barlow Twins, one GPU", " --preset gpu"),
}
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


def folder_of(command: str, how: str) -> str:
    """Return the name of the folder with the results of a claim's command, by how it is measured:
    the method, or another name in MEASURED."""
    return command + MEASURED[how].ending

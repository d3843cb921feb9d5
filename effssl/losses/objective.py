"""From the settings to what is minimised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from effssl.config import Config
from effssl.losses import functional as losses
from effssl.models.backbones import Encoder


def build(cfg: Config, encoder: Encoder) -> Callable[[Tensor], dict[str, Tensor]]:
    """z [views, batch, dim] -> "loss", which is minimised, and its terms before weighting."""
    c, dim = cfg.loss, cfg.model.proj_dim
    of_z: Callable[[Tensor], Any]
    var_weight = (25.0 if c.method == "vicreg" else 0.0) if c.var_weight == "auto" else c.var_weight
    match c.method:
        case "vicreg":
            cov_weight = losses.cov_weight(dim, c.inv_weight) if c.cov_weight == "auto" else c.cov_weight
            of_z = functools.partial(
                losses.vicreg, inv_weight=c.inv_weight, var_weight=var_weight, cov_weight=cov_weight
            )
        case "barlow_twins":
            weight = losses.redundancy_weight(dim) if c.redundancy_weight == "auto" else c.redundancy_weight
            of_z = functools.partial(
                losses.barlow_twins, redundancy_weight=weight, pairing=c.pairing, var_weight=var_weight
            )
        case "simclr":
            of_z = functools.partial(losses.simclr, temperature=c.temperature)
        case "entropy_reconstruction":
            of_z = functools.partial(losses.entropy_reconstruction, concentration=c.concentration)

    last = encoder.projector[-1]
    assert isinstance(last, nn.Linear)

    def loss_of(z: Tensor) -> dict[str, Tensor]:
        terms = of_z(z)._asdict()
        total = terms.pop("loss")
        if c.weight_ortho:
            terms["weight_ortho"] = losses.weight_orthogonality(last.weight)
            total = total + c.weight_ortho * terms["weight_ortho"]
        return {"loss": total} | {f"loss/{name}": term for name, term in terms.items()}

    return loss_of

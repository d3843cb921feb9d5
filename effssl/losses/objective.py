"""From the settings to what is minimised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from effssl import InputError
from effssl.config import Loss
from effssl.losses.authors import barlow_twins_authors, vicreg_authors
from effssl.losses.auto_weights import resolve
from effssl.losses.baselines import entropy_reconstruction, simclr
from effssl.losses.functional import barlow_twins, vicreg, weight_orthogonality


def build_objective(
    loss: Loss,
    dim: int,
    last_layer: nn.Linear,
    *,
    views: int = 2,
    part: float = 1.0,
    keep: tuple[float, Callable[[], Tensor]] | None = None,
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the function of z [num_views, batch, dim] that training minimises.

    It returns "loss", which is minimised, and beside it the terms before weighting as "loss/NAME".

    Args:
        loss: the method and its weights; `auto` and `authors` are resolved here.
        dim: width of z, on which `auto` depends.
        last_layer: the projector's last layer, on whose weight `weight_ortho` lies.
        views: views per image, on which `authors` depends too.
        part: of the training images, likewise.
        keep: weight and value of a penalty on weights, "loss/keep".

    Raises:
        InputError: if the authors give no weight for that.
    """
    try:
        terms_of = _terms_of(resolve(loss, dim, views=views, part=part))
    except ValueError as error:
        raise InputError(str(error)) from None

    def objective(z: Tensor) -> dict[str, Tensor]:
        terms = terms_of(z)._asdict()
        total = terms.pop("loss")
        if loss.weight_ortho:
            terms["weight_ortho"] = weight_orthogonality(last_layer.weight)
            total = total + loss.weight_ortho * terms["weight_ortho"]
        if keep is not None:
            weight, penalty = keep
            terms["keep"] = penalty()
            total = total + weight * terms["keep"]
        return {"loss": total} | {f"loss/{name}": term for name, term in terms.items()}

    return objective


def _terms_of(loss: Loss) -> Callable[[Tensor], Any]:
    """Return the loss function with its weights, which are numbers."""
    match loss.method:
        case "vicreg":
            return functools.partial(
                vicreg_authors if loss.pairing == "authors" else vicreg,
                inv_weight=loss.inv_weight,
                var_weight=float(loss.var_weight),
                cov_weight=float(loss.cov_weight),
            )
        case "barlow_twins" if loss.pairing == "authors":
            return functools.partial(
                barlow_twins_authors, redundancy_weight=float(loss.redundancy_weight)
            )
        case "barlow_twins":
            return functools.partial(
                barlow_twins,
                redundancy_weight=float(loss.redundancy_weight),
                pairing="pooled" if loss.pairing == "pooled" else "all",
                var_weight=float(loss.var_weight),
            )
        case "simclr":
            return functools.partial(simclr, temperature=loss.temperature)
        case "entropy_reconstruction":
            return functools.partial(entropy_reconstruction, concentration=loss.concentration)

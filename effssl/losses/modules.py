"""The losses as torch modules, for training loops of one's own.

    loss_of = BarlowTwinsLoss()
    loss_of(z).backward()

z are embeddings [num_views, batch, dim], or a sequence of num_views tensors [batch, dim].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from effssl.config import Loss
from effssl.losses.auto_weights import resolve
from effssl.losses.baselines import (
    EntropyReconstructionTerms,
    SimCLRTerms,
    entropy_reconstruction,
    simclr,
)
from effssl.losses.functional import BarlowTwinsTerms, VICRegTerms, barlow_twins, vicreg

Embeddings = Tensor | Sequence[Tensor]


class VICRegLoss(nn.Module):
    """VICReg (arXiv 2105.04906), as `effssl.losses.vicreg` defines it.

    At K = 2 the official loss is `VICRegLoss(cov_weight=1.0)`; the default weight follows the width
    of z, as small projectors need it.

    Args:
        inv_weight: weight of the invariance term.
        var_weight: weight of the variance term.
        cov_weight: weight of the covariance term; "auto" is 40 inv_weight / dim.

    Raises:
        ValueError: if a weight is negative, or no number.
    """

    def __init__(
        self,
        inv_weight: float = 25.0,
        var_weight: float = 25.0,
        cov_weight: float | Literal["auto"] = "auto",
    ):
        super().__init__()
        self.settings = _settings(
            "vicreg", inv_weight=inv_weight, var_weight=var_weight, cov_weight=cov_weight
        )

    def terms(self, z: Embeddings) -> VICRegTerms:
        """Return the loss and its terms before weighting; ValueError if z has another shape."""
        z = _stacked(z)
        resolved = resolve(self.settings, z.shape[-1])
        return vicreg(
            z,
            inv_weight=resolved.inv_weight,
            var_weight=float(resolved.var_weight),
            cov_weight=float(resolved.cov_weight),
        )

    def forward(self, z: Embeddings) -> Tensor:
        """Return the loss, a scalar; ValueError if z has another shape."""
        return self.terms(z).loss


class BarlowTwinsLoss(nn.Module):
    """Barlow Twins (arXiv 2103.03230), as `effssl.losses.barlow_twins` defines it.

    At K = 2 the official loss is `BarlowTwinsLoss(redundancy_weight=0.0051)`, for z 8192 wide; the
    default weight follows the width of z.

    Args:
        redundancy_weight: weight of the off-diagonal energy; "auto" is 3.4 / dim.
        pairing: "all" is the mean over pairs of views, "pooled" takes the mean cross-correlation.
        var_weight: weight of VICReg's variance term, an add-on.

    Raises:
        ValueError: if a weight is negative, or no number, or the pairing has another name.
    """

    def __init__(
        self,
        redundancy_weight: float | Literal["auto"] = "auto",
        pairing: Literal["all", "pooled"] = "all",
        var_weight: float = 0.0,
    ):
        super().__init__()
        if pairing not in ("all", "pooled"):
            raise ValueError(f"pairing is 'all' or 'pooled', not {pairing!r}")
        self.pairing = pairing
        self.settings = _settings(
            "barlow_twins",
            redundancy_weight=redundancy_weight,
            pairing=pairing,
            var_weight=var_weight,
        )

    def terms(self, z: Embeddings) -> BarlowTwinsTerms:
        """Return the loss and its terms before weighting; ValueError if z has another shape."""
        z = _stacked(z)
        resolved = resolve(self.settings, z.shape[-1])
        return barlow_twins(
            z,
            redundancy_weight=float(resolved.redundancy_weight),
            pairing=self.pairing,
            var_weight=float(resolved.var_weight),
        )

    def forward(self, z: Embeddings) -> Tensor:
        """Return the loss, a scalar; ValueError if z has another shape."""
        return self.terms(z).loss


class SimCLRLoss(nn.Module):
    """SimCLR (arXiv 2002.05709), as `effssl.losses.simclr` defines it.

    Args:
        temperature: of the softmax over cosines.

    Raises:
        ValueError: if it is not above 0, or infinite.
    """

    def __init__(self, temperature: float = 0.2):
        super().__init__()
        _settings("simclr", temperature=temperature)
        self.temperature = temperature

    def terms(self, z: Embeddings) -> SimCLRTerms:
        """Return the loss and the alignment; ValueError if z has another shape."""
        return simclr(_stacked(z), temperature=self.temperature)

    def forward(self, z: Embeddings) -> Tensor:
        """Return the loss, a scalar; ValueError if z has another shape."""
        return self.terms(z).loss


class EntropyReconstructionLoss(nn.Module):
    """Entropy-reconstruction (arXiv 2307.10907), as `effssl.losses.entropy_reconstruction` does it.

    Args:
        concentration: of the von Mises-Fisher densities.

    Raises:
        ValueError: if it is not above 0, or infinite.
    """

    def __init__(self, concentration: float = 10.0):
        super().__init__()
        _settings("entropy_reconstruction", concentration=concentration)
        self.concentration = concentration

    def terms(self, z: Embeddings) -> EntropyReconstructionTerms:
        """Return the loss and its terms, in nats; ValueError if z has another shape."""
        return entropy_reconstruction(_stacked(z), concentration=self.concentration)

    def forward(self, z: Embeddings) -> Tensor:
        """Return the loss, a scalar; ValueError if z has another shape."""
        return self.terms(z).loss


def _settings(method: str, **given: Any) -> Loss:
    """Return the settings of a loss. Raises ValueError, in one line, for what it does not take."""
    for name, value in given.items():
        if value == "authors":  # which depends on the number of views and on the images
            raise ValueError(f"{name}='authors': only `effssl train` knows those; give a number")
    try:
        return Loss(method=method, **given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ValueError(f"{name}={given[name]!r}: {first['msg']}") from None


def _stacked(z: Embeddings) -> Tensor:
    """Return z as one tensor [num_views, batch, dim]."""
    if isinstance(z, Tensor):
        if z.ndim != 3:
            raise ValueError(f"z must be [views, batch, dim], not {list(z.shape)}")
        return z
    shapes = {tuple(view.shape) for view in z}
    if len(shapes) != 1:
        raise ValueError(f"z must be views of one shape [batch, dim], not {sorted(shapes)}")
    return torch.stack(tuple(z))

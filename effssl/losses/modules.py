"""The losses as torch modules, for training loops of one's own.

loss = BarlowTwins()
loss(z).backward()   # z [views, batch, dim], or a sequence of `views` tensors [batch, dim]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from effssl.losses import functional as losses

Embeddings = Tensor | Sequence[Tensor]


class VICReg(nn.Module):
    """losses.vicreg (arXiv 2105.04906) with its weights; cov_weight "auto" is losses.cov_weight(dim, inv_weight)."""

    def __init__(
        self, inv_weight: float = 25.0, var_weight: float = 25.0, cov_weight: float | Literal["auto"] = "auto"
    ):
        super().__init__()
        self.inv_weight, self.var_weight, self.cov_weight = inv_weight, var_weight, cov_weight

    def terms(self, z: Embeddings) -> losses.VICReg:
        """The loss and its terms before weighting, scalars. Raises ValueError for z of another shape."""
        z = _stacked(z)
        cov = losses.cov_weight(z.shape[-1], self.inv_weight) if self.cov_weight == "auto" else self.cov_weight
        return losses.vicreg(z, inv_weight=self.inv_weight, var_weight=self.var_weight, cov_weight=cov)

    def forward(self, z: Embeddings) -> Tensor:
        """The loss, a scalar."""
        return self.terms(z).loss


class BarlowTwins(nn.Module):
    """losses.barlow_twins (arXiv 2103.03230); redundancy_weight "auto" is losses.redundancy_weight(dim)."""

    def __init__(
        self,
        redundancy_weight: float | Literal["auto"] = "auto",
        pairing: Literal["all", "pooled"] = "all",
        var_weight: float = 0.0,
    ):
        super().__init__()
        self.redundancy_weight, self.pairing, self.var_weight = redundancy_weight, pairing, var_weight

    def terms(self, z: Embeddings) -> losses.BarlowTwins:
        """The loss and its terms before weighting, scalars. Raises ValueError for z of another shape."""
        z = _stacked(z)
        auto = self.redundancy_weight == "auto"
        weight = losses.redundancy_weight(z.shape[-1]) if auto else float(self.redundancy_weight)
        return losses.barlow_twins(z, redundancy_weight=weight, pairing=self.pairing, var_weight=self.var_weight)

    def forward(self, z: Embeddings) -> Tensor:
        """The loss, a scalar."""
        return self.terms(z).loss


class SimCLR(nn.Module):
    """losses.simclr (arXiv 2002.05709)."""

    def __init__(self, temperature: float = 0.2):
        super().__init__()
        self.temperature = temperature

    def terms(self, z: Embeddings) -> losses.SimCLR:
        """The loss and the alignment, scalars. Raises ValueError for z of another shape."""
        return losses.simclr(_stacked(z), temperature=self.temperature)

    def forward(self, z: Embeddings) -> Tensor:
        """The loss, a scalar."""
        return self.terms(z).loss


class EntropyReconstruction(nn.Module):
    """losses.entropy_reconstruction (arXiv 2307.10907)."""

    def __init__(self, concentration: float = 10.0):
        super().__init__()
        self.concentration = concentration

    def terms(self, z: Embeddings) -> losses.EntropyReconstruction:
        """The loss and its terms, scalars, in nats. Raises ValueError for z of another shape."""
        return losses.entropy_reconstruction(_stacked(z), concentration=self.concentration)

    def forward(self, z: Embeddings) -> Tensor:
        """The loss, a scalar."""
        return self.terms(z).loss


def _stacked(z: Embeddings) -> Tensor:
    if isinstance(z, Tensor):
        if z.ndim != 3:
            raise ValueError(f"z must be [views, batch, dim], not {list(z.shape)}")
        return z
    shapes = {tuple(view.shape) for view in z}
    if len(shapes) != 1:
        raise ValueError(f"z must be views of one shape [batch, dim], not {sorted(shapes)}")
    return torch.stack(tuple(z))

"""Measures of representations that need no labels."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(x: Tensor) -> float:
    """RankMe (arXiv 2210.02885, eq. 1) of x [n, dim]: exp of the entropy of its normalised singular values, from 1
    (collapsed) to min(n, dim). Not centred, as in the paper."""
    singular = torch.linalg.svdvals(x.double())
    p = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))

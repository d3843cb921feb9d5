"""Losses on the embeddings z [num_views, batch, dim] of K views, as functions and as modules."""

from effssl.losses.authors import barlow_twins_authors, vicreg_authors
from effssl.losses.auto_weights import cov_weight, redundancy_weight
from effssl.losses.baselines import (
    EntropyReconstructionTerms,
    SimCLRTerms,
    entropy_reconstruction,
    simclr,
)
from effssl.losses.functional import (
    BarlowTwinsTerms,
    VICRegTerms,
    barlow_twins,
    vicreg,
    weight_orthogonality,
)
from effssl.losses.modules import (
    BarlowTwinsLoss,
    EntropyReconstructionLoss,
    SimCLRLoss,
    VICRegLoss,
)

__all__ = [
    "BarlowTwinsLoss",
    "BarlowTwinsTerms",
    "EntropyReconstructionLoss",
    "EntropyReconstructionTerms",
    "SimCLRLoss",
    "SimCLRTerms",
    "VICRegLoss",
    "VICRegTerms",
    "barlow_twins",
    "barlow_twins_authors",
    "cov_weight",
    "entropy_reconstruction",
    "redundancy_weight",
    "simclr",
    "vicreg",
    "vicreg_authors",
    "weight_orthogonality",
]

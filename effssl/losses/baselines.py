"""SimCLR and entropy-reconstruction for K views: baselines beside VICReg and Barlow Twins.

Notation and conventions are those of functional.py. Both losses multiply the embeddings of the
batch with each other, SimCLR those of every pair of views too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effssl.losses.functional import at_least_float32, check_shape
from effssl.losses.sums_over_images import no_autocast
from effssl.run.distributed import all_rows, all_sum, first_row


class SimCLRTerms(NamedTuple):
    """What `simclr` returns: scalars. alignment is the mean cosine of two views of an image."""

    loss: Tensor
    alignment: Tensor


class EntropyReconstructionTerms(NamedTuple):
    """What `entropy_reconstruction` returns: scalars, in nats."""

    loss: Tensor
    entropy: Tensor
    reconstruction: Tensor


def simclr(z: Tensor, *, temperature: float = 0.2) -> SimCLRTerms:
    """Compute SimCLR (arXiv 2002.05709, eq. 1) for K views.

    This is NT-Xent with K - 1 positives (as arXiv 2004.11362, eq. 2). With u the K N embeddings at
    unit length,

        loss  mean over u_i, and over the K - 1 other views u_p of its image, of
              -log( exp(u_i u_p / temperature) / sum_{j != i} exp(u_i u_j / temperature) )

    At K = 2 it is the official loss. Its cost grows with K^2: every view is compared with every
    other.

    Args:
        z: embeddings [num_views >= 2, batch, dim], batch >= 2 over all processes.
        temperature: of the softmax over cosines.

    Raises:
        ValueError: if z has another shape.
    """
    num_views, sizes, _ = check_shape(z)
    batch = sum(sizes)
    with no_autocast(z):
        u = F.normalize(at_least_float32(z), dim=-1)
        cosines = torch.einsum("and,bmd->anbm", u, all_rows(u, sizes))  # [K, n, K, N]
        own = torch.arange(u.shape[1], device=z.device)
        of_image = cosines[:, own, :, own + first_row(sizes)]  # [n, K, K]
        # Each view is its own neighbour at cosine 1: not a positive, and out of the sum.
        itself = torch.eye(num_views, dtype=torch.bool, device=z.device)
        positives = of_image.masked_fill(itself, 0).sum(-1).T / (num_views - 1)  # [K, n]
        self_pairs = torch.zeros_like(cosines, dtype=torch.bool)
        self_pairs[:, own, :, own + first_row(sizes)] = itself
        logits = (cosines / temperature).masked_fill(self_pairs, -math.inf)
        log_sum = logits.flatten(2).logsumexp(-1)  # over all other embeddings, [K, n]
        alignment = all_sum(positives.sum()) / (num_views * batch)
        loss = all_sum((log_sum - positives / temperature).sum()) / (num_views * batch)
    return SimCLRTerms(loss, alignment)


def entropy_reconstruction(z: Tensor, *, concentration: float = 10.0) -> EntropyReconstructionTerms:
    """Compute the entropy-reconstruction bound (arXiv 2307.10907, eq. 3) for K views.

    It bounds the mutual information of two views from below. With u_a at unit length and von
    Mises-Fisher densities of this concentration, both for a view given another and as the kernel
    of the density estimate:

        reconstruction  mean over images and ordered pairs a != b of concentration * u_a u_b
        entropy         minus the mean over images n and views of
                        log mean_m exp(concentration * u_an u_am)
        loss            -(entropy + reconstruction)

    The entropy is the paper's average (Joe's) estimator, the mean over views; the normaliser of the
    density cancels between the terms and is left out of both.

    Args:
        z: embeddings [num_views >= 2, batch, dim], batch >= 2 over all processes.
        concentration: of the von Mises-Fisher densities.

    Raises:
        ValueError: if z has another shape.
    """
    num_views, sizes, _ = check_shape(z)
    batch = sum(sizes)
    with no_autocast(z):
        u = F.normalize(at_least_float32(z), dim=-1)
        # sum_{a != b} u_a u_b = |sum_a u_a|^2 - sum_a |u_a|^2
        of_pairs = all_sum(u.sum(0).square().sum() - u.square().sum())
        reconstruction = concentration * (of_pairs / (num_views * (num_views - 1) * batch))
        similarities = concentration * (u @ all_rows(u, sizes).mT)  # [K, n, N]
        log_density = similarities.logsumexp(-1) - math.log(batch)  # [K, n]
        entropy = -all_sum(log_density.sum()) / (num_views * batch)
    return EntropyReconstructionTerms(-(entropy + reconstruction), entropy, reconstruction)

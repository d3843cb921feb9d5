"""Sums over images that VICReg and Barlow Twins need, for batches not much larger than z is wide.

They are the bulk of both losses. The backward passes are written out so that nothing of z's size is
kept but z, one product of matrices is saved, and blocks of dimensions small enough for the cache go
through all steps at once. In a process group they leave the gradient of the sum of the processes'
equal losses (run/distributed.py): hence the factor of their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.run.distributed import all_rows, all_sum


class CentredSums(torch.autograd.Function):
    """The sums over images of z [K, n, d] that VICReg needs.

    With x = z - mean these are sum_a |z_a - z-bar|_F^2, sum_n x^2 [K, d], and sum_a |x_a' x_a|_F^2.
    The last is computed as |x_a x_a'|_F^2, whose gradient in x_a is 4 (x_a x_a') x_a.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        mean = all_sum(z.sum(1, keepdim=True)) / sum(sizes)  # [K, 1, d]
        to_mean, squares, grams = z.new_zeros(()), [], _zero_grams(z, sizes)
        for z_block, mean_block in _blocks(sizes, z, mean):
            x = z_block - mean_block
            to_mean += (z_block - z_block.mean(0)).square().sum()
            squares.append(x.square().sum(1))
            grams.baddbmm_(x, all_rows(x, sizes).mT)
        ctx.save_for_backward(z, mean, grams)
        ctx.sizes = sizes
        return all_sum(to_mean), all_sum(torch.cat(squares, 1)), all_sum(grams.square().sum())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_sums: Tensor) -> tuple[Tensor, None]:
        z, mean, grams = ctx.saved_tensors
        sizes, out = ctx.sizes, torch.empty_like(z)
        by_to_mean, by_squares, by_energy = (len(sizes) * by_sum for by_sum in by_sums)
        with no_autocast(z):
            scaled = grams * (4 * by_energy)
            blocks = _blocks(sizes, z, mean, by_squares[:, None], out)
            for z_block, mean_block, square, out_block in blocks:
                x = z_block - mean_block
                g = scaled @ all_rows(x, sizes)
                g -= all_sum(g.sum(1, keepdim=True)) / sum(sizes)  # through the mean
                g += 2 * square * x  # nothing through the mean: sum_n x = 0
                # Nothing through z-bar either: sum_a (z_a - z-bar) = 0.
                g += (2 * by_to_mean) * (z_block - z_block.mean(0))
                out_block.copy_(g)
        return out, None


class StandardisedSums(torch.autograd.Function):
    """The sums over images of z [K, n, d] that Barlow Twins needs.

    With x = (z - mean) / sqrt(var + eps), biased variance, these are sum_n (z - mean)^2 [K, d],
    sum_n x_a x_b for the pairs a < b [K (K - 1) / 2, d], and sum_{a != b} |x_a' x_b|_F^2.

    With G_a = x_a x_a' [N, N] the last is |sum_a G_a|_F^2 - sum_a |G_a|_F^2: for all pairs as many
    multiplications as for the views alone. Its gradient in x_a is 4 (sum_{b != a} G_b) x_a.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, sizes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
        batch = sum(sizes)
        mean = all_sum(z.sum(1, keepdim=True)) / batch  # [K, 1, d]
        of_blocks = [(zb - mb).square().sum(1, keepdim=True) for zb, mb in _blocks(sizes, z, mean)]
        squares = all_sum(torch.cat(of_blocks, -1))  # [K, 1, d]
        scale = torch.rsqrt(squares / batch + eps)
        diagonals, grams = [], _zero_grams(z, sizes)
        for z_block, mean_block, scale_block in _blocks(sizes, z, mean, scale):
            x = (z_block - mean_block) * scale_block
            diagonals.append(torch.cat([(x[a] * x[a + 1 :]).sum(1) for a in range(len(x) - 1)]))
            grams.baddbmm_(x, all_rows(x, sizes).mT)
        others = grams.sum(0) - grams  # sum_{b != a} G_b
        ctx.save_for_backward(z, mean, scale, others)
        ctx.sizes = sizes
        return squares[:, 0], all_sum(torch.cat(diagonals, 1)), all_sum((others * grams).sum())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_sums: Tensor) -> tuple[Tensor, None, None]:
        z, mean, scale, others = ctx.saved_tensors
        sizes, out = ctx.sizes, torch.empty_like(z)
        by_squares, by_diagonals, by_energy = (len(sizes) * by_sum for by_sum in by_sums)
        pairs = list(itertools.combinations(range(len(z)), 2))
        with no_autocast(z):
            scaled = others * (4 * by_energy)
            blocks = _blocks(sizes, z, mean, scale, by_squares[:, None], by_diagonals, out)
            for z_block, mean_block, scale_block, square, diagonal, out_block in blocks:
                centred = z_block - mean_block
                x = centred * scale_block
                g = scaled @ all_rows(x, sizes)
                for (a, b), by_pair in zip(pairs, diagonal, strict=True):
                    g[a].addcmul_(x[b], by_pair)
                    g[b].addcmul_(x[a], by_pair)
                # As in a BatchNorm's backward: g loses what flows through the mean and the
                # variance.
                means = torch.stack([g.sum(1, keepdim=True), (g * x).sum(1, keepdim=True)])
                means = all_sum(means) / sum(sizes)
                g -= means[0] + means[1] * x
                g *= scale_block
                g += 2 * square * centred
                out_block.copy_(g)
        return out, None, None


def _blocks(sizes: list[int], z: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Give the same blocks of dimensions of z [K, n, d] and of others [..., d].

    Those of z take at most 2 MiB on a CPU and 256 MiB elsewhere. They are the same in every
    process, however many rows it has.
    """
    elements = 2**19 if z.device.type == "cpu" else 2**26
    width = max(16, elements // (z.shape[0] * max(sizes)))
    return zip(*(x.split(width, -1) for x in (z, *others)), strict=True)


def _zero_grams(z: Tensor, sizes: list[int]) -> Tensor:
    """Return zeros [K, n, N] for the rows of x_a x_a' that are this process's."""
    return z.new_zeros(z.shape[0], z.shape[1], sum(sizes))


def no_autocast(z: Tensor) -> torch.autocast:
    """Switch autocast off, in forward and backward: the sums stay in the dtype of z."""
    return torch.autocast(z.device.type, enabled=False)

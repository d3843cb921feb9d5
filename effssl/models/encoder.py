"""The encoder that is trained: backbone and projector."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from effssl.config import Model
from effssl.image_config import Augment
from effssl.models.backbones import create_backbone, representation_dim
from effssl.models.small_maps import fast_on_small_maps

Norm = Literal["batch", "layer", "none"]


class Projector(nn.Sequential):
    """An MLP from representation [n, in_dim] to embedding [n, dim].

    It is (Linear, norm, ReLU) x (num_layers - 1), Linear. With norm "batch", 2 layers and
    hidden_dim = dim it is the projector of arXiv 2312.10725, whose last layer has a bias too; with
    3 layers of 8192 that of the official VICReg and Barlow Twins. To losses of centred embeddings a
    bias makes no difference.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        dim: int,
        num_layers: int,
        norm: Norm = "batch",
        bias: bool = False,
    ):
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
        layers: list[nn.Module] = []
        width = in_dim
        for _ in range(num_layers - 1):
            # Batch and layer normalisation bring a bias of their own.
            layers.append(nn.Linear(width, hidden_dim, bias=norm == "none"))
            layers += [norms[norm](hidden_dim), nn.ReLU(inplace=True)]
            width = hidden_dim
        super().__init__(*layers, nn.Linear(width, dim, bias=bias))


class Encoder(nn.Module):
    """A backbone and its projector: images [n, c, h, w] -> (h [n, d_h], z [n, dim]).

    Images may be given in several groups, each of a size of its own: n is that of all. BatchNorm in
    the backbone then takes its statistics from each group by itself, in the projector from all.
    Vectors may stand beside the images, each kind with a projector of its own, in `branches`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        hidden_dim: int,
        dim: int,
        num_layers: int,
        norm: Norm = "batch",
        bias: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        projector = functools.partial(
            Projector, hidden_dim=hidden_dim, dim=dim, num_layers=num_layers, norm=norm, bias=bias
        )
        self.projector = projector(representation_dim(backbone))
        self.branches = nn.ModuleList()
        self._new_projector = projector

    def add_branch(self, in_dim: int) -> None:
        """Add a projector of vectors [n, in_dim], built as that of representations."""
        self.branches.append(self._new_projector(in_dim))

    def forward(self, *groups: Tensor, vectors: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Return the representation h and the embedding z, group after group.

        vectors: [n, in_dim] for each branch; z has their embeddings after those of the images.
        """
        h = torch.cat([self.backbone(images) for images in groups])
        return h, _with_branches(self.projector(h), self.branches, vectors)


class ViewByView(nn.Module):
    """An encoder that takes a view at a time: groups [views * n, c, h, w] -> (h, z) of all.

    BatchNorm's statistics are then those of one view, as in the official code of VICReg and Barlow
    Twins, and not of all views together.

    Args:
        encoder: takes the views.
        num_views: how many there are in each group.
    """

    def __init__(self, encoder: Encoder, num_views: list[int]):
        super().__init__()
        self.encoder, self.num_views = encoder, num_views

    def forward(self, *groups: Tensor, vectors: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Return the representation h and the embedding z, as the encoder does."""
        views = [
            x for k, images in zip(self.num_views, groups, strict=True) for x in images.chunk(k)
        ]
        h = [self.encoder.backbone(view) for view in views]
        z = torch.cat([self.encoder.projector(of_view) for of_view in h])
        return torch.cat(h), _with_branches(z, self.encoder.branches, vectors)


def _with_branches(z: Tensor, branches: nn.ModuleList, vectors: Sequence[Tensor]) -> Tensor:
    """Lay the embeddings of vectors behind those of views."""
    embedded = [branch(x) for branch, x in zip(branches, vectors, strict=True)]
    return torch.cat([z, *embedded]) if embedded else z


def build_encoder(model: Model, augment: Augment, seed: int) -> Encoder:
    """Build backbone and projector, for the views that `augment` makes, with the weights that the
    seed gives, in channels_last.

    Sets torch's global seed. Raises InputError if the backbone cannot be built.
    """
    torch.manual_seed(seed)
    backbone = create_backbone(
        model.backbone,
        augment.image_size,
        stem=model.stem,
        kwargs=model.backbone_kwargs,
        channels=augment.channels,
    )
    fast_on_small_maps(backbone)
    num_layers = model.proj_layers or {"authors": 2, "official": 3}[model.projector]
    hidden_dim = model.proj_hidden_dim or model.proj_dim
    encoder = Encoder(
        backbone, hidden_dim, model.proj_dim, num_layers, model.proj_norm, model.proj_bias
    )
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

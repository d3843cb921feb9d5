"""Every family of timm's models is a backbone: it is built, trains, and is exported."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from torch import nn

from analysis.benchmarks.timm_families import FAMILIES, families_of_timm
from effssl.export.timm_folder import has_small_stem, write_timm_folder
from effssl.models import BackboneSpec, create_backbone, representation_dim
from effssl.models.image_sizes import published_size, try_size
from effssl.optim import build_optimizer

SIZES = (64, 96)  # beside its own
# Those of families that do not take these; Inception and Xception leave rows of even sides
OTHER_SIZES = {
    "byoanet": (),
    "convmixer": (70, 98),
    "crossvit": (120,),
    "deepseek_vit": (84, 126),
    "efficientformer": (),
    "eva": (64, 98),
    "inception_v3": (97,),
    "sequencer": (98, 112),
    "xception": (97,),
}

# Unpadded convolutions one after another leave up to 4 px, beyond what the first one leaves
UNPADDED = ("inception_v3",)
# Their smallest members have 41 to 294 million parameters; they are looked at by shapes alone
LARGE = ("inception_resnet_v2", "inception_v4", "mobilenetv5", "nasnet", "pnasnet", "vgg")


def test_every_family_has_a_member():
    families = families_of_timm()
    assert set(FAMILIES) == set(families)
    assert all(member.name in families[family] for family, member in FAMILIES.items())


def built(family: str) -> tuple[nn.Module, BackboneSpec]:
    """Build the member at three sizes, and return that of the smallest, untrained.

    At its own size, the largest by far, as shapes alone.
    """
    name, kwargs = FAMILIES[family]
    sizes = {own := published_size(name), *OTHER_SIZES.get(family, SIZES)}
    size = min(sizes)
    backbones = {}
    for each in sorted(sizes):
        with torch.device("meta" if each == own != size else "cpu"):
            backbones[each] = create_backbone(name, each, kwargs=kwargs)
    spec = BackboneSpec(name, size, "auto", kwargs, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return backbones[size], spec


def unseen(backbone: nn.Module, side: int) -> int:
    """Return how many pixels at the edges do not move h: their gradient is 0.

    What begins as 0 (the last BatchNorm of a residual branch, say) is not 0 here.
    """
    state = {k: torch.ones_like(p) if not p.any() else p for k, p in backbone.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, side, side, generator=generator, requires_grad=True)
    h = torch.func.functional_call(backbone.eval(), state, (image,))
    (gradient,) = torch.autograd.grad((h * torch.randn(h.shape, generator=generator)).sum(), image)
    seen = gradient.ne(0).any(1)[0]  # [side, side]
    lines = [along.nonzero()[:, 0].tolist() for along in (seen.any(0), seen.any(1))]
    return max(side - (at[-1] - at[0] + 1) for at in lines)


def step(backbone: nn.Module, side: int) -> set[str]:
    """Train one step; return which parameters had a finite gradient that is not all 0..."""
    backbone.train()
    optimizer = build_optimizer(backbone, "adamw", lr=1e-4, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    h = backbone(torch.randn(3, 3, side, side, generator=generator))
    (h * torch.randn(h.shape, generator=generator)).sum().backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in backbone.parameters())
    return {k for k, p in backbone.named_parameters() if p.requires_grad and p.grad is None}


@pytest.mark.slow
@pytest.mark.parametrize("family", LARGE)
def test_a_large_family_can_be_built(family):
    name = FAMILIES[family].name
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0).eval()
    assert try_size(model, 97) == ((1, representation_dim(model)), 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in LARGE])
def test_a_family_is_built_trains_and_is_exported(family, tmp_path):
    torch.manual_seed(0)
    backbone, spec = built(family)
    side = spec.image_size
    if has_small_stem(backbone):  # no argument of timm gives it: tests/export has ResNets with it
        name, kwargs = FAMILIES[family]
        backbone = create_backbone(name, side, stem="timm", kwargs=kwargs)
        spec = dataclasses.replace(spec, stem="timm")
    assert unseen(backbone, side) == 0 or family in UNPADDED
    assert step(backbone, side) == set()  # h depends on every parameter of every family
    write_timm_folder(tmp_path, backbone.eval(), spec, {})  # which compares it with plain timm's

"""BatchNorm's statistics adapted, with tiny encoders on digits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from effssl.evaluation.batch_norm import adapt_batch_norm
from effssl.evaluation.finetune import Recipe, fine_tune
from effssl.models import create_backbone
from tests.evaluation.conftest import CPU
from tests.evaluation.test_finetune import SEEDED, noise, same, tiny


@pytest.mark.parametrize("sizes", [[40], [16, 16, 8], [16, 1, 16]])
def test_batch_norm_is_adapted_to_the_mean_and_variance_of_what_goes_through_it(sizes):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, momentum=0.3),
    )
    net[1].running_mean += 7
    net.train()
    net[2].eval()
    before = copy.deepcopy(net)
    views = [3 * torch.randn(n, 3, 9, 9) + 1 for n in sizes]
    assert adapt_batch_norm(net, views, CPU) == 2
    used = [x for x in views if len(x) > 1]
    total = sum(len(x) for x in used)
    means, variances = [], []
    with torch.no_grad():
        for x in used:  # by hand, layer after layer
            first = before[0](x)
            m1, v1 = first.mean((0, 2, 3)), first.var((0, 2, 3), unbiased=False)
            hidden = ((first - m1[:, None, None]) / (v1[:, None, None] + 1e-5).sqrt()).relu()
            second = before[3](hidden)
            means.append([(len(x) / total) * f.mean((0, 2, 3)) for f in (first, second)])
            variances.append(
                [(len(x) / total) * f.var((0, 2, 3), unbiased=True) for f in (first, second)]
            )
    for norm, mean, variance in zip(
        (net[1], net[4]), zip(*means, strict=True), zip(*variances, strict=True), strict=True
    ):
        torch.testing.assert_close(norm.running_mean, sum(mean), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, sum(variance), rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(p, q) for p, q in zip(net.parameters(), before.parameters(), strict=True)
    )
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    assert (net[1].momentum, net[4].momentum) == (0.1, 0.3)


def test_adapting_changes_the_statistics_of_a_backbone_and_nothing_else(digits):
    data, _, clean = digits
    backbone = tiny().eval()
    before = copy.deepcopy(backbone)
    views = clean(data.train_positions[:300])
    count = adapt_batch_norm(backbone, views, CPU)
    assert count == sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) > 5
    changed = {
        name
        for name, x in backbone.state_dict().items()
        if not torch.equal(x, before.state_dict()[name])
    }
    assert changed == {
        n
        for n in before.state_dict()
        if n.endswith(("running_mean", "running_var", "batches_tracked"))
    }
    fine_tune(
        nn.Sequential(backbone, nn.Linear(16, 2)), noise(2), Recipe(0.1, 0.1, 2), **SEEDED
    )  # it can be trained still
    again = copy.deepcopy(before)
    assert (
        adapt_batch_norm(again, [], CPU) == adapt_batch_norm(again, [views[0][:1]], CPU) == 0
    )  # nothing to adapt it to
    assert same(again, before)


def test_a_backbone_without_batch_norm_is_left_alone_and_says_so():
    torch.manual_seed(0)
    vit = create_backbone(
        "vit_tiny_patch16_224", 16, kwargs="{depth: 1, embed_dim: 32, num_heads: 2}"
    )
    before = copy.deepcopy(vit)
    assert adapt_batch_norm(vit, [torch.randn(4, 3, 16, 16)], CPU) == 0
    assert same(vit, before)

import itertools

import pytest
import torch
from torch import nn

from effssl.config import Model
from effssl.image_config import Augment
from effssl.models import Encoder, Projector, build_encoder, create_backbone, representation_dim
from effssl.models.encoder import ViewByView
from tests.models.test_backbones import images

TINY = "{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}"


def built(seed=0, **settings):
    model = Model(backbone="resnet18", backbone_kwargs=TINY, proj_dim=12, **settings)
    return build_encoder(model, Augment(image_size=8), seed=seed)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_050"])
def test_a_model_with_a_layer_behind_its_features_is_as_wide_as_what_it_gives(name):
    encoder = Encoder(create_backbone(name, 64), 8, 4, 2)
    h, z = encoder(torch.zeros(2, 3, 64, 64))
    assert (h.shape, z.shape) == ((2, representation_dim(encoder.backbone)), (2, 4))


@pytest.mark.parametrize(("layers", "widths"), [(1, [6, 4]), (2, [6, 8, 4]), (3, [6, 8, 8, 4])])
def test_projector_shapes(layers, widths):
    projector = Projector(6, 8, 4, layers)
    linear = [module for module in projector if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == list(itertools.pairwise(widths))
    assert [type(m) for m in projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * (layers - 1) + [
        nn.Linear
    ]
    assert projector(torch.randn(5, 6)).shape == (5, 4)


@pytest.mark.parametrize(
    ("norm", "module", "bias"),
    [("batch", nn.BatchNorm1d, False), ("layer", nn.LayerNorm, False), ("none", nn.Identity, True)],
)
def test_projector_normalisation(norm, module, bias):
    projector = Projector(6, 8, 4, 2, norm)
    assert [type(m) for m in projector] == [nn.Linear, module, nn.ReLU, nn.Linear]
    assert (projector[0].bias is not None, projector[-1].bias is not None) == (bias, False)
    assert projector(torch.randn(5, 6)).shape == (5, 4)


def test_encoder_gives_representation_and_embedding():
    backbone = create_backbone("resnet10t", 32)
    encoder = Encoder(backbone, hidden_dim=8, dim=4, num_layers=2).eval()
    h, z = encoder(images())
    assert h.shape == (2, 512)
    torch.testing.assert_close(h, backbone(images()))
    torch.testing.assert_close(z, encoder.projector(h))
    assert z.shape == (2, 4)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, [12, 12]),
        ({"projector": "authors"}, [12, 12]),
        ({"projector": "official"}, [12, 12, 12]),
        ({"projector": "official", "proj_layers": 1}, [12]),
        ({"proj_hidden_dim": 20, "proj_layers": 4}, [20, 20, 20, 12]),
    ],
)
def test_named_projectors_and_their_changes(settings, widths):
    encoder = built(**settings)
    assert [m.out_features for m in encoder.projector if isinstance(m, nn.Linear)] == widths


def test_the_projector_of_a_run_has_the_normalisation_asked_for():
    encoder = built(proj_norm="layer")
    assert isinstance(encoder.projector, Projector)
    assert isinstance(encoder.projector[1], nn.LayerNorm)


def test_the_seed_alone_decides_the_weights():
    one, again, other = (built(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["projector.0.weight"], other["projector.0.weight"])


def test_a_bias_of_the_last_layer_is_for_who_asks():
    assert built().projector[-1].bias is None
    assert built(proj_bias=True).projector[-1].bias is not None


def test_view_by_view_each_has_batch_statistics_of_its_own():
    encoder = built()
    views = torch.randn(3, 8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views[1] = 2 * views[1] + 5  # statistics of all views would tell the views apart
    h, z = ViewByView(encoder, [3])(views.flatten(0, 1))
    expected = [encoder(view) for view in views]
    torch.testing.assert_close(h, torch.cat([each[0] for each in expected]))
    torch.testing.assert_close(z, torch.cat([each[1] for each in expected]))
    together = encoder(views.flatten(0, 1))[1]
    assert (together - z).abs().max() > 0.01


def test_groups_of_images_of_other_sizes_are_represented_side_by_side():
    encoder = built()
    large, small = torch.randn(6, 3, 16, 16), torch.randn(4, 3, 8, 8)
    h, z = encoder(large, small)
    expected = torch.cat([encoder.backbone(large), encoder.backbone(small)])
    torch.testing.assert_close(h, expected)
    torch.testing.assert_close(z, encoder.projector(expected))  # BatchNorm there is of all ten
    _, by_view = ViewByView(encoder, [3, 2])(large, small)
    each = [encoder(view)[1] for group in (large, small) for view in group.split(2)]
    torch.testing.assert_close(by_view, torch.cat(each))

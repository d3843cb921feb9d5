import pytest
import torch
from torch import nn

from effssl import InputError
from effssl.evaluation.layers import layer_features, layer_names
from effssl.models import create_backbone
from effssl.run.device import Runtime

SMALL = {
    "resnet18": "{channels: [8, 16, 16, 24], layers: [1, 1, 1, 1]}",
    "vit_tiny_patch16_224": "{depth: 3, embed_dim: 32, num_heads: 2}",
    "convnext_atto": "{depths: [1, 1, 1, 1], dims: [8, 8, 16, 24]}",
}
LAYERS = {
    "resnet18": {"act1": 64, "layer1": 8, "layer2": 16, "layer3": 16, "layer4": 24},
    "vit_tiny_patch16_224": {f"blocks.{i}": 32 for i in range(3)},
    "convnext_atto": {"stages.0": 8, "stages.1": 8, "stages.2": 16, "stages.3": 24},
}


def backbone_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, 32, kwargs=SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_features_are_what_hooks_on_the_modules_see_pooled_over_space(name):
    backbone = backbone_of(name)
    x = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = {}

    def note(layer, output):
        if output.ndim == 3:  # tokens: [n, class token and patches, dim]
            seen[layer] = output[:, backbone.num_prefix_tokens :].mean(1)
        else:
            seen[layer] = output.mean((2, 3))

    for layer in LAYERS[name]:
        backbone.get_submodule(layer).register_forward_hook(
            lambda module, inp, out, layer=layer: note(layer, out)
        )
    with torch.no_grad():
        h = backbone.eval()(x)
    expected = dict(seen)
    backbone.train()
    features = layer_features(backbone, x.split(4), Runtime(torch.device("cpu")))
    assert layer_names(backbone) == tuple(LAYERS[name]) == tuple(features)
    assert {layer: f.shape[1] for layer, f in features.items()} == LAYERS[name]
    for layer, f in features.items():
        torch.testing.assert_close(f, expected[layer], rtol=1e-4, atol=1e-5)
    if name == "resnet18":
        torch.testing.assert_close(features["layer4"], h, rtol=1e-4, atol=1e-5)
    assert backbone.training  # and its statistics are what they were
    assert all(
        int(m.num_batches_tracked) == 0 for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)
    )


def test_a_model_whose_layers_are_unknown_is_refused():
    with pytest.raises(InputError, match="Sequential: timm does not give the layers"):
        layer_names(nn.Sequential(nn.Linear(3, 3)))

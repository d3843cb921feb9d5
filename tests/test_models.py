import itertools

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from effssl import InputError
from effssl.models.backbones import (
    Encoder,
    Projector,
    check_takes,
    create_backbone,
    load_backbone,
    load_weights,
    representation_dim,
    save_backbone,
)


def images(n=2, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def description(name, stem="auto", image_size=32, kwargs="{}"):
    what = {"backbone": name, "image_size": image_size, "stem": stem, "backbone_kwargs": kwargs}
    return what | {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}


def disturbed(model):
    """With weights and statistics that no initialisation gives."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.rand(value.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])  # a single first convolution, and a deep stem
@pytest.mark.parametrize(
    ("stem", "image_size", "strides", "side"),
    [("auto", 32, 1, 4), ("small", 64, 1, 8), ("small-s2", 64, 2, 4), ("timm", 64, 4, 2), ("auto", 96, 4, 3)],
)
def test_resnet_stem(name, stem, image_size, strides, side):
    model = create_backbone(name, image_size, stem=stem)
    x = images(size=image_size)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.kernel_size == ((7, 7) if strides == 4 and name == "resnet18" else (3, 3))
    assert first.stride == ((1, 1) if strides == 1 else (2, 2))
    assert any(isinstance(module, nn.MaxPool2d) for module in model.modules()) == (strides == 4)
    assert model.maxpool(model.act1(model.bn1(model.conv1(x)))).shape[-2:] == (image_size // strides,) * 2
    assert model.forward_features(x).shape[-2:] == (side, side)
    assert model(x).shape == (2, model.num_features)


@pytest.mark.parametrize(("image_size", "patch"), [(16, 2), (32, 4), (64, 8)])
def test_vit_gets_a_patch_that_fits(image_size, patch):
    model = create_backbone("vit_tiny_patch16_224", image_size)
    assert model.patch_embed.patch_size == (patch, patch)
    assert model.patch_embed.num_patches == 64
    assert model(images(size=image_size)).shape == (2, model.num_features)


def test_convnext_gets_a_patch_that_fits():
    model = create_backbone("convnext_atto", 32)
    assert model.forward_features(images()).shape[-2:] == (4, 4)
    assert model(images()).shape == (2, model.num_features)


def test_given_arguments_win_over_the_fitting_ones():
    model = create_backbone("vit_tiny_patch16_224", 32, kwargs="{patch_size: 8, depth: 1}")
    assert model.patch_embed.patch_size == (8, 8)
    assert len(model.blocks) == 1


def test_backbone_is_untouched_and_in_training_mode():
    model = create_backbone("resnet10t", 32)
    assert all(module.training for module in model.modules())
    assert all(module.num_batches_tracked == 0 for module in model.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "close"), [("resnet19", "resnet18"), ("vit_tiny_patch16_225", "vit_tiny_patch16_224")]
)
def test_unknown_backbone_names_close_ones(name, close):
    with pytest.raises(InputError, match=rf"{name}.*did you mean.*\b{close}\b"):
        create_backbone(name, 32)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ("[1]", "YAML mapping"),
        ("5", "YAML mapping"),
        ("{a: [}", "YAML mapping"),
        ("{nonsense: 1}", "nonsense"),
        ("{num_classes: 10}", "num_classes"),
        ("{in_chans: 1}", "32 px"),
    ],
)
def test_unusable_arguments_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message) as caught:
        create_backbone("resnet10t", 32, kwargs=kwargs)
    assert "\n" not in str(caught.value)


def test_image_size_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="8 px"):  # an image smaller than its only patch
        create_backbone("vit_tiny_patch16_224", 8, stem="timm")


@pytest.mark.parametrize("size", [64, 96, 224])
def test_a_vit_takes_any_image_size(size):
    assert create_backbone("test_vit", size)(torch.zeros(1, 3, size, size)).shape[1] > 0


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_050"])
def test_a_model_with_a_layer_behind_its_features_is_as_wide_as_what_it_gives(name):
    encoder = Encoder(create_backbone(name, 64), 8, 4, 2)
    h, z = encoder(torch.zeros(2, 3, 64, 64))
    assert (h.shape, z.shape) == ((2, representation_dim(encoder.backbone)), (2, 4))


@pytest.mark.parametrize(
    ("name", "stem", "kwargs"),
    [
        ("resnet10t", "auto", "{}"),
        ("resnet10t", "small-s2", "{drop_path_rate: 0.1}"),
        ("vit_tiny_patch16_224", "auto", "{depth: 2}"),
        ("convnext_atto", "auto", "{}"),
    ],
)
def test_saved_backbone_comes_back(tmp_path, name, stem, kwargs):
    saved, path = disturbed(create_backbone(name, 32, stem=stem, kwargs=kwargs)), tmp_path / "backbone.safetensors"
    save_backbone(saved, path, description(name, stem, kwargs=kwargs))
    loaded, read = load_backbone(path)
    assert not loaded.training
    assert read == description(name, stem, kwargs=kwargs)
    assert [file.name for file in tmp_path.iterdir()] == ["backbone.safetensors"]
    with torch.no_grad():
        assert torch.equal(loaded(images()), saved(images()))


def test_timm_stem_loads_into_plain_timm(tmp_path):
    saved, path = disturbed(create_backbone("resnet18", 64, stem="timm")), tmp_path / "backbone.safetensors"
    save_backbone(saved, path, description("resnet18", "timm", 64))
    plain = timm.create_model("resnet18", num_classes=0)
    plain.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images(size=64)), saved(images(size=64)))


def test_weights_load_strictly(tmp_path):
    model, path = create_backbone("resnet10t", 32), tmp_path / "backbone.safetensors"
    del model.layer4
    save_backbone(model, path, description("resnet10t"))
    with pytest.raises((RuntimeError, InputError), match="layer4"):
        load_backbone(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_backbone(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a backbone"):
        load_backbone(path)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="not a backbone"):
        load_backbone(path)


@pytest.mark.parametrize(("layers", "widths"), [(1, [6, 4]), (2, [6, 8, 4]), (3, [6, 8, 8, 4])])
def test_projector_shapes(layers, widths):
    projector = Projector(6, 8, 4, layers)
    linear = [module for module in projector if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == list(itertools.pairwise(widths))
    assert [type(m) for m in projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * (layers - 1) + [nn.Linear]
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
    encoder = Encoder(backbone, hidden_dim=8, dim=4, layers=2).eval()
    h, z = encoder(images())
    assert h.shape == (2, 512)
    torch.testing.assert_close(h, backbone(images()))
    torch.testing.assert_close(z, encoder.projector(h))
    assert z.shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "stem", "kwargs"),
    [
        ("mobilenetv3_small_050", "small", "{}"),
        ("vit_tiny_patch16_224", "small-s2", "{}"),
        ("resnet10t", "auto", "{act_layer: nope}"),
        ("resnet10t", "auto", "{layers: [1, 1]}"),
        ("resnet10t", "auto", "{global_pool: ''}"),
    ],
)
def test_what_cannot_be_built_is_an_input_error_and_never_silently_something_else(name, stem, kwargs):
    with pytest.raises(InputError, match=name):
        create_backbone(name, 32, stem=stem, kwargs=kwargs)


@pytest.mark.parametrize("size", [32, 64])
def test_a_convnext_keeps_more_of_a_small_image(size):
    x = torch.zeros(1, 3, size, size)
    small, published = (
        create_backbone("convnext_atto", size, stem=s).eval().forward_features(x) for s in ("small", "timm")
    )
    assert small.shape[-1] == 4 * published.shape[-1]


def test_weights_that_do_not_match_their_description_are_an_input_error(tmp_path):
    path = tmp_path / "backbone.safetensors"
    about = {"backbone": "resnet10t", "image_size": 32, "stem": "small", "backbone_kwargs": "{}"}
    save_backbone(create_backbone("resnet18", 32), path, about)
    with pytest.raises(InputError, match="does not hold"):
        load_backbone(path)


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_timm_weights_load_less_their_classifier(tmp_path, name, suffix):
    torch.manual_seed(0)
    published = timm.create_model(name, num_classes=7).eval()
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": published.state_dict()}, file)
    else:
        save_file(published.state_dict(), file)
    backbone, about = load_weights(name, file)
    x = torch.randn(2, 3, about["image_size"], about["image_size"])
    with torch.no_grad():
        expected = published.forward_head(published.forward_features(x), pre_logits=True)
        torch.testing.assert_close(backbone(x), expected)
    assert about["image_size"] == 160
    assert about["mean"] == tuple(published.pretrained_cfg["mean"])


def test_timm_weights_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "weights.pth"
    weights = timm.create_model("test_resnet").state_dict()
    for spoilt in ({**weights, "more": torch.zeros(1)}, dict(list(weights.items())[1:])):
        torch.save(spoilt, file)
        with pytest.raises(InputError, match="not weights of that timm model"):
            load_weights("test_resnet", file)
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="not weights of that timm model"):
        load_weights("test_resnet", file)
    with pytest.raises(InputError, match="did you mean"):
        load_weights("resnett18", file)


def test_a_size_that_a_backbone_does_not_take_is_named():
    vit = timm.create_model("test_vit", num_classes=0)
    check_takes(vit, vit.patch_embed.img_size[0], "mine")
    with pytest.raises(InputError, match="mine does not take images of 40 px"):
        check_takes(vit, 40, "mine")
    assert vit.training

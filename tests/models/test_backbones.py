import pytest
import timm
import torch
from torch import nn

from effssl import InputError
from effssl.models import create_backbone
from effssl.models.backbones import check_takes


def images(n=2, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet10t"]
)  # a single first convolution, and a deep stem
@pytest.mark.parametrize(
    ("stem", "image_size", "strides", "side"),
    [
        ("auto", 32, 1, 4),
        ("small", 64, 1, 8),
        ("small-s2", 64, 2, 4),
        ("timm", 64, 4, 2),
        ("auto", 96, 4, 3),
    ],
)
def test_resnet_stem(name, stem, image_size, strides, side):
    model = create_backbone(name, image_size, stem=stem)
    x = images(size=image_size)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.kernel_size == ((7, 7) if strides == 4 and name == "resnet18" else (3, 3))
    assert first.stride == ((1, 1) if strides == 1 else (2, 2))
    assert any(isinstance(module, nn.MaxPool2d) for module in model.modules()) == (strides == 4)
    assert (
        model.maxpool(model.act1(model.bn1(model.conv1(x)))).shape[-2:]
        == (image_size // strides,) * 2
    )
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
    assert all(
        module.num_batches_tracked == 0
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    )


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
def test_what_cannot_be_built_is_an_input_error_and_never_silently_something_else(
    name, stem, kwargs
):
    with pytest.raises(InputError, match=name):
        create_backbone(name, 32, stem=stem, kwargs=kwargs)


@pytest.mark.parametrize("size", [32, 64])
def test_a_convnext_keeps_more_of_a_small_image(size):
    x = torch.zeros(1, 3, size, size)
    small, published = (
        create_backbone("convnext_atto", size, stem=s).eval().forward_features(x)
        for s in ("small", "timm")
    )
    assert small.shape[-1] == 4 * published.shape[-1]


def test_a_size_that_a_backbone_does_not_take_is_named():
    vit = timm.create_model("test_vit", num_classes=0)
    check_takes(vit, vit.patch_embed.img_size[0], "mine")
    with pytest.raises(InputError, match="mine does not take images of 40 px"):
        check_takes(vit, 40, "mine")
    assert vit.training

import pytest
import timm
import torch
from torch import nn

from effssl import InputError
from effssl.models import create_backbone, representation_dim
from effssl.models.backbones import check_takes, takes_size
from effssl.models.image_sizes import takes_argument, try_size


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


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet10t", "{}"),
        ("vit_tiny_patch16_224", "{depth: 1}"),
        ("swin_tiny_patch4_window7_224", "{depths: [1, 1, 1, 1]}"),
        ("convnext_atto", "{depths: [1, 1, 1, 1]}"),
    ],
)
def test_images_need_not_be_square(name, kwargs):
    model = create_backbone(name, (32, 96), kwargs=kwargs)
    assert model(torch.zeros(2, 3, 32, 96)).shape == (2, model.num_features)
    assert try_size(model.eval(), (32, 96)) == ((1, model.num_features), 0)
    if "vit" in name:  # as many patches as of a square: 8 x 8 of them would be of 7 px
        assert model.patch_embed.patch_size == (8, 8)
        assert model.patch_embed.grid_size == (4, 12)


def test_either_side_that_does_not_fit_is_refused_with_shapes_that_do():
    works = r"px at the edge of images of %s px \(%s and %s px work\); so would .*patch_size: 25"
    for size, said in {
        (100, 150): works % ("100x150", "96x144", "112x160"),
        (150, 100): works % ("150x100", "144x96", "160x112"),
    }.items():
        with pytest.raises(InputError, match=said):
            create_backbone("vit_tiny_patch16_224", size, kwargs="{depth: 1}")
    with pytest.raises(InputError, match=r"convit_tiny cannot .* 96x160 px \(224 px works\)"):
        create_backbone("convit_tiny", (96, 160), kwargs="{depth: 1, local_up_to_layer: 1}")
    convnext = create_backbone("convnext_atto", (96, 160), kwargs="{depths: [1, 1, 1, 1]}")
    with pytest.raises(InputError, match=r"98x160 px \(96x160 and 100x164 px work\): 2 px"):
        check_takes(convnext, (98, 160), "mine")


@pytest.mark.parametrize(
    ("image_size", "patch"), [(24, 3), (28, 4), (36, 4), (42, 6), (50, 5), (60, 6), (62, 2)]
)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_a_small_patch_divides_the_image(name, image_size, patch):
    """A dynamic model would refuse another one, and any other drop the border in silence."""
    model = create_backbone(name, image_size, kwargs="{depth: 1}")
    assert model.patch_embed.patch_size == (patch, patch)
    assert try_size(model.eval(), image_size)[1] == 0


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("swin_tiny_patch4_window7_224", "{depths: [1, 1]}"),
        ("swinv2_cr_tiny_224", "{depths: [1, 1]}"),
        ("cait_xxs24_224", "{depth: 1}"),
        ("pit_ti_224", "{depth: [1, 1, 1]}"),
        ("test_coatnet", "{}"),
        ("beit_base_patch16_224", "{depth: 1}"),
    ],
)
def test_a_model_that_is_made_for_one_size_is_made_for_that_of_the_images(name, kwargs):
    assert create_backbone(name, 96, kwargs=kwargs)(images(size=96)).shape[0] == 2


@pytest.mark.parametrize(
    ("name", "size", "kwargs", "border", "sizes"),
    [
        ("vit_tiny_patch16_224", 100, "{depth: 1}", 4, "96 and 112"),
        ("vit_tiny_patch16_224", 50, "{depth: 1, patch_size: 8}", 2, "48 and 56"),
        ("vit_tiny_patch16_224", 61, "{depth: 1}", 13, "60 and 64"),
        ("swin_tiny_patch4_window7_224", 50, "{depths: [1, 1]}", 2, "48 and 52"),
        ("convnext_atto", 98, "{depths: [1, 1, 1, 1]}", 2, "96 and 100"),
    ],
)
def test_a_border_is_never_dropped_in_silence(name, size, kwargs, border, sizes):
    with pytest.raises(InputError, match=rf"{border} px at the edge.*\({sizes} px work\)"):
        create_backbone(name, size, kwargs=kwargs)


def test_a_patch_that_works_is_named_and_works():
    with pytest.raises(InputError, match=r"{patch_size: 20}"):
        create_backbone("vit_tiny_patch16_224", 100, kwargs="{depth: 1}")
    create_backbone("vit_tiny_patch16_224", 100, kwargs="{depth: 1, patch_size: 20}")


def test_one_row_that_an_overlapping_stem_leaves_is_said():
    with pytest.warns(UserWarning, match="1 px at the edge of images of 76 px"):
        backbone = create_backbone("inception_v3", 76)
    assert try_size(backbone.eval(), 76) == ((1, representation_dim(backbone)), 1)


@pytest.mark.parametrize(
    ("name", "size", "kwargs", "sizes"),
    [
        ("vit_small_patch16_dinov3", 100, "{depth: 1}", "96 and 112 px work"),
        ("nest_tiny", 100, "{}", "96 and 112 px work"),
        ("vit_tiny_patch16_224", 8, "{depth: 1, patch_size: 16}", "16 px works"),
    ],
)
def test_a_model_that_cannot_take_a_size_names_those_that_work(name, size, kwargs, sizes):
    with pytest.raises(InputError, match=rf"cannot be built for images of {size} px \({sizes}\)"):
        create_backbone(name, size, kwargs=kwargs)


def test_an_index_out_of_bounds_is_no_size_that_works():
    """Shapes alone would let it pass."""
    assert not takes_size("mvitv2_tiny", 97, "auto", "{}")


def test_sizes_are_not_named_where_the_arguments_are_wrong():
    with pytest.raises(InputError, match="nonsense") as caught:
        create_backbone("vit_tiny_patch16_224", 100, kwargs="{nonsense: 1}")
    assert "work" not in str(caught.value)


def test_looking_for_what_a_model_takes_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = timm.create_model("swin_tiny_patch4_window7_224", img_size=96, depths=(1,))
    torch.manual_seed(0)
    takes_argument.cache_clear()
    backbone = create_backbone("swin_tiny_patch4_window7_224", 96, kwargs="{depths: [1]}")
    assert torch.equal(backbone.patch_embed.proj.weight, expected.patch_embed.proj.weight)


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


def test_a_size_that_weights_do_not_take_comes_with_those_that_they_take():
    convnext = create_backbone("convnext_atto", 96, kwargs="{depths: [1, 1, 1, 1]}")
    with pytest.raises(InputError, match=r"98 px \(96 and 100 px work\): 2 px at the edge"):
        check_takes(convnext, 98, "mine")
    check_takes(convnext, 100, "mine")


def test_a_border_that_was_published_is_taken():
    """SigLIP has patches of 14 px for images of 384 px."""
    siglip = timm.create_model(
        "vit_so400m_patch14_siglip_384", num_classes=0, depth=1, embed_dim=32, num_heads=2
    )
    assert try_size(siglip.eval(), 384)[1] == 6
    check_takes(siglip, 384, "mine")

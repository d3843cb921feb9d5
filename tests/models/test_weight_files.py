import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from effssl import InputError
from effssl.models import BackboneSpec, create_backbone, load_backbone, save_backbone
from effssl.models.timm_files import load_weights
from effssl.models.weight_files import read_extra
from tests.conftest import write_run
from tests.models.test_backbones import images

pytestmark = pytest.mark.slow


def spec_of(name, stem="auto", image_size=32, kwargs="{}"):
    return BackboneSpec(name, image_size, stem, kwargs, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


def disturbed(model):
    """Give the model weights and statistics that no initialisation gives."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.rand(value.shape, generator=generator))
    return model.eval()


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
    path = tmp_path / "backbone.safetensors"
    saved = disturbed(create_backbone(name, 32, stem=stem, kwargs=kwargs))
    save_backbone(saved, path, spec_of(name, stem, kwargs=kwargs))
    loaded, read = load_backbone(path)
    assert not loaded.training
    assert read == spec_of(name, stem, kwargs=kwargs)
    assert [file.name for file in tmp_path.iterdir()] == ["backbone.safetensors"]
    with torch.no_grad():
        assert torch.equal(loaded(images()), saved(images()))


def test_a_backbone_of_images_that_are_not_square_comes_back(tmp_path):
    path = tmp_path / "backbone.safetensors"
    spec = spec_of("vit_tiny_patch16_224", image_size=(24, 40), kwargs="{depth: 1}")
    saved = disturbed(create_backbone(spec.backbone, (24, 40), kwargs="{depth: 1}"))
    save_backbone(saved, path, spec)
    loaded, read = load_backbone(path)
    assert read == spec
    x = torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        assert torch.equal(loaded(x), saved(x))


@pytest.mark.parametrize(("kept", "window"), [(None, None), (3, None), (None, (0.0, 0.1))])
def test_what_was_black_and_white_comes_back(tmp_path, kept, window):
    path = tmp_path / "backbone.safetensors"
    spec = replace(spec_of("resnet10t"), kept_channels=kept, gray_range=window)
    save_backbone(create_backbone("resnet10t", 32), path, spec)
    read = load_backbone(path)[1]
    assert read == spec and read.keeps_values == (kept is not None)
    assert replace(spec, mean=(0.5,) * 13, std=(0.2,) * 13).keeps_values  # as no RGB could be


def test_a_file_of_the_first_version_loads_and_what_it_says_beside_is_kept_apart(tmp_path):
    """Runs have written these keys since then; a classifier's file says more."""
    path, saved = tmp_path / "backbone.safetensors", create_backbone("resnet10t", 32).eval()
    described = {"backbone": "resnet10t", "image_size": 32, "stem": "auto", "backbone_kwargs": "{}"}
    described |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "supervised": {"accuracy": 0.5}}
    save_file(saved.state_dict(), path, metadata={"effssl": json.dumps(described)})
    assert load_backbone(path)[1] == spec_of("resnet10t")
    assert read_extra(path) == {"supervised": {"accuracy": 0.5}}


def test_what_is_said_beside_the_spec_comes_back(tmp_path):
    path, extra = tmp_path / "backbone.safetensors", {"supervised": {"accuracy": 0.5, "steps": 3}}
    backbone = create_backbone("resnet10t", 32)
    save_backbone(backbone, path, spec_of("resnet10t"), extra)
    assert load_backbone(path)[1] == spec_of("resnet10t")
    assert read_extra(path) == extra
    save_backbone(backbone, path, spec_of("resnet10t"))
    assert read_extra(path) == {}


def test_a_file_that_cannot_be_written_is_an_input_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        save_backbone(
            create_backbone("resnet10t", 32), tmp_path / "file" / "x", spec_of("resnet10t")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_timm_stem_loads_into_plain_timm(tmp_path):
    path = tmp_path / "backbone.safetensors"
    saved = disturbed(create_backbone("resnet18", 64, stem="timm"))
    save_backbone(saved, path, spec_of("resnet18", "timm", 64))
    plain = timm.create_model("resnet18", num_classes=0)
    plain.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images(size=64)), saved(images(size=64)))


def test_weights_that_two_modules_share_are_saved(tmp_path):
    """CoaT's blocks share their position encodings; safetensors takes no shared memory."""
    path, kwargs = tmp_path / "backbone.safetensors", "{serial_depths: [1, 1, 1, 1]}"
    saved = disturbed(create_backbone("coat_lite_tiny", 32, kwargs=kwargs))
    save_backbone(saved, path, spec_of("coat_lite_tiny", kwargs=kwargs))
    with torch.no_grad():
        assert torch.equal(load_backbone(path)[0](images()), saved(images()))


def test_weights_load_strictly(tmp_path):
    model, path = create_backbone("resnet10t", 32), tmp_path / "backbone.safetensors"
    del model.layer4
    save_backbone(model, path, spec_of("resnet10t"))
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


def test_weights_that_do_not_match_their_description_are_an_input_error(tmp_path):
    path = tmp_path / "backbone.safetensors"
    save_backbone(create_backbone("resnet18", 32), path, spec_of("resnet10t", "small"))
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
    backbone, spec = load_weights(name, file)
    x = torch.randn(2, 3, spec.image_size, spec.image_size)
    with torch.no_grad():
        expected = published.forward_head(published.forward_features(x), pre_logits=True)
        torch.testing.assert_close(backbone(x), expected)
    assert spec.image_size == 160
    assert spec.mean == tuple(published.pretrained_cfg["mean"])


@pytest.mark.parametrize("size", [None, 96])
@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
def test_the_spec_of_timm_weights_builds_their_model_again(tmp_path, name, size):
    sized = {"img_size": size} if size and "vit" in name else {}
    torch.save(timm.create_model(name, **sized).state_dict(), tmp_path / "weights.pth")
    backbone, spec = load_weights(name, tmp_path / "weights.pth", size)
    save_backbone(backbone, tmp_path / "backbone.safetensors", spec)
    again, read = load_backbone(tmp_path / "backbone.safetensors")
    assert (read, read.image_size) == (spec, size or 160)
    x = torch.randn(2, 3, spec.image_size, spec.image_size)
    with torch.no_grad():
        assert torch.equal(again(x), backbone(x))


def test_position_embeddings_of_timm_weights_are_resampled_as_timm_does_it(tmp_path):
    published = timm.create_model("test_vit")
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    backbone, spec = load_weights("test_vit", tmp_path / "weights.pth", 96)
    assert spec.image_size == 96
    expected = timm.layers.resample_abs_pos_embed(published.pos_embed, (6, 6))
    assert torch.equal(backbone.pos_embed, expected)


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "test_vit_relpos", "test_coatnet", "mvitv2_tiny"]
)
def test_timm_weights_load_at_another_size(tmp_path, name):
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pth")
    backbone, _ = load_weights(name, tmp_path / "weights.pth", 96)
    assert backbone(images(size=96)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_vit", 100, r"test_vit does not take images of 100 px \(96 and 112 px work\)"),
        ("cait_xxs24_224", 96, "timm fits them to 224 px alone; leave --checkpoint-size away"),
    ],
)
def test_a_size_that_timm_weights_do_not_take_is_named(tmp_path, name, size, message):
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        load_weights(name, tmp_path / "weights.pth", size)


def test_the_folder_of_a_run_that_goes_on_is_refused_and_its_file_is_taken(tmp_path):
    run = write_run(tmp_path / "run")
    file = run / "backbone.safetensors"
    assert load_backbone(run)[1] == load_backbone(file)[1]
    (run / "result.json").unlink()  # as --resume RUN --epochs MORE does
    with pytest.raises(InputError, match=f"run is not finished; go on with: .*, or name {file}"):
        load_backbone(run)
    assert load_backbone(file)[1].backbone == "resnet18"
    (run / "config.yaml").unlink()  # the file alone, as it is given to others
    assert load_backbone(run)[1].backbone == "resnet18"


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

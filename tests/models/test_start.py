"""Weights that training starts from, fitted to the encoder."""

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv

from effssl import InputError
from effssl.config import Model
from effssl.image_config import Augment
from effssl.models import build_encoder
from effssl.models.start import start_from
from effssl.set_defaults import OF_RGB
from tests.conftest import TINY, write_run
from tests.models.test_backbones import images
from tests.models.test_weight_files import disturbed

pytestmark = pytest.mark.slow

TINY_ARGUMENTS = {"channels": [8, 16, 16, 16], "layers": [1, 1, 1, 1]}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OF_RUN = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)  # as write_run has them


def encoder_of(name="resnet18", size=32, kwargs=TINY, **settings):
    return build_encoder(
        Model(backbone=name, backbone_kwargs=kwargs, **settings), Augment(image_size=size), seed=0
    )


def published(folder, name="resnet18", classes=10, **arguments):
    """Write a timm model's weights, classifier included; returns the model and NAME=FILE."""
    model = disturbed(timm.create_model(name, num_classes=classes, **arguments))
    save_file(model.state_dict(), folder / "weights.safetensors")
    return model, f"{name}={folder / 'weights.safetensors'}"


def start(init, encoder, name="resnet18", normalised=IMAGENET):
    return start_from(init, encoder, name, *normalised)


def test_weights_that_fit_give_the_representations_that_timm_gives(tmp_path):
    model, init = published(tmp_path, **TINY_ARGUMENTS)
    encoder = encoder_of(size=64, stem="timm")
    lines = start(init, encoder)
    assert lines == [f"--init {init}: the backbone's weights, all", "the projector is new"]
    x = images(size=64)
    with torch.no_grad():
        h = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(encoder.backbone.eval()(x), h)


def test_a_small_stem_gets_the_first_convolution_resampled(tmp_path):
    model, init = published(tmp_path, **TINY_ARGUMENTS)
    encoder = encoder_of(stem="small")
    (line, _) = start(init, encoder)
    assert line.endswith("fitted: conv1.weight 64x3x7x7 -> 64x3x3x3")
    of_backbone = encoder.backbone.state_dict()
    assert torch.equal(
        of_backbone.pop("conv1.weight"), resample_patch_embed(model.conv1.weight, [3, 3])
    )
    assert of_backbone and all(
        torch.equal(v, model.state_dict()[k]) for k, v in of_backbone.items()
    )


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(("stem", "side"), [("timm", 7), ("small", 3)])
def test_a_first_convolution_of_rgb_is_fitted_to_other_channels(tmp_path, channels, stem, side):
    model, init = published(tmp_path, **TINY_ARGUMENTS)
    augment = Augment(image_size=32, mean=(0.5,) * channels, std=(0.2,) * channels, **OF_RGB)
    encoder = build_encoder(Model(backbone_kwargs=TINY, stem=stem), augment, seed=0)
    (line, *_) = start(init, encoder, normalised=(augment.mean, augment.std))
    assert line.endswith(f"fitted: conv1.weight 64x3x7x7 -> 64x{channels}x{side}x{side}")
    wanted = adapt_input_conv(channels, model.conv1.weight.detach())
    wanted = wanted if side == 7 else resample_patch_embed(wanted, [3, 3])
    assert torch.equal(encoder.backbone.conv1.weight, wanted)


def test_patches_and_position_embeddings_of_a_vit_are_resampled(tmp_path):
    name = "vit_tiny_patch16_224"
    model, init = published(tmp_path, name, depth=1)
    encoder = encoder_of(name, kwargs="{depth: 1}", stem="small")
    (line, _) = start(init, encoder, name, normalised=((0.5,) * 3, (0.5,) * 3))
    assert "pos_embed 1x197x192 -> 1x65x192" in line
    assert "patch_embed.proj.weight 192x3x16x16 -> 192x3x4x4" in line
    wanted = resample_abs_pos_embed(model.pos_embed, [8, 8], num_prefix_tokens=1)
    torch.testing.assert_close(encoder.backbone.pos_embed, wanted)


def test_other_normalisation_is_told(tmp_path):
    _, init = published(tmp_path, "vit_tiny_patch16_224", depth=1)
    encoder = encoder_of("vit_tiny_patch16_224", kwargs="{depth: 1}")
    *_, line = start(init, encoder, "vit_tiny_patch16_224")
    assert line == (
        "their images were normalised by --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5, these are by --mean "
        "0.485 0.456 0.406 --std 0.229 0.224 0.225"
    )


def test_a_run_gives_backbone_and_projector(tmp_path):
    run = write_run(tmp_path / "run")
    last = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    encoder = encoder_of(size=16, proj_dim=8, proj_hidden_dim=12)
    lines = start(str(run), encoder, normalised=OF_RUN)
    assert lines == [f"--init {run}: the backbone's weights, all", "the projector is the run's"]
    assert all(torch.equal(v, last[k]) for k, v in encoder.state_dict().items())


def test_of_a_run_that_goes_on_no_two_states_are_mixed(tmp_path):
    """Its checkpoint has moved on, its backbone is that of the end before."""
    run = write_run(tmp_path / "run")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"]["backbone.conv1.weight"] += 1
    torch.save(state, run / "checkpoint.pt")
    with pytest.raises(InputError, match="are of different weights; let the run finish"):
        start(str(run), encoder_of(size=16, proj_dim=8, proj_hidden_dim=12), normalised=OF_RUN)


@pytest.mark.parametrize("file", ["backbone.safetensors", "folder"])
def test_of_a_run_a_projector_that_does_not_fit_or_is_not_there_stays_new(tmp_path, file):
    run = write_run(tmp_path / "run")
    encoder = encoder_of(size=16, proj_dim=6)
    before = {k: v.clone() for k, v in encoder.projector.state_dict().items()}
    init = str(run) if file == "folder" else f"mine={run / file}"
    _, line = start(init, encoder, normalised=OF_RUN)
    assert line == (
        "the projector is new; the run's does not fit: 0.weight is 12x16, not 6x16"
        if file == "folder"
        else "the projector is new"
    )
    assert all(torch.equal(v, before[k]) for k, v in encoder.projector.state_dict().items())


def test_a_stem_of_another_run_is_resampled_too(tmp_path):
    run = write_run(tmp_path / "run")
    line, *_ = start(str(run), encoder_of(stem="timm", size=64), normalised=OF_RUN)
    assert line.endswith("fitted: conv1.weight 64x3x3x3 -> 64x3x7x7")


def cached(monkeypatch, cache):
    """Let the hub's library know what it has in `cache`, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def test_timms_own_weights_come_from_the_hubs_cache(tmp_path, monkeypatch):
    name = "resnet10t"
    folder = tmp_path / f"models--{timm.get_pretrained_cfg_value(name, 'hf_hub_id')}".replace(
        "timm/", "timm--"
    )
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    model, _ = published(tmp_path, name, classes=1000)
    (tmp_path / "weights.safetensors").rename(folder / "snapshots" / "1" / "model.safetensors")
    cached(monkeypatch, tmp_path)
    encoder = encoder_of(name, kwargs="{}")
    random = torch.get_rng_state()
    lines = start("timm", encoder, name)
    assert lines == ["--init timm: the backbone's weights, all", "the projector is new"]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(encoder.backbone.layer4[0].conv1.weight, model.layer4[0].conv1.weight)


def test_without_a_network_the_ways_out_are_said(tmp_path, monkeypatch):
    cached(monkeypatch, tmp_path)
    with pytest.raises(InputError) as error:
        start("timm", encoder_of("resnet10t", kwargs="{}"), "resnet10t")
    assert "could not be downloaded; get model.safetensors of timm/resnet10t." in str(error.value)
    assert "and give --init resnet10t=FILE" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(InputError, match=f"--init timm: timm has no pretrained weights of {name}"):
        start("timm", None, name)
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"fit --backbone resnet18 with .*: layer1.0.conv1.weight"):
        start(str(run), encoder_of(kwargs="{channels: [4, 4, 4, 4], layers: [1, 1, 1, 1]}"))
    with pytest.raises(InputError, match=r"layer1.1.conv1.weight is missing.* and \d+ more"):
        start(str(run), encoder_of(kwargs="{channels: [8, 16, 16, 16]}"))
    with pytest.raises(InputError, match="no such file"):
        start(f"resnet18={tmp_path / 'nothing.pth'}", encoder_of())
    with pytest.raises(InputError, match="timm has no such model; did you mean"):
        (tmp_path / "x.pth").touch()
        start(f"resnet1={tmp_path / 'x.pth'}", encoder_of())
    with pytest.raises(InputError, match="not weights of that timm model"):
        start(f"resnet18={tmp_path / 'x.pth'}", encoder_of())
    (run / "backbone.safetensors").unlink()
    with pytest.raises(InputError, match="is not finished; go on with"):
        start(str(run), encoder_of())
    with pytest.raises(InputError, match="is not a run"):
        start(str(tmp_path), encoder_of())

"""One small member of each family of timm's models, smaller still where its arguments allow it.

A family is a module of timm. The members stand for it in `analysis.benchmarks.backbones` and in the
tests of all families.
"""

from __future__ import annotations

from typing import NamedTuple

import timm


class Member(NamedTuple):
    """A model that stands for its family."""

    name: str
    """Its name in timm."""
    kwargs: str = "{}"
    """Arguments that make it smaller, as `--backbone-kwargs` takes them."""


FAMILIES = {
    "beit": Member("beit_base_patch16_224", "{depth: 2, embed_dim: 96, num_heads: 3}"),
    "byoanet": Member("halonet26t"),
    "byobnet": Member("test_byobnet"),
    "cait": Member("cait_xxs24_224", "{depth: 2, embed_dim: 96, num_heads: 4}"),
    "coat": Member("coat_lite_tiny", "{serial_depths: [1, 1, 1, 1]}"),
    "convit": Member("convit_tiny", "{depth: 2, local_up_to_layer: 1}"),
    "convmixer": Member("convmixer_768_32"),
    "convnext": Member("test_convnext"),
    "cpubone": Member("cpubone_nano"),
    "crossvit": Member("crossvit_tiny_240", "{depth: [[1, 1, 0], [1, 1, 0], [1, 1, 0]]}"),
    "csatv2": Member("csatv2"),
    "cspnet": Member("cs3darknet_focus_s"),
    "cspnext": Member("cspnext_tiny"),
    "davit": Member("davit_tiny", "{depths: [1, 1, 1, 1], embed_dims: [24, 48, 96, 192]}"),
    "deepseek_vit": Member("deepseek_vit_412m", "{depth: 1, embed_dim: 96, num_heads: 3}"),
    "deit": Member("deit_tiny_distilled_patch16_224", "{depth: 2}"),
    "densenet": Member("densenet121", "{growth_rate: 8, block_config: [2, 2, 2, 2]}"),
    "dla": Member("dla46_c"),
    "dpn": Member("dpn48b"),
    "edgenext": Member("edgenext_xx_small"),
    "efficientformer": Member("efficientformer_l1", "{depths: [1, 1, 1, 2]}"),
    "efficientformer_v2": Member("efficientformerv2_s0"),
    "efficientnet": Member("test_efficientnet"),
    "efficientvim": Member("efficientvim_m1"),
    "efficientvit_mit": Member("efficientvit_b0"),
    "efficientvit_msra": Member("efficientvit_m0"),
    "eva": Member("eva02_tiny_patch14_224", "{depth: 2}"),
    "fasternet": Member("fasternet_t0"),
    "fastvit": Member("fastvit_t8"),
    "focalnet": Member("focalnet_tiny_srf"),
    "gcvit": Member("gcvit_xxtiny"),
    "gemma4_vit": Member("gemma4_vit_167m", "{depth: 1, embed_dim: 96}"),
    "ghostnet": Member("ghostnet_050"),
    "hardcorenas": Member("hardcorenas_a"),
    "hgnet": Member("hgnetv2_b0"),
    "hiera": Member("hiera_tiny_224", "{stages: [1, 1, 1, 1]}"),
    "hieradet_sam2": Member("sam2_hiera_tiny", "{stages: [1, 1, 1, 1]}"),
    "hrnet": Member("hrnet_w18_small"),
    "iformer": Member("iformer_t"),
    "inception_next": Member("inception_next_atto", "{depths: [1, 1, 1, 1]}"),
    "inception_resnet_v2": Member("inception_resnet_v2"),
    "inception_v3": Member("inception_v3"),
    "inception_v4": Member("inception_v4"),
    "lcnetv2": Member("lcnetv2_small"),
    "levit": Member("levit_128s"),
    "lowformer": Member("lowformer_b0"),
    "mambaout": Member("test_mambaout"),
    "maxxvit": Member("test_maxvit"),
    "metaformer": Member("poolformerv2_s12"),
    "mlp_mixer": Member("gmlp_ti16_224"),
    "mobilenetv3": Member("mobilenetv3_small_050"),
    "mobilenetv5": Member("mobilenetv5_300m"),
    "mobilevit": Member("mobilevitv2_050"),
    "mvitv2": Member("mvitv2_tiny"),
    "naflexvit": Member("naflexvit_base_patch16_siglip", "{depth: 1, embed_dim: 96, num_heads: 3}"),
    "nasnet": Member("nasnetalarge"),
    "nest": Member("nest_tiny"),
    "nextvit": Member("nextvit_small", "{depths: [1, 1, 5, 1]}"),
    "nfnet": Member("test_nfnet"),
    "pit": Member("pit_ti_224", "{depth: [1, 1, 1]}"),
    "pnasnet": Member("pnasnet5large"),
    "pvt_v2": Member("pvt_v2_b0", "{depths: [1, 1, 1, 1]}"),
    "qwen3_vit": Member("qwen3_vit_88m", "{depth: 1}"),
    "rdnet": Member("rdnet_tiny"),
    "regnet": Member("regnetx_002"),
    "repghost": Member("repghostnet_050"),
    "repvit": Member("repvit_m0_9"),
    "res2net": Member("res2net50d", "{layers: [1, 1, 1, 1]}"),
    "resnest": Member("resnest14d"),
    "resnet": Member("test_resnet"),
    "resnetv2": Member("resnetv2_18"),
    "rexnet": Member("rexnet_100", "{width_mult: 0.5}"),
    "selecsls": Member("selecsls42b"),
    "senet": Member("legacy_seresnet18"),
    "sequencer": Member("sequencer2d_s", "{layers: [1, 1, 1, 1]}"),
    "shvit": Member("shvit_s1"),
    "sknet": Member("skresnet18"),
    "starnet": Member("starnet_s050"),
    "swiftformer": Member("swiftformer_xs"),
    "swin_transformer": Member(
        "swin_tiny_patch4_window7_224", "{depths: [2, 2], num_heads: [2, 4]}"
    ),
    "swin_transformer_v2": Member(
        "swinv2_tiny_window8_256", "{depths: [2, 2], num_heads: [2, 4], embed_dim: 32}"
    ),
    "swin_transformer_v2_cr": Member("swinv2_cr_tiny_224", "{depths: [1, 1, 1, 1], embed_dim: 48}"),
    "tiny_vit": Member("tiny_vit_5m_224", "{depths: [1, 1, 1, 1]}"),
    "tnt": Member("tnt_s_patch16_224", "{depth: 2}"),
    "tresnet": Member("tresnet_m", "{layers: [1, 1, 1, 1]}"),
    "twins": Member("twins_pcpvt_small", "{depths: [1, 1, 1, 1]}"),
    "vgg": Member("vgg11"),
    "visformer": Member("visformer_tiny"),
    "vision_transformer": Member("test_vit"),
    "vision_transformer_hybrid": Member("vit_tiny_r_s16_p8_224", "{depth: 2}"),
    "vision_transformer_relpos": Member("test_vit_relpos"),
    "vision_transformer_sam": Member(
        "samvit_base_patch16", "{depth: 2, embed_dim: 96, num_heads: 3}"
    ),
    "vitamin": Member("vitamin_small_224"),
    "volo": Member("volo_d1_224"),
    "vovnet": Member("ese_vovnet19b_slim_dw"),
    "xception": Member("legacy_xception"),
    "xception_aligned": Member("xception41"),
    "xcit": Member("xcit_nano_12_p16_224", "{depth: 2}"),
}


def families_of_timm() -> dict[str, list[str]]:
    """Return the names of timm's models by family."""
    names: dict[str, list[str]] = {}
    for name in timm.list_models():
        family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        names.setdefault(family, []).append(name)
    return names

"""timm backbones for images of any size, the encoder around them, and their files of weights."""

from effssl.models.backbones import create_backbone, representation_dim
from effssl.models.encoder import Encoder, Projector, build_encoder
from effssl.models.weight_files import (
    AVERAGED,
    START,
    BackboneSpec,
    load_backbone,
    save_backbone,
)

__all__ = [
    "AVERAGED",
    "START",
    "BackboneSpec",
    "Encoder",
    "Projector",
    "build_encoder",
    "create_backbone",
    "load_backbone",
    "representation_dim",
    "save_backbone",
]

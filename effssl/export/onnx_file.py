"""The backbone in ONNX, for any batch size."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from effssl import InputError
from effssl.export.compare import difference, noise
from effssl.models import BackboneSpec

ONNX = "model.onnx"


def check_onnx_is_installed() -> None:
    """Raise InputError if a package is missing that `write_onnx` needs."""
    needed = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        how_to = "install effssl with the extra: pip install -e '.[onnx]'"
        raise InputError(f"--onnx needs {', '.join(missing)}; {how_to}")


def write_onnx(backbone: nn.Module, spec: BackboneSpec, file: Path) -> None:
    """Write the backbone, and compare what onnxruntime computes with torch.

    Raises InputError if torch cannot express the backbone in ONNX, or if outputs differ by more
    than 1e-4 for 1, 2 or 5 images.
    """
    logging.disable(logging.WARNING)  # the exporter's about every constant that it leaves
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about itself
            torch.onnx.export(
                backbone,
                (noise(2, spec),),
                file,
                dynamo=True,
                input_names=["images"],
                output_names=["representations"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        _compare_with_torch(file, backbone, spec)
    except Exception as error:  # the exporter and onnxruntime raise types of their own
        reason = " ".join(str(error).split())[:200]
        message = f"--onnx: {spec.backbone} does not come out right in ONNX: {reason}"
        raise InputError(message) from None
    finally:
        logging.disable(logging.NOTSET)


def _compare_with_torch(file: Path, backbone: nn.Module, spec: BackboneSpec) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for num_images in (1, 2, 5):
        images = noise(num_images, spec)
        with torch.inference_mode():
            expected = backbone(images)
        (outputs,) = session.run(None, {"images": images.numpy()})
        off = difference(torch.from_numpy(outputs), expected)
        if not off <= 1e-4:
            raise ValueError(f"outputs for {num_images} images differ by {off:.1e}")

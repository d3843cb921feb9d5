"""A finished run's folder -> its settings and its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from effssl import InputError, checkpoint, cli, models
from effssl.config import Config
from effssl.parts import build_encoder


class FinishedRun(NamedTuple):
    folder: Path
    cfg: Config
    backbone: nn.Module
    projector: nn.Module | None  # None where checkpoint.pt was removed


def open_run(folder: Path) -> FinishedRun:
    """Raises InputError where this is no finished run, or its files are damaged."""
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is not a run folder (no config.yaml)")
    if not (folder / "result.json").is_file():
        raise InputError(f"{folder} has not finished; go on with: python -m effssl.train --resume {folder}")
    cfg = cli.load(folder / "config.yaml")
    backbone, _ = models.load_backbone(folder / "backbone.safetensors")
    file = folder / "checkpoint.pt"
    if not file.exists():
        return FinishedRun(folder, cfg, backbone, None)
    encoder = build_encoder(cfg)
    try:
        encoder.load_state_dict(checkpoint.load(file)["model"])
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file} does not hold the encoder that config.yaml describes: {reason}") from None
    return FinishedRun(folder, cfg, backbone, encoder.projector)

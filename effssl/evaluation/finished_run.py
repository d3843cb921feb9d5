"""A finished run, read back from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from effssl import InputError, cli
from effssl.config import Config
from effssl.models import build_encoder, load_backbone
from effssl.run import checkpoint


class FinishedRun(NamedTuple):
    """A run's settings and what it trained."""

    folder: Path
    cfg: Config
    backbone: nn.Module
    projector: nn.Module | None  # None if checkpoint.pt was removed
    known_by: str | None  # what its images are known by: see stored.Data; None likewise


def open_run(folder: Path) -> FinishedRun:
    """Read a run's settings and weights, which are on the CPU.

    Raises InputError if the folder holds no finished run, or if its files are damaged.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is not a run folder (no config.yaml)")
    if not (folder / "result.json").is_file():
        how_to = f"go on with: python -m effssl.train --resume {folder}"
        raise InputError(f"{folder} has not finished; {how_to}")
    cfg = _without_transform(cli.load(folder / "config.yaml"))
    backbone, _ = load_backbone(folder / "backbone.safetensors")
    return FinishedRun(folder, cfg, backbone, *_of_checkpoint(folder / "checkpoint.pt", cfg))


def _without_transform(cfg: Config) -> Config:
    """Return the settings without code of the run's own, which reading a run must not start."""
    if cfg.augment.transform is None:
        return cfg
    print(f"random views are made without the run's --transform {cfg.augment.transform}")
    return replace(cfg, augment=replace(cfg.augment, transform=None))


def _of_checkpoint(file: Path, cfg: Config) -> tuple[nn.Module | None, str | None]:
    """Read the projector, and what the images are known by; None for both without a checkpoint."""
    if not file.exists():
        return None, None
    encoder = build_encoder(cfg.model, cfg.augment, cfg.run.seed)
    try:
        state = checkpoint.load(file)
        of_views = {k: v for k, v in state["model"].items() if not k.startswith("branches.")}
        encoder.load_state_dict(of_views)
    except (KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{file} does not hold the encoder that config.yaml describes: {reason}"
        raise InputError(message) from None
    return encoder.projector, state.get("images")

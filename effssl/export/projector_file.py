"""The projector's weights, from the checkpoint that lies beside a run's backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from effssl import InputError
from effssl.models import Projector
from effssl.models.encoder import Norm
from effssl.run import checkpoint

PROJECTOR = "projector/model.safetensors"


def load_projector(run: Path, backbone: nn.Module) -> Projector:
    """Load the projector of a run, in eval mode on the CPU.

    run: the run's folder, or the backbone.safetensors in it. Raises InputError if there is no
    checkpoint, or if its backbone is not this one.
    """
    folder = run if run.is_dir() else run.parent
    state = checkpoint.load(folder / "checkpoint.pt")["model"]
    there, here = _below("backbone.", state), backbone.state_dict()
    if here.keys() != there.keys() or not all(torch.equal(here[k], there[k]) for k in here):
        files = "checkpoint.pt and backbone.safetensors"
        raise InputError(f"{run}: {files} are of different weights; let the run finish")
    weights = _below("projector.", state)
    linear = [value for value in weights.values() if value.ndim == 2]
    dims = linear[0].shape[1], linear[0].shape[0], linear[-1].shape[0]
    projector = Projector(*dims, num_layers=len(linear), norm=_norm_of(weights))
    projector.load_state_dict(weights)
    return projector.eval()


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _norm_of(weights: dict[str, Tensor]) -> Norm:
    """Return the normalisation after the first linear layer, known by its weights."""
    if "1.weight" not in weights:
        return "none"
    return "batch" if "1.running_mean" in weights else "layer"

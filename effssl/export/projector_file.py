"""The projector, built from the checkpoint that lies beside a run's backbone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from effssl.models import Projector
from effssl.models.encoder import Norm
from effssl.models.weight_files import projector_of

PROJECTOR = "projector/model.safetensors"


def load_projector(run: Path, backbone: nn.Module) -> Projector:
    """Load the projector of a run, in eval mode on the CPU.

    run: the run's folder, or the backbone.safetensors in it. Raises InputError if there is no
    checkpoint, or if its backbone is not this one.
    """
    weights = projector_of(run, backbone.state_dict())
    linear = {name: value for name, value in weights.items() if value.ndim == 2}
    first, last = next(iter(linear.values())), list(linear)[-1]
    projector = Projector(
        first.shape[1],
        first.shape[0],
        linear[last].shape[0],
        num_layers=len(linear),
        norm=_norm_of(weights),
        bias=last.replace("weight", "bias") in weights,
    )
    projector.load_state_dict(weights)
    return projector.eval()


def _norm_of(weights: dict[str, Tensor]) -> Norm:
    """Return the normalisation after the first linear layer, known by its weights."""
    if "1.weight" not in weights:
        return "none"
    return "batch" if "1.running_mean" in weights else "layer"

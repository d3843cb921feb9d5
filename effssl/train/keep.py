"""`--keep`: where training began, kept for the penalty on how far the backbone has moved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from effssl import InputError
from effssl.losses.near_start import FISHER_BATCHES, diagonal_fisher, distance_from_start
from effssl.models import START
from effssl.models.weight_files import read_run_file
from effssl.run.files import atomic

B = TypeVar("B")
FISHER = "fisher.safetensors"  # in a run's folder: what weighs --keep


@dataclass
class Keep:
    """The backbone's parameters, as they are, as they were, and how much each matters."""

    parameters: dict[str, nn.Parameter]
    start: list[Tensor]
    fisher: list[Tensor] | None = None  # None: all matter alike

    @classmethod
    def of(cls, backbone: nn.Module) -> Keep:
        """Take the backbone's weights for those that training starts from."""
        parameters = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
        return cls(parameters, [p.detach().clone() for p in parameters.values()])

    def distance(self) -> Tensor:
        """Return the penalty before weighting: see distance_from_start."""
        return distance_from_start(list(self.parameters.values()), self.start, self.fisher)

    def estimate(
        self, leave_gradients: Callable[[B], object], batches: Generator[B, None, None]
    ) -> None:
        """Weigh the parameters by the Fisher information on FISHER_BATCHES batches."""
        with closing(batches):
            some = itertools.islice(batches, FISHER_BATCHES)
            self.fisher = diagonal_fisher(leave_gradients, some, list(self.parameters.values()))

    def save(self, run: Path) -> None:
        """Write the weights of the parameters, for `load`."""
        assert self.fisher is not None
        weights = {
            k: f.cpu().contiguous() for k, f in zip(self.parameters, self.fisher, strict=True)
        }
        with atomic(run / FISHER) as temporary:
            temporary.write_bytes(save(weights))

    def load(self, run: Path) -> None:
        """Read what the run started from, and what `save` wrote if it did. Raises InputError."""
        begun, _ = read_run_file(run / START)
        self.start = [begun[name].to(p) for name, p in self.parameters.items()]
        if not (run / FISHER).is_file():
            return
        try:
            weights = load_file(run / FISHER)
            self.fisher = [weights[name].to(p) for name, p in self.parameters.items()]
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{run / FISHER} is damaged: {error}") from None

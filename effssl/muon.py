"""timm's Muon with less overhead: fewer products on CPUs, one launch a step on CUDA devices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import timm.optim.muon
import torch
from timm.optim import Muon
from torch import Tensor

_newton_schulz: Callable[..., Tensor] = timm.optim.muon.zeropower_via_newtonschulz
_PLAIN = {"eps": 1e-7, "safety_factor": 1.0, "scale_eps": False}  # what timm has by default
_HAS_CAPTURABLE = "capturable" in inspect.signature(Muon).parameters  # not in older versions


def build_muon(groups: list[dict[str, Any]], lr: float, *, in_a_graph: bool = False) -> Muon:
    """Build Muon (kellerjordan.github.io/posts/muon) on groups of parameters.

    It steps along the nearest orthogonal matrix of each matrix's momentum, convolutions flattened
    to [out, in k k], about as far as AdamW steps (arXiv 2502.16982), though larger rates suit it.
    Groups with `use_fallback` get AdamW with Nesterov's momentum.

    Args:
        groups: parameters on one device.
        lr: learning rate of the groups that have none.
        in_a_graph: whether steps are replayed from a CUDA graph, see `GraphedMuon`.
    """
    timm.optim.muon.zeropower_via_newtonschulz = _orthogonalised  # type: ignore[assignment]
    kind = GraphedMuon if in_a_graph and _HAS_CAPTURABLE else Muon
    return kind(groups, lr=lr, momentum=0.95, nesterov=True, betas=(0.9, 0.999))


class _Captured(NamedTuple):
    """A step in a CUDA graph, and the tensors that it reads the gradients from."""

    graph: torch.cuda.CUDAGraph
    gradients: list[Tensor]


class GraphedMuon(Muon):
    """Muon on a CUDA device, whose steps are replayed from a CUDA graph.

    A step launches some twenty kernels a matrix, most of which run for less time than their launch
    takes. So one step is captured, after a first one that is as usual and sets up what it uses;
    from then on a step copies the gradients to where the graph reads them, and launches it. It is
    captured anew if other parameters than before have gradients, and after `load_state_dict`.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._captured: _Captured | None = None
        self._stepped: list[Tensor] = []  # what the last step moved
        device = self.param_groups[0]["params"][0].device
        self._rates = torch.zeros(len(self.param_groups), device=device).unbind()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the parameters that have gradients by the groups' learning rates."""
        every = [p for group in self.param_groups for p in group["params"]]
        moved = [p for p in every if p.grad is not None]
        for rate, group in zip(self._rates, self.param_groups, strict=True):
            rate.fill_(group["lr"])
        if not _are_same(moved, self._stepped):
            self._captured, self._stepped = None, moved
            self._one_step()
            return
        if self._captured is None:
            self._captured = self._capture(moved)
        torch._foreach_copy_(self._captured.gradients, [p.grad for p in moved])
        self._captured.graph.replay()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, of timm's Muon on any device too."""
        super().load_state_dict(state_dict)
        self._captured, self._stepped = None, []

    def _one_step(self) -> None:
        """Take timm's step, in the form that can be captured: all that changes from step to step
        lies in the device's memory."""
        for p in self._stepped:
            if "step" in self.state[p]:  # loaded from a CPU's checkpoint it lies there
                self.state[p]["step"] = self.state[p]["step"].to(p.device)
        rates = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, self._rates, strict=True):
            group.update(lr=rate, capturable=True)
        try:
            super().step()
        finally:
            for group, lr in zip(self.param_groups, rates, strict=True):
                group.update(lr=lr, capturable=False)

    def _capture(self, moved: list[Tensor]) -> _Captured:
        """Capture a step, which moves nothing yet."""
        given = [p.grad for p in moved]
        read = [torch.empty_like(p) for p in moved]
        graph = torch.cuda.CUDAGraph()
        for p, gradient in zip(moved, read, strict=True):
            p.grad = gradient
        # The loader's threads may use the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._one_step()
        for p, own in zip(moved, given, strict=True):
            p.grad = own
        return _Captured(graph, read)


def _are_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _orthogonalised(
    matrix: Tensor, steps: int, coefficients: list[tuple[float, float, float]], **kwargs: Any
) -> Tensor:
    """Return the nearest orthogonal matrix, about, as timm does, but on CPUs in float32.

    In timm's bfloat16 it takes ten times as long on CPUs without instructions for it. All of
    timm's Muon in this process comes here, so what this project's does not ask for (matrices side
    by side, other settings than the default ones) is timm's business.
    """
    if matrix.device.type != "cpu":
        return _newton_schulz(matrix, steps, coefficients, **kwargs)
    is_plain = matrix.ndim == 2 and kwargs.items() <= _PLAIN.items()
    if not is_plain or max(matrix.shape) < 2 * min(matrix.shape):
        return _newton_schulz(matrix, steps, coefficients, **{"dtype": torch.float32} | kwargs)
    return _orthogonalised_by_gram(matrix, [*coefficients, *steps * coefficients[-1:]][:steps])


def _orthogonalised_by_gram(
    matrix: Tensor, coefficients: list[tuple[float, float, float]]
) -> Tensor:
    """Iterate X <- (a I + b X X' + c (X X')^2) X, on the Gram matrix X X' alone until the end.

    All factors are polynomials of the first X X', so they commute, and the long side of X takes
    part in two products in place of two for each of the coefficients.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().mT if is_tall else matrix.float()
    x = x / x.norm().clamp(min=1e-7)
    gram = x @ x.mT
    factors = None
    for step, (a, b, c) in enumerate(coefficients, 1):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        factors = factor if factors is None else factor @ factors
        if step < len(coefficients):
            gram = factor @ gram @ factor
    assert factors is not None
    return (factors @ x).mT if is_tall else factors @ x

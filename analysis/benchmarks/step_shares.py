"""The part of a ResNet-50 training step that augmentation takes, and that which waits for the
loader."""

from __future__ import annotations

from contextlib import closing
from time import perf_counter
from typing import Any

import numpy as np
import torch

from analysis.benchmarks.cases import Case, chosen_positions
from analysis.benchmarks.loaders import open_stream
from effssl.models import create_backbone
from effssl.run.device import Runtime

WARM_STEPS = 2  # compiled, allocated


def step_shares(
    base: Case, runtime: Runtime, *, views: int = 8, batch: int = 256, seconds: float = 20
) -> dict[str, Any]:
    """Measure steps on K views of a batch. The views go through the encoder one after the other, as
    all at once would not fit at 224 px."""
    case = base._replace(views=views, colour=True, batch=min(batch, base.images))
    step = _Step(case.size, runtime)
    stream, chosen = open_stream(case, runtime), chosen_positions(case)
    order = np.resize(chosen, max(len(chosen), 4 * case.batch))  # a small set more than once
    spent, steps, epoch = {"wait": 0.0, "augment": 0.0, "step": 0.0}, 0, 0

    def now() -> float:
        runtime.wait()
        return perf_counter()

    def is_over() -> bool:
        return steps > WARM_STEPS and sum(spent.values()) >= seconds

    while not is_over():
        began = now()
        with closing(stream.load(order, epoch)) as batches:
            for pixels, positions in batches:
                arrived = now()
                (x,) = stream.make_views(pixels, positions, epoch)
                augmented = now()
                step(x)
                done = now()
                if steps >= WARM_STEPS:
                    spent["wait"] += arrived - began
                    spent["augment"] += augmented - arrived
                    spent["step"] += done - augmented
                steps, began = steps + 1, done
                if is_over():
                    break
        epoch += 1
    ms = {key: 1000 * s / (steps - WARM_STEPS) for key, s in spent.items()}
    about = {"size": case.size, "views": views, "batch": case.batch, "workers": case.workers}
    return (
        about
        | {"steps": steps - WARM_STEPS}
        | {f"{key}_ms": float(f"{x:.3g}") for key, x in ms.items()}
        | {"augment_share": round(ms["augment"] / ms["step"], 4)}
        | {"wait_share": round(ms["wait"] / sum(ms.values()), 4)}
    )


class _Step:
    """A step of a ResNet-50 on views [views, batch, 3, size, size], with a loss that costs
    nothing."""

    def __init__(self, size: int, runtime: Runtime):
        self._runtime = runtime
        backbone = create_backbone("resnet50", size, stem="auto", kwargs="{}").to(runtime.device)
        self._backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)

    def __call__(self, views: torch.Tensor) -> None:
        for view in views:
            with self._runtime.autocast():
                h = self._backbone(view.contiguous(memory_format=torch.channels_last))
            h.float().square().mean().backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

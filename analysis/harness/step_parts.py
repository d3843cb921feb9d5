"""The parts of a training step, which benchmarks/step.py measures."""

from __future__ import annotations

PARTS = ("loader", "augmentation", "encoder", "projector and loss", "optimizer")


def shown(ms: dict[str, float]) -> dict[str, str]:
    """Return the milliseconds of a whole step and of its parts, as a table shows them."""
    return {"ms a step": f"{sum(ms.values()):.1f}"} | {part: f"{ms[part]:.1f}" for part in PARTS}

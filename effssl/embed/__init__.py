"""Write the representations of images that a run's backbone gives.

effssl embed runs/RUN --images DIR --to FILE.npz
effssl embed runs/RUN --data cifar10 --data-dir DIR --split test --to FILE.parquet
"""

from __future__ import annotations

from typing import Any

__all__ = ["embed_folder", "embed_set"]


def __getattr__(name: str) -> Any:
    # `from effssl.embed import embed_folder` imports torch, which takes seconds (PEP 562), and
    # `python -m effssl.embed --help`, which imports this package too, does not.
    if name in __all__:
        from effssl.embed import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

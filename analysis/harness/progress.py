"""How much of a set of runs is trained, as a bar."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from effssl.config import Config
from effssl.run.log import read_metrics

Show = Callable[[int, bool], None]  # how many runs are finished; whether to show it at once


@contextlib.contextmanager
def bar(
    configs: Mapping[str, Config],
    missing: list[str],
    folder: Path,
    costs: Mapping[str, float] | None = None,
) -> Iterator[Show]:
    """Give a function that shows how much of the training is done; without missing runs it is
    silent.

    Progress is counted in `costs` by run; without them in encoded views of the whole set, which are
    what most of the time goes to.
    """
    cost = costs or {
        name: cfg.optim.epochs * cfg.images.fraction * cfg.num_views
        for name, cfg in configs.items()
    }
    trained = set(missing)

    def done() -> float:
        return sum(
            cost[name] * (_share_done(folder / name, cfg) if name in trained else 1.0)
            for name, cfg in configs.items()
        )

    every_s, shown_s = (1 if sys.stderr.isatty() else 30), time.monotonic()
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} to go"
    title = f"{len(configs) - len(missing)} of {len(configs)} runs"
    total = sum(cost[name] for name in configs)
    shown = tqdm(total=total, initial=done(), desc=title, bar_format=layout, disable=not missing)

    def show(finished: int, at_once: bool) -> None:
        nonlocal shown_s
        if at_once or time.monotonic() - shown_s > every_s:
            shown_s = time.monotonic()
            shown.set_description_str(f"{finished} of {len(configs)} runs", refresh=False)
            shown.n = done()
            shown.refresh()

    with shown:
        yield show


def _share_done(run: Path, cfg: Config) -> float:
    """Return the part of a run's training that is done, in [0, 1]."""
    if (run / "result.json").is_file():
        return 1.0
    metrics = read_metrics(run)
    if not metrics:
        return 0.0
    in_time = metrics[-1]["seconds"] / cfg.optim.max_seconds if cfg.optim.max_seconds else 0.0
    return min(1.0, max(metrics[-1]["epoch"] / cfg.optim.epochs, in_time))

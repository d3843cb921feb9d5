"""A training that ends after its first step and says when it came where: start.py's process.

python -m analysis.benchmarks.start_parts SECONDS_SINCE_1970 FLAGS, the time of the command."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from contextlib import suppress
from unittest import mock

from effssl.cli import parse
from effssl.run import signals


class _Begun(BaseException):
    """The first step is done."""


def main(argv: list[str]) -> int:
    return signals.exit_code(lambda: _begin(float(argv[0]), argv[1:]))


def _begin(began_s: float, flags: list[str]) -> None:
    cfg = parse(flags)
    ends: dict[str, list[float]] = {}

    def ends_here(part: str) -> None:
        ends[part] = [time.time() - began_s, time.process_time()]

    from numba.core import event

    with event.install_recorder("numba:compile") as compilations:
        from effssl.run.log import RunLog
        from effssl.train import loop

        def first_step(*_):
            ends_here("first step")
            raise _Begun

        ends_here("imports")
        run = dataclasses.replace(cfg.run, log_every=1)
        job = loop.build_job(dataclasses.replace(cfg, run=run))
        ends_here("images and model")
        with (
            mock.patch.object(RunLog, "probe", lambda *_: ends_here("picture and untrained probe")),
            mock.patch.object(RunLog, "train", first_step),
            suppress(_Begun),
        ):
            loop.train(job)
    print(json.dumps(ends | {"numba": _compiled(compilations.buffer)}), flush=True)


def _compiled(events: list) -> list[float]:
    """Return how many functions were compiled, those that others called included, and seconds."""
    depth, seconds, began_s = 0, 0.0, 0.0
    for at_s, one in events:
        if one.is_start:
            began_s = at_s if depth == 0 else began_s
        else:
            seconds += at_s - began_s if depth == 1 else 0.0
        depth += 1 if one.is_start else -1
    return [sum(one.is_start for _, one in events), seconds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

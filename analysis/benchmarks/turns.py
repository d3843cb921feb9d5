"""Loaders by turns: each in a process of its own, and only one at a time."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

import torch

from analysis.benchmarks.cases import Case, Pass
from analysis.benchmarks.loaders import effssl_views
from analysis.benchmarks.other_loaders import (
    ffcv_views,
    lightly_views,
    solo_views,
    torchvision_views,
)

OURS = "effssl"
CONTENDERS: dict[str, Callable[[Case, str], Pass]] = {
    OURS: effssl_views,
    "FFCV, a pipeline per view": ffcv_views,
    "torchvision": torchvision_views,
    "lightly": lightly_views,
    "solo-learn": solo_views,
    "effssl without FFCV": functools.partial(effssl_views, reader="threads"),
}
COLOUR_ONLY = ("lightly", "solo-learn")  # their own pipelines, which end in normalised tensors


class Turns:
    """The loaders' processes, as a context that ends them."""

    def __init__(self, names: Iterable[str], device: str):
        self._running: dict[str, tuple[Any, Connection]] = {}
        self._device = device
        self._names = list(names)

    def __enter__(self) -> Turns:
        context: Any = multiprocessing.get_context("spawn")
        for name in self._names:
            here, there = context.Pipe()
            worker = context.Process(target=_serve, args=(name, there, self._device))
            worker.start()
            there.close()
            self._running[name] = worker, here
        return self

    def __exit__(self, *_: object) -> None:
        for worker, connection in self._running.values():
            connection.close()  # it ends when it reads on
            worker.join(timeout=10)
            worker.kill()

    def images_per_s(self, name: str, case: Case, turn_s: float) -> float:
        """Give a loader a turn of whole passes, at least `turn_s` seconds long. Raises RuntimeError
        if it fails or dies."""
        _, connection = self._running[name]
        try:
            connection.send((case, turn_s))
            answer = connection.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"{name} died at {case}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{name} failed at {case}: {answer}")
        return answer


def _serve(name: str, connection: Connection, device: str) -> None:
    """Take turns, in a process of its own, until the other end is closed."""
    passes: dict[Case, Pass] = {}
    epoch = 0
    while True:
        try:
            case, turn_s = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if case not in passes:
                passes = {c: p for c, p in passes.items() if c[:2] == case[:2]}
                passes[case] = CONTENDERS[name](case, device)
            began, images = time.perf_counter(), 0
            while images == 0 or time.perf_counter() - began < turn_s:
                delivered = sum(passes[case](epoch))
                if delivered != case.images * max(1, case.views):
                    raise RuntimeError(f"{delivered} views of {case.images} images")
                images, epoch = images + case.images, epoch + 1
            if device != "cpu":
                torch.cuda.synchronize()
            connection.send(images / (time.perf_counter() - began))
        except Exception as error:  # it is raised where the answer is read
            connection.send(repr(error))

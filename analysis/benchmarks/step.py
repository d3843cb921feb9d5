"""Where the time of a training step goes: waiting for images, making views, encoder, projector and
loss, optimizer.

python -m analysis.benchmarks.step --data-dir DIR -- --config configs/cifar10_cpu.yaml
python -m analysis.benchmarks.step --vary "--views 2" --vary "--views 8"      # the digits

Prints the milliseconds of each part: medians of steps that train, all settings by turns, so that a
machine that slows down slows all. Views that grow have their last size. The device is waited for
after each part, so on a GPU the parts together take longer than a step that is not measured. With
--bare, forward and backward of the backbone alone, on views that are there, take turns with them:
what part of a step they are, and how many times their memory a step takes at its peak. Nothing is
written."""

from __future__ import annotations

import argparse
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from tqdm import tqdm

from analysis.benchmarks.bare import passes, peak_mb, views_mb
from analysis.harness import cli
from analysis.harness.tables import markdown
from effssl.cli import parse
from effssl.config import Config

BARE = "bare backbone"
PARTS = ("loader", "augmentation", "encoder", "projector and loss", "optimizer")


def main(argv: list[str] | None = None) -> int:
    own, further = cli.split_further(argv)
    parser = cli.Parser(__doc__, "-- FLAGS: flags of effssl.train for all settings")
    parser.add_argument(
        "--data-dir", type=cli.path, default=Path("data"), help="folder of the images"
    )
    parser.add_argument(
        "--vary",
        action="append",
        metavar="FLAGS",
        help='flags of one of the settings, as one word: "--views 8"; may be repeated',
    )
    parser.add_argument("--rounds", type=cli.count, default=12, help="steps of each that count")
    parser.add_argument("--bare", action="store_true", help="measure the backbone alone, too")
    parser.add_argument("--threads", type=cli.count, help="of torch on a CPU (default: torch's)")
    args = parser.parse_args(own)
    return cli.exit_code(lambda: _measure_and_print(args, further), resumes=False)


def _measure_and_print(args: argparse.Namespace, further: list[str]) -> None:
    settings = {
        vary or "as given": parse([*further, "--data-dir", str(args.data_dir), *shlex.split(vary)])
        for vary in args.vary or [""]
    }
    measured = measure(settings, rounds=args.rounds, threads=args.threads, bare=args.bare)
    print(markdown([{"settings": name} | shown(ms) for name, ms in measured.items()]), flush=True)
    if args.bare:  # every run is opened twice more, so what is known is printed before
        memory = {name: memory_mb(cfg) for name, cfg in settings.items()}
        print(markdown([{"settings": name} | shown_memory(*mb) for name, mb in memory.items()]))


def shown(ms: dict[str, float]) -> dict[str, str]:
    """Return the milliseconds of a step and of its parts, as text; and those of the bare backbone,
    if they were measured."""
    whole = sum(ms[part] for part in PARTS)
    row = {"ms a step": f"{whole:.1f}"} | {part: f"{ms[part]:.1f}" for part in PARTS}
    if BARE in ms:
        row |= {BARE: f"{ms[BARE]:.1f}", "part of a step": f"{ms[BARE] / whole:.3f}"}
    return row


def shown_memory(bare: float, whole: float) -> dict[str, str]:
    """Return the megabytes of the bare backbone and of a step, as text."""
    sizes = {"MB, bare": f"{bare:.0f}", "MB, a step": f"{whole:.0f}"}
    return sizes | {"times": f"{whole / bare:.2f}"}


def measure(
    settings: dict[str, Config],
    *,
    rounds: int = 12,
    seconds: float = 60.0,
    threads: int | None = None,
    bare: bool = False,
) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each part of a training step, by the name of the settings: medians
    over `rounds`, fewer (but three) once `seconds` are over. threads: of torch on a CPU. bare: of
    the backbone alone too, as BARE."""
    before = torch.get_num_threads()
    times: dict[str, list[list[float]]] = {name: [] for name in settings}
    with ExitStack() as stack:
        if threads is not None:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        turns = {name: [_steps(cfg)] + [passes(cfg)] * bare for name, cfg in settings.items()}
        for generator in itertools.chain(*turns.values()):
            stack.enter_context(closing(generator))
        began = time.monotonic()
        for turn in tqdm(range(rounds + 2), desc="parts of a step", unit="turn", leave=False):
            if turn >= 5 and time.monotonic() - began > seconds:
                break
            for name, generators in turns.items():
                taken = [s for generator in generators for s in next(generator)]
                if turn >= 2:  # the first ones compile and allocate
                    times[name].append(taken)
    return {name: _medians(taken) for name, taken in times.items()}


def _medians(taken: list[list[float]]) -> dict[str, float]:
    columns = zip(*taken, strict=True)
    names = (*PARTS, BARE)  # the last one if it was measured
    return {name: 1000 * statistics.median(c) for name, c in zip(names, columns, strict=False)}


def memory_mb(cfg: Config) -> tuple[float, float]:
    """Return the megabytes that a pass of the bare backbone and a training step take at their peak,
    the views included, and not what stays: weights, and what the optimizer notes of them."""
    peaks = []
    for generator, held in ((passes(cfg), views_mb(cfg)), (_steps(cfg), 0.0)):
        with closing(generator):
            next(generator), next(generator)
            peaks.append(held + peak_mb(lambda: next(generator), cfg.run.device))  # noqa: B023
    bare, whole = peaks
    return bare, whole


def _steps(cfg: Config) -> Generator[list[float], None, None]:
    """Train, and give the seconds of each of PARTS after every step: what train/loop.py does, cut
    where the parts meet."""
    from effssl.train.job import build_job  # slow, and not needed for --help
    from effssl.train.step import in_a_row

    job = build_job(cfg)
    encoder, runtime, stream = job.encoder, job.runtime, job.stream
    backbone, projector = (
        torch.compile(module) if runtime.compile else module
        for module in (encoder.backbone, encoder.projector)
    )

    def now() -> float:
        runtime.wait()
        return time.perf_counter()

    for epoch in itertools.count():
        order = job.positions(epoch)
        began = now()
        for pixels, positions in stream.load(order, epoch):
            loaded = now()
            groups = [in_a_row(views) for views in stream.make_views(pixels, positions, epoch)]
            viewed = now()
            with runtime.autocast():
                h = torch.cat([backbone(views) for views in groups])
            encoded = now()
            cut = h.detach().requires_grad_()
            with runtime.autocast():
                z = projector(cut)
            job.loss_of(z.unflatten(0, (cfg.num_views, -1)))["loss"].backward()
            lost = now()
            h.backward(cut.grad)
            differentiated = now()
            job.optimizer.step()
            job.optimizer.zero_grad(set_to_none=True)
            encoder_s = (encoded - viewed) + (differentiated - lost)
            optimizer_s = now() - differentiated
            yield [loaded - began, viewed - loaded, encoder_s, lost - encoded, optimizer_s]
            began = now()


if __name__ == "__main__":
    sys.exit(main())

"""What one call of the losses costs: time against views K and width d, time and memory against
double loops over pairs.

python -m analysis.benchmarks.losses               # minutes on two cores; nothing else should run
python -m analysis.benchmarks.losses --quick       # under a minute: to see that it works

Times are medians, for float32 z [K, N, d]. The settings of one d take turns, each spread evenly
over the whole time, so that a machine that slows down slows them all. A double loop of over 10 s is
called once, not at least three times. Peak memory is that of one call in a process of its own,
beyond z and its gradient. double_loops.py has what is compared."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.benchmarks.double_loops import barlow_loop, vicreg_loop
from analysis.benchmarks.losses_report import report
from analysis.harness import cli
from effssl import InputError
from effssl.losses import barlow_twins, redundancy_weight, vicreg
from effssl.run.device import open_runtime
from effssl.run.files import check_writable

NAN = float("nan")  # not measured
ONCE_MS = 10_000  # over which one call of a double loop is enough
LOSSES = (VICREG, ALL, POOLED) = ("VICReg", "Barlow Twins, all", "Barlow Twins, pooled")


class Case(NamedTuple):
    """One of the settings."""

    loss: str
    loop: int  # 1 for the double loop, 0 for this project's code
    views: int
    batch: int
    dim: int


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--out", type=cli.path, default=Path("runs/losses_cost"), help="where table and picture go")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--batch", type=int, default=256, metavar="N")
    add("--views", type=int, nargs="+", default=[2, 4, 8, 16], metavar="K")
    add("--dims", type=int, nargs="+", default=[256, 2048, 8192], metavar="D")
    add(
        "--repeats",
        type=int,
        default=0,
        help="calls a setting (default: 0.5 s of them, 3 at least)",
    )
    add("--quick", action="store_true", help="d = 64 and 256 only, 0.1 s a setting")
    add("--memory-of", help=argparse.SUPPRESS)  # a Case in JSON: what `memory` starts
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _measure_and_report(args), resumes=False)


def _measure_and_report(args: argparse.Namespace) -> None:
    for flag, least in {"views": 2, "dims": 1, "batch": 2, "repeats": 0}.items():
        if np.min(getattr(args, flag)) < least:
            raise InputError(f"--{flag} {np.min(getattr(args, flag))}: at least {least}")
    device = open_runtime(args.device).device
    check_losses(device)
    if args.memory_of:
        print(json.dumps(memory_here(Case(*json.loads(args.memory_of)), device)))
        return
    check_writable(args.out, f"--out {args.out}")
    views, dims = sorted(set(args.views)), [64, 256] if args.quick else sorted(set(args.dims))
    budget = args.repeats, 100 if args.quick else 500
    rows = [row for dim in dims for row in measure(views, args.batch, dim, device, *budget)]
    report(rows, device, args.out)


def measure(
    views: list[int], batch: int, dim: int, device: torch.device, repeats: int, budget_ms: float
) -> list[dict[str, Any]]:
    """Return a row for each loss and K, and for each double loop at K = 8, of `repeats` calls each,
    or what `budget_ms` allow."""
    many = 8 if 8 in views else views[-1]
    settings = [*product(LOSSES, [0], views), *((loss, 1, many) for loss in LOSSES)]
    cases = [Case(*setting, batch, dim) for setting in settings]
    peaks, notes = dict.fromkeys(cases, NAN), dict.fromkeys(cases, "")
    calls: dict[Case, list[list[float]]] = {case: [] for case in cases}
    of_many = [case for case in cases if case.views == many]
    for case in tqdm(of_many, desc=f"d = {dim}, memory", leave=False):
        peaks[case], once, notes[case] = memory(case, device)
        if case.loop and once[1] > ONCE_MS and not repeats:
            calls[case].append(once)
    timed = [case for case in cases if not notes[case] and not calls[case]]
    z = {case.views: embeddings(case, device) for case in timed}
    turns: list[tuple[float, int]] = []
    for i, case in enumerate(tqdm(timed, desc=f"d = {dim}, warm-up", leave=False)):
        try:
            _, took_ms = call(case, z[case.views])
            n = repeats or min(300, max(3, int(budget_ms / took_ms)))
            turns += [((j + 0.5) / n, i) for j in range(n)]
        except (RuntimeError, MemoryError) as error:  # out of memory
            notes[case] = str(error).partition("\n")[0][:100]
    for _, i in tqdm(sorted(turns), desc=f"d = {dim}, time", leave=False):
        calls[timed[i]].append(call(timed[i], z[timed[i].views]))
    return [_row(case, calls[case], peaks[case], notes[case]) for case in cases]


def _row(case: Case, calls: list[list[float]], peak_mb: float, note: str) -> dict[str, Any]:
    quartiles = np.percentile(calls or [[NAN, NAN]], (25, 50, 75), axis=0)
    (_, q1), (forward, both), (_, q3) = quartiles
    numbers = {"forward_ms": forward, "both_ms": both, "q1_ms": q1, "q3_ms": q3, "peak_mb": peak_mb}
    rounded = {name: float(f"{x:.3g}") for name, x in numbers.items()}
    return case._asdict() | {"calls": len(calls)} | rounded | {"note": note}


def call(case: Case, z: Tensor) -> list[float]:
    """Return the milliseconds of forward, and of forward and backward."""

    def now() -> float:
        getattr(torch, z.device.type).synchronize()  # does nothing on a CPU
        return time.perf_counter()

    began, loss, forward = now(), value(case.loss, case.loop, z), now()
    torch.autograd.grad(loss, z)
    return [1000 * (forward - began), 1000 * (now() - began)]


def memory(case: Case, device: torch.device) -> tuple[float, list[float], str]:
    """Return `memory_here` in a process of its own, and nothing more; or nan, and why: it would not
    fit, or died."""
    pairs = case.views * (case.views - 1) // 2
    matrices = {VICREG: case.views, ALL: pairs, POOLED: 0}[case.loss] + 5
    embedded = 2 * case.views**2 * case.batch * case.dim
    need = 4 * case.loop * (matrices * case.dim**2 + embedded)
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_gpu else _status("MemAvailable", "meminfo")
    if need > 0.9 * free:
        why = f"does not fit: needs about {need / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
        return NAN, [NAN, NAN], why
    command = [sys.executable, "-m", "analysis.benchmarks.losses", "--device", str(device)]
    command += ["--memory-of", json.dumps(case)]
    # What lives is counted, not what malloc keeps.
    counted = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}
    importable = {"PYTHONPATH": os.pathsep.join(sys.path)}
    env = os.environ | counted | importable
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode == 0:
        return (*json.loads(done.stdout), "")
    last_line = ["", *done.stderr.split("\n")][-2]
    return NAN, [NAN, NAN], f"died with {done.returncode}: {last_line[:100]}"


def memory_here(case: Case, device: torch.device) -> tuple[float, list[float]]:
    """Return the MB that one call takes at its peak beyond z and its gradient, and its times as
    `call` gives them."""
    z = embeddings(case, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before, ms = torch.cuda.memory_allocated(), call(case, z)
        after = torch.cuda.max_memory_allocated()
    else:
        limit = int(_status("VmSize") + 0.9 * _status("MemAvailable", "meminfo"))
        with contextlib.suppress(ValueError):  # a lower one is set
            # An error rather than a machine out of memory.
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with contextlib.suppress(OSError):
            # Should it come to that, this process is to end.
            Path("/proc/self/oom_score_adj").write_text("1000")
            Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        before, ms, after = _status("VmHWM"), call(case, z), _status("VmHWM")
    return max(4096, after - before - z.nbytes) / 1e6, ms


def _status(key: str, file: str = "self/status") -> int:
    lines = Path("/proc", file).read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def embeddings(case: Case, device: torch.device) -> Tensor:
    """Return related views z [views, batch, dim]: what they share, and each its own noise."""
    torch.manual_seed(0)
    shape = case.batch, case.dim
    image, z = (torch.randn(k, *shape, device=device) for k in (1, case.views))
    return z.mul_(0.5).add_(image).requires_grad_()


def check_losses(device: torch.device) -> None:
    """Load what a first call loads, and see that losses and double loops are the same."""
    z = embeddings(Case("", 0, 4, 6, 20), device)
    for loss in LOSSES:
        both = [value(loss, loop, z) for loop in (0, 1)]
        gradients = [torch.autograd.grad(x, z)[0] for x in both]
        pairs = (both, gradients)
        assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in pairs), loss


def value(loss: str, loop: int, z: Tensor) -> Tensor:
    """Return a loss of z [views, batch, dim], by this project's code or by a double loop."""
    if loss == VICREG:
        return vicreg_loop(z) if loop else vicreg(z).loss
    if loop:
        return barlow_loop(z, loss == POOLED)
    pairing: Any = "pooled" if loss == POOLED else "all"
    return barlow_twins(z, redundancy_weight=redundancy_weight(z.shape[2]), pairing=pairing).loss


if __name__ == "__main__":
    sys.exit(main())

"""What one call of the losses costs: time against views K and width d, time and memory against double loops over pairs.

python analysis/losses_cost.py               # minutes on two cores; nothing else should run
python analysis/losses_cost.py --quick       # under a minute: to see that it works

Times are medians, for float32 z [K, N, d]. The settings of one d take turns, each spread evenly over the whole time, so
that a machine that slows down slows them all. A double loop of over 10 s is called once, not at least three times. Peak
memory is that of one call in a process of its own, beyond z and its gradient. The double loops are naive in one thing
only, a d x d matrix for every pair of views (VICReg: of every view): they standardise each view once, and take the
transpose of C_ab for C_ba.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections import namedtuple
from functools import reduce
from itertools import combinations, product
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor
from tqdm import tqdm

from effssl import InputError
from effssl.losses.functional import barlow_twins, redundancy_weight, vicreg
from effssl.run.device import where_it_runs
from effssl.run.folder import machine, write_text

NAN = float("nan")  # not measured
ONCE = 10000  # ms over which one call of a double loop is enough
LOSSES = (VICREG, ALL, POOLED) = ("VICReg", "Barlow Twins, all", "Barlow Twins, pooled")
Case = namedtuple("Case", "loss loop views batch dim")  # loop: 1 for the double loop, 0 for this project's code


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/losses_cost"), help="where table and picture go")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, default=256, metavar="N")
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4, 8, 16], metavar="K")
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 2048, 8192], metavar="D")
    parser.add_argument("--repeats", type=int, default=0, help="calls a setting (default: 0.5 s of them, 3 at least)")
    parser.add_argument("--quick", action="store_true", help="d = 64 and 256 only, 0.1 s a setting")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # a Case in JSON: what `memory` starts
    args = parser.parse_args(argv)
    views, dims = sorted(set(args.views)), [64, 256] if args.quick else sorted(set(args.dims))
    return experiments.exit_code(lambda: _measure_and_report(args, views, dims), resumes=False)


def _measure_and_report(args: argparse.Namespace, views: list[int], dims: list[int]) -> None:
    for flag, least in {"views": 2, "dims": 1, "batch": 2, "repeats": 0}.items():
        if np.min(getattr(args, flag)) < least:
            raise InputError(f"--{flag} {np.min(getattr(args, flag))}: at least {least}")
    device, *_ = where_it_runs(args.device, "fp32", "false")
    warm_up(device)
    if args.memory_of:
        print(json.dumps(memory_here(Case(*json.loads(args.memory_of)), device)))
        return
    experiments.writable(args.out)
    budget = args.repeats, 100 if args.quick else 500
    report([row for dim in dims for row in measure(views, args.batch, dim, device, *budget)], device, args.out)


def measure(views: list[int], batch: int, dim: int, device: torch.device, repeats: int, ms: float) -> list[dict]:
    """A row for each loss and K, and for each double loop at K = 8; `repeats` calls of each, or what `ms` allow."""
    at = 8 if 8 in views else views[-1]
    cases = [Case(*c, batch, dim) for c in [*product(LOSSES, [0], views), *((x, 1, at) for x in LOSSES)]]
    peaks, notes, calls = dict.fromkeys(cases, NAN), dict.fromkeys(cases, ""), {c: list[list[float]]() for c in cases}
    for case in tqdm([c for c in cases if c.views == at], desc=f"d = {dim}, memory", leave=False):
        peaks[case], once, notes[case] = memory(case, device)
        if case.loop and once[1] > ONCE and not repeats:
            calls[case].append(once)
    timed = [case for case in cases if not notes[case] and not calls[case]]
    z, turns = {case.views: embeddings(case, device) for case in timed}, []
    for i, case in enumerate(tqdm(timed, desc=f"d = {dim}, warm-up", leave=False)):
        try:
            _, took = call(case, z[case.views])
            n = repeats or min(300, max(3, int(ms / took)))
            turns += [((j + 0.5) / n, i) for j in range(n)]
        except (RuntimeError, MemoryError) as error:  # out of memory
            notes[case] = str(error).partition("\n")[0][:100]
    for _, i in tqdm(sorted(turns), desc=f"d = {dim}, time", leave=False):
        calls[timed[i]].append(call(timed[i], z[timed[i].views]))
    rows = []
    for case in cases:
        (_, q1), (forward, both), (_, q3) = np.percentile(calls[case] or [[NAN, NAN]], (25, 50, 75), axis=0)
        numbers = {"forward_ms": forward, "both_ms": both, "q1_ms": q1, "q3_ms": q3, "peak_mb": peaks[case]}
        rounded = {name: float(f"{x:.3g}") for name, x in numbers.items()}
        rows.append(case._asdict() | {"calls": len(calls[case])} | rounded | {"note": notes[case]})
    return rows


def call(case: Case, z: Tensor) -> list[float]:
    """Milliseconds of forward, and of forward and backward."""

    def now() -> float:
        getattr(torch, z.device.type).synchronize()  # does nothing on a CPU
        return time.perf_counter()

    began, loss, forward = now(), value(case.loss, case.loop, z), now()
    torch.autograd.grad(loss, z)
    return [1000 * (forward - began), 1000 * (now() - began)]


def memory(case: Case, device: torch.device) -> tuple[float, list[float], str]:
    """`memory_here` in a process of its own; or nan, and why: it would not fit, or died."""
    matrices = {VICREG: case.views, ALL: case.views * (case.views - 1) // 2, POOLED: 0}[case.loss] + 5
    need = 4 * case.loop * (matrices * case.dim**2 + 2 * case.views**2 * case.batch * case.dim)
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else _status("MemAvailable", "meminfo")
    if need > 0.9 * free:
        return NAN, [NAN, NAN], f"does not fit: needs about {need / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
    command = [sys.executable, __file__, "--device", str(device), "--memory-of", json.dumps(case)]
    counted = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}  # what lives, not what malloc keeps
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | counted)
    if done.returncode == 0:
        return (*json.loads(done.stdout), "")
    said = ["", *done.stderr.split("\n")][-2]  # the last line
    return NAN, [NAN, NAN], f"died with {done.returncode}: {said[:100]}"


def memory_here(case: Case, device: torch.device) -> tuple[float, list[float]]:
    """MB that one call takes at its peak beyond z and its gradient; its times as `call` gives them."""
    z = embeddings(case, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before, ms, after = torch.cuda.memory_allocated(), call(case, z), torch.cuda.max_memory_allocated()
    else:
        limit = int(_status("VmSize") + 0.9 * _status("MemAvailable", "meminfo"))
        with contextlib.suppress(ValueError):  # where a lower one is set
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # an error rather than a machine out of memory
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # should it come to that, this process is to end
            Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        before, ms, after = _status("VmHWM"), call(case, z), _status("VmHWM")
    return max(4096, after - before - z.nbytes) / 1e6, ms


def _status(key: str, file: str = "self/status") -> int:
    lines = Path("/proc", file).read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def embeddings(case: Case, device: torch.device) -> Tensor:
    """Related views: what they share, and each its own noise."""
    torch.manual_seed(0)
    image, z = (torch.randn(k, case.batch, case.dim, device=device) for k in (1, case.views))
    return z.mul_(0.5).add_(image).requires_grad_()


def warm_up(device: torch.device) -> None:
    """Load what a first call loads, and see that losses and double loops are the same."""
    z = embeddings(Case("", 0, 4, 6, 20), device)
    for loss in LOSSES:
        both = [value(loss, loop, z) for loop in (0, 1)]
        gradients = [torch.autograd.grad(x, z)[0] for x in both]
        assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in (both, gradients)), loss


def value(loss: str, loop: int, z: Tensor) -> Tensor:
    if loss == VICREG:
        return vicreg_loop(z) if loop else vicreg(z).loss
    if loop:
        return barlow_loop(z, loss == POOLED)
    pairing: Any = "pooled" if loss == POOLED else "all"
    return barlow_twins(z, redundancy_weight=redundancy_weight(z.shape[2]), pairing=pairing).loss


def vicreg_loop(z: Tensor) -> Tensor:
    invariance = torch.stack([(a - b).square().mean() for a, b in combinations(z, 2)]).mean()
    variance = torch.stack([torch.relu(1 - torch.sqrt(a.var(0) + 1e-4)).mean() for a in z]).mean()
    squares = [c.square().sum() - c.diagonal().square().sum() for c in (a.T.cov() for a in z)]
    return 25 * invariance + 25 * variance + 2 / z.shape[2] * torch.stack(squares).mean()


def barlow_loop(z: Tensor, pooled: bool) -> Tensor:
    x = [torch.nn.functional.batch_norm(a, None, None, training=True) / z.shape[1] ** 0.5 for a in z]
    between = (a.T @ b for a, b in combinations(x, 2))
    if not pooled:
        return torch.stack([_barlow_of(c) for c in between]).mean()
    half = reduce(torch.add, between)
    return _barlow_of((half + half.T) / (len(z) * (len(z) - 1)))


def _barlow_of(c: Tensor) -> Tensor:
    d = c.diagonal()
    return (1 - d).square().sum() + redundancy_weight(len(c)) * (c.square().sum() - d.square().sum())


def report(rows: list[dict[str, Any]], device: torch.device, out: Path) -> None:
    """Write losses_cost.csv, summary.md and losses_cost.png, and print the summary."""
    experiments.write_csv(out / "losses_cost.csv", rows)
    of = {(r["loss"], r["loop"], r["views"], r["dim"]): r for r in rows}
    views, dims = (sorted({r[key] for r in rows}) for key in ("views", "dim"))
    few, at = views[0], rows[-1]["views"]
    ms = {key: r["both_ms"] for key, r in of.items()}
    shown = {key: f"{r['both_ms']:,g} ({r['forward_ms']:,g})" for key, r in of.items()}
    times = [{"loss": x, "K": k} | {f"d = {d}": shown[x, 0, k, d] for d in dims} for x in LOSSES for k in views]
    growth = [{"loss": x} | {f"d = {d}": f"{ms[x, 0, at, d] / ms[x, 0, few, d]:.2f}" for d in dims} for x in LOSSES]
    loops = []
    for x, d in product(LOSSES, dims):
        ours, loop, line = of[x, 0, at, d], of[x, 1, at, d], {"loss": x, "d": d}
        for key, unit in (("both_ms", "ms"), ("peak_mb", "MB")):
            line |= {unit: f"{ours[key]:,g}", f"loop, {unit}": f"{loop[key]:,g}"}
            line |= {f"ratio of {unit}": f"{loop[key] / ours[key]:.2f}"}
        loops.append(line | {"loop's calls": loop["calls"], "note": loop["note"] or ours["note"]})
    about = machine(device)
    text = (
        f"{experiments.provenance([about])}; {about['hardware']['threads']} threads\n\n"
        f"Milliseconds of forward and backward (forward alone), N = {rows[0]['batch']}:\n\n"
        f"{experiments.markdown(times)}\n"
        f"K = {at} over K = {few}, forward and backward; linear is {at / few:g}:\n\n{experiments.markdown(growth)}\n"
        f"Against double loops at K = {at}, forward and backward; peak memory beyond z and its gradient:\n\n"
        f"{experiments.markdown(loops)}"
    )
    write_text(out / "summary.md", text)
    _picture(of, views, dims, at, out / "losses_cost.png")
    print(f"{text}\n{out / 'losses_cost.csv'}\n{out / 'losses_cost.png'}")


def _picture(of: dict[Any, dict], views: list[int], dims: list[int], at: int, path: Path) -> None:
    figure = Figure(figsize=(max(9, 4 * len(dims)), 4.2))
    for axis, dim in zip(figure.subplots(1, len(dims), squeeze=False)[0], dims, strict=True):
        for i, loss in enumerate(LOSSES):
            ms = [of[loss, 0, k, dim]["both_ms"] for k in views]
            axis.plot(views, ms, "o-", markersize=4, color=f"C{i}", label=loss)
            axis.plot(views, [ms[0] * k / views[0] for k in views], "--", linewidth=0.9, color=f"C{i}")
            axis.plot(at, of[loss, 1, at, dim]["both_ms"], "X", markersize=8, color=f"C{i}")
        scale = "log" if any(of[key]["both_ms"] > 0 for key in of if key[-1] == dim) else "linear"  # log needs a number
        axis.set(xscale="log", yscale=scale, title=f"d = {dim}", xlabel="views K", ylabel="forward and backward (ms)")
        axis.set_xticks(views, [str(k) for k in views])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.yaxis.set_minor_formatter(LogFormatter())  # labels where there is less than a decade
        axis.grid(alpha=0.3)
    axis.plot([], [], "--", linewidth=0.9, color="gray", label=f"linear from K = {views[0]}")
    axis.plot([], [], "X", markersize=8, color="gray", label=f"double loop, K = {at}")
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())

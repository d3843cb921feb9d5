"""Named runs of effssl.train: what is missing is trained, side by side and resumable; what is there is read. And what
scripts that do so share: flags, exit codes, and files written whole or not at all."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from effssl import InputError, cli
from effssl.config import Config, flat
from effssl.run.folder import write_text
from effssl.run.log import read_metrics

_PLACES = ("--data-dir", "--runs", "--out", "--seconds")  # of this machine and call: no part of what was measured


class RunFailed(RuntimeError):
    """A run of effssl.train ended with an error."""


class Parser(argparse.ArgumentParser):
    """One line for bad flags."""

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def parser(doc: str | None, presets: Iterable[str], runs: str, seeds: str = "the preset's") -> argparse.ArgumentParser:
    """The flags of every script that trains runs. runs, seeds: what the help says of these two defaults."""
    made = Parser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="-- FLAGS: further flags of effssl.train for every run",
    )
    made.add_argument("--preset", choices=list(presets), default="cpu", help="scale of the runs")
    made.add_argument("--data-dir", default="data", help="folder of the images")
    made.add_argument("--runs", type=Path, help=f"where the runs are kept (default: {runs})")
    made.add_argument("--out", type=Path, help="where tables and picture go (default: in RUNS)")
    made.add_argument("--seeds", type=count, metavar="N", help=f"seeds 0 to N - 1 (default: {seeds})")
    made.add_argument("--parallel", type=count, metavar="N", help="runs at once (default: one per GPU, else per core)")
    made.add_argument("--seconds", type=float, metavar="S", help="stop after this long; the next call goes on")
    return made


def count(text: str) -> int:
    """A flag's whole number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def read_flags(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The script's flags; those after `--` as `further`, and as `command` what was measured, without this machine's
    folders. One line on stderr and exit code 2 for bad ones."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    at = tokens.index("--") if "--" in tokens else len(tokens)
    args = made.parse_args(tokens[:at])
    args.further = tokens[at + 1 :]
    own = [t for before, t in zip(["", *tokens[:at]], tokens[:at], strict=False) if not {before, t} & set(_PLACES)]
    own = [t for t in own if t.partition("=")[0] not in _PLACES]
    args.command = shlex.join([Path(sys.argv[0]).name, "--data-dir", "DIR", *own, *tokens[at:]])
    return args


def exit_code(work: Callable[[], None], *, resumes: bool = True) -> int:
    """Do it: 0; 2 with one line on stderr for bad input or a failed run; 130 for Ctrl-C. resumes: whether the same
    command then goes on where it was."""
    try:
        work()
    except (InputError, RunFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted" + "; the same command goes on" * resumes, file=sys.stderr)
        return 130
    return 0


def trained(args: argparse.Namespace, wanted: dict[str, list[str]], *, keep_mb: float = math.inf) -> list[dict]:
    """Train what is missing of `wanted` as `complete` does, say how many runs are finished, and read those."""
    writable(args.out)
    names = complete(wanted, args.runs, parallel=args.parallel, seconds=args.seconds, keep_mb=keep_mb)
    print(f"{how_many(names, wanted)} runs are finished")
    return [read(args.runs / name) for name in names]


def how_many(finished: Sequence, wanted: Sequence | dict) -> str:
    return f"{len(finished)} of {len(wanted)}"


def complete(
    runs: dict[str, list[str]],
    folder: Path,
    *,
    parallel: int | None = None,
    seconds: float | None = None,
    keep_mb: float = math.inf,
) -> list[str]:
    """Train every run (name -> flags of effssl.train) that has no result in folder/NAME yet; returns the names that
    have one at the end.

    parallel: how many at once; None is one per GPU, or one per core without a GPU (a core each: on small encoders
    faster than one run on all of them). After `seconds`, on Ctrl-C and on SIGTERM the running ones save and stop; the
    next call goes on with them. A finished run's checkpoint of over `keep_mb` is removed: that of a projector 8192 wide
    is 0.9 GB, of which nothing but that projector's weights is lost. Raises InputError for bad flags, or where a folder
    holds a run with other settings; RunFailed when a run fails, with the end of its log.
    """
    asked = {name: _asked(folder / name, flags) for name, flags in runs.items()}
    missing = [name for name in runs if not _has_result(folder / name)]
    gpus = torch.cuda.device_count()
    parallel = parallel or gpus or os.cpu_count() or 1
    began, queue = time.monotonic(), list(missing)
    running: dict[str, tuple[subprocess.Popen, int]] = {}
    free = list(range(min(parallel, len(missing))))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In encoded views of the whole set, which are what most of the time goes to.
    cost = {name: cfg.optim.epochs * cfg.images.fraction * cfg.augment.views for name, cfg in asked.items()}
    done = sum(cost[name] * _share_done(folder / name, asked[name]) for name in runs)
    every_s, shown = (1 if sys.stderr.isatty() else 30), began
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} to go"
    title = f"{len(runs) - len(missing)} of {len(runs)} runs"
    with tqdm(total=sum(cost.values()), initial=done, desc=title, bar_format=layout, disable=not missing) as bar:
        try:
            while queue or running:
                out_of_time = seconds is not None and time.monotonic() - began > seconds
                if out_of_time:
                    break
                while queue and free:
                    name = queue.pop(0)
                    if _has_result(folder / name):
                        continue  # another script that shares the folder finished it meanwhile
                    slot = free.pop(0)
                    running[name] = _start(folder / name, runs[name], slot, gpus, parallel), slot
                time.sleep(0.2)
                ended = [n for n, (process, _) in running.items() if process.poll() is not None]
                for name in ended:
                    process, slot = running.pop(name)
                    free.append(slot)
                    if process.returncode != 0:
                        said = (folder / f"{name}.log").read_text().splitlines()[-3:]
                        raise RunFailed(f"{folder / name} failed: {' | '.join(said)}")
                    _remove_large_checkpoint(folder / name, keep_mb)
                if ended or time.monotonic() - shown > every_s:
                    shown = time.monotonic()
                    left = len(queue) + len(running)
                    bar.set_description_str(f"{len(runs) - left} of {len(runs)} runs", refresh=False)
                    bar.n = sum(cost[name] * _share_done(folder / name, asked[name]) for name in runs)
                    bar.refresh()
        finally:
            for process, _ in running.values():
                process.send_signal(signal.SIGTERM)  # it saves, and --resume goes on
            for process, _ in running.values():
                process.wait()
            signal.signal(signal.SIGTERM, before)
    return [name for name in runs if _has_result(folder / name)]


def read(folder: Path) -> dict[str, Any]:
    """A finished run: its name, settings, result.json, and the last probe of its metrics."""
    probes = [r for r in read_metrics(folder) if r["kind"] == "probe"]
    result = json.loads((folder / "result.json").read_text())
    settings = flat(cli.load(folder / "config.yaml"))
    return {"name": folder.name, "settings": settings, "result": result, **probes[-1]}


def writable(folder: Path) -> None:
    """Make it. Raises InputError where it cannot be written: better before the runs than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder} cannot be written")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of the same keys, the keys first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_picture(path: Path, figure: Figure) -> None:
    """A .png for a paper, whole or not at all. Raises InputError where it cannot be written."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, format="png", dpi=200)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table; nothing for none."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def provenance(results: list[dict[str, Any]], command: str = "") -> str:
    """One line: hardware, versions, commits and dates of result.json of runs, or of run_folder.machine; the command."""
    hardware = {f"{r['hardware']['gpu'] or r['hardware']['cpu']}, {r['hardware']['cpu_cores']} cores" for r in results}
    versions = {f"torch {r['versions']['torch']}" for r in results}
    commits = {str(r["versions"]["commit"]) for r in results}
    dates = {r["finished"].split()[0] for r in results}
    said = [sorted(hardware), sorted(versions), ["commit", *sorted(commits)], sorted({min(dates), max(dates)})]
    return "; ".join([" ".join(part) for part in said] + ([f"`python analysis/{command}`"] if command else []))


def _asked(run: Path, flags: list[str]) -> Config:
    """The settings of a run that is wanted. Raises InputError where its folder holds one with others."""
    asked = cli.parse([*flags, "--out", str(run)])
    if (run / "config.yaml").is_file():
        was, now = flat(cli.load(run / "config.yaml")), flat(asked)
        changed = [k for k in was if was[k] != now[k] and k not in cli.RESUME_MAY_CHANGE]
        if changed:
            what = ", ".join(f"{k} {was[k]} -> {now[k]}" for k in changed)
            raise InputError(f"{run} holds a run with other settings ({what}); move it away or name another folder")
    return asked


def _has_result(run: Path) -> bool:
    return (run / "result.json").is_file()


def _share_done(run: Path, cfg: Config) -> float:
    """Of a run's training, in [0, 1]."""
    if _has_result(run):
        return 1.0
    records = read_metrics(run)
    if not records:
        return 0.0
    in_time = records[-1]["seconds"] / cfg.optim.max_seconds if cfg.optim.max_seconds else 0.0
    return min(1.0, max(records[-1]["epoch"] / cfg.optim.epochs, in_time))


def _remove_large_checkpoint(run: Path, keep_mb: float) -> None:
    file = run / "checkpoint.pt"
    if file.is_file() and file.stat().st_size > keep_mb * 1e6:
        file.unlink()


def _start(run: Path, flags: list[str], slot: int, gpus: int, parallel: int) -> subprocess.Popen:
    resume = (run / "config.yaml").is_file()
    command = [
        sys.executable,
        "-m",
        "effssl.train",
        *(["--resume", str(run)] if resume else [*flags, "--out", str(run)]),
    ]
    if gpus:
        command += ["--device", f"cuda:{slot % gpus}"]
    run.parent.mkdir(parents=True, exist_ok=True)
    threads = {} if gpus else {"OMP_NUM_THREADS": str(threads_each(parallel))}
    with (run.parent / f"{run.name}.log").open("a") as log:
        # Its own session: Ctrl-C comes to this process alone, which then stops them in order.
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | threads, start_new_session=True
        )


def threads_each(parallel: int | None) -> int:
    """Threads of each run on a CPU."""
    return max(1, (os.cpu_count() or 1) // (parallel or os.cpu_count() or 1))

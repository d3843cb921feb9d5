"""Named runs of effssl.train: what is missing is trained, side by side and resumable; what is there is read."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from effssl import InputError, cli
from effssl.config import flat
from effssl.log import read_metrics


def complete(
    runs: dict[str, list[str]], folder: Path, *, parallel: int | None = None, seconds: float | None = None
) -> list[str]:
    """Train every run (name -> flags of effssl.train) that has no result in folder/NAME yet; returns the names that
    have one at the end.

    parallel: how many at once; None is one per GPU, or one per core without a GPU (a core each: on small encoders
    faster than one run on all of them). After `seconds`, on Ctrl-C and on SIGTERM the running ones save and stop; the
    next call goes on with them. Raises InputError for bad flags, or where a folder holds a run with other settings;
    RuntimeError when a run fails, with the end of its log.
    """
    missing = [name for name, flags in runs.items() if not _is_finished(folder / name, flags)]
    gpus = torch.cuda.device_count()
    parallel = parallel or gpus or os.cpu_count() or 1
    began, queue = time.monotonic(), list(missing)
    running: dict[str, tuple[subprocess.Popen, int]] = {}
    free = list(range(min(parallel, len(missing))))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tqdm(total=len(runs), initial=len(runs) - len(missing), unit="run", disable=not missing) as bar:
        try:
            while queue or running:
                out_of_time = seconds is not None and time.monotonic() - began > seconds
                if out_of_time:
                    break
                while queue and free:
                    name, slot = queue.pop(0), free.pop(0)
                    running[name] = _start(folder / name, runs[name], slot, gpus, parallel), slot
                time.sleep(0.2)
                for name in [n for n, (process, _) in running.items() if process.poll() is not None]:
                    process, slot = running.pop(name)
                    free.append(slot)
                    if process.returncode != 0:
                        said = (folder / f"{name}.log").read_text().splitlines()[-3:]
                        raise RuntimeError(f"{folder / name} failed: {' | '.join(said)}")
                    bar.update()
        finally:
            for process, _ in running.values():
                process.send_signal(signal.SIGTERM)  # it saves, and --resume goes on
            for process, _ in running.values():
                process.wait()
            signal.signal(signal.SIGTERM, before)
    return [name for name in runs if (folder / name / "result.json").is_file()]


def read(folder: Path) -> dict[str, Any]:
    """A finished run: its settings, result.json, and the last probe of its metrics."""
    probes = [r for r in read_metrics(folder) if r["kind"] == "probe"]
    result = json.loads((folder / "result.json").read_text())
    return {"settings": flat(cli.parse(["--config", str(folder / "config.yaml")])), "result": result, **probes[-1]}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of the same keys, the keys first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def provenance(results: list[dict[str, Any]]) -> str:
    """One line: hardware, versions, commits and dates of result.json of runs, or of run_folder.machine."""
    hardware = {f"{r['hardware']['gpu'] or r['hardware']['cpu']}, {r['hardware']['cpu_cores']} cores" for r in results}
    versions = {f"torch {r['versions']['torch']}" for r in results}
    commits = {str(r["versions"]["commit"]) for r in results}
    dates = {r["finished"].split()[0] for r in results}
    said = [sorted(hardware), sorted(versions), ["commit", *sorted(commits)], sorted({min(dates), max(dates)})]
    return "; ".join(" ".join(part) for part in said)


def _is_finished(run: Path, flags: list[str]) -> bool:
    asked = cli.parse([*flags, "--out", str(run)])
    if (run / "config.yaml").is_file():
        was, now = flat(cli.parse(["--config", str(run / "config.yaml")])), flat(asked)
        changed = [k for k in was if was[k] != now[k] and k not in cli.RESUME_MAY_CHANGE]
        if changed:
            what = ", ".join(f"{k} {was[k]} -> {now[k]}" for k in changed)
            raise InputError(f"{run} holds a run with other settings ({what}); move it away or name another folder")
    return (run / "result.json").is_file()


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
    threads = {} if gpus else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // parallel))}
    with (run.parent / f"{run.name}.log").open("a") as log:
        # Its own session: Ctrl-C comes to this process alone, which then stops them in order.
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | threads, start_new_session=True
        )

"""Where the time goes from the command to the first step of a training.

python -m analysis.benchmarks.start --data-dir DIR -- --config configs/cifar10_cpu.yaml

Prints seconds and CPU seconds of each part, medians over processes that begin with an empty folder
for numba's machine code (cold) and, each after one of these, with what that one left (warm). The
images are stored before. Nothing is written."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from analysis.harness import cli
from analysis.harness.tables import markdown

STATES = ("cold", "warm")
# Up to where a part reaches, in order; what numba compiles is in the parts where it does.
PARTS = ("imports", "images and model", "picture and untrained probe", "first step")


def main(argv: list[str] | None = None) -> int:
    own, further = cli.split_further(argv)
    parser = cli.Parser(__doc__, "-- FLAGS: flags of effssl.train")
    parser.add_argument(
        "--data-dir", type=cli.path, default=Path("data"), help="folder of the images"
    )
    parser.add_argument("--rounds", type=cli.count, default=3, help="processes of each state")
    args = parser.parse_args(own)
    return cli.exit_code(lambda: _measure_and_print(args, further), resumes=False)


def _measure_and_print(args: argparse.Namespace, further: list[str]) -> None:
    flags = [*further, "--data-dir", str(args.data_dir)]
    begun = measure(flags, rounds=args.rounds)
    print(markdown([{"numba's folder": state} | shown(begun[state]) for state in STATES]))


def measure(flags: list[str], *, rounds: int) -> dict[str, list[dict[str, list[float]]]]:
    """Begin trainings by turns; returns by state, for every process, seconds and CPU seconds from
    the command to the end of each part, and under "numba" how many functions it compiled and in how
    many seconds."""
    begun: dict[str, list[dict[str, list[float]]]] = {state: [] for state in STATES}
    with tempfile.TemporaryDirectory() as folder:
        _begin([*flags, "--out", f"{folder}/stores"], Path(folder) / "stored")
        for turn in tqdm(range(rounds), unit="turn", leave=False):
            for state in STATES:
                out = f"{folder}/{state}-{turn}"
                begun[state].append(_begin([*flags, "--out", out], Path(folder) / str(turn)))
    return begun


def shown(begun: list[dict[str, list[float]]]) -> dict[str, str]:
    """Return medians of "seconds (CPU seconds)" of the parts, as text."""
    cells, before = {}, [[0.0, 0.0]] * len(begun)
    for part in PARTS:
        upto = [one[part] for one in begun]
        cells[part] = _median((np.array(upto) - np.array(before)).tolist())
        before = upto
    numba = [one["numba"] for one in begun]
    compiled = f"{numba[0][0]:.0f} functions, {statistics.median(s for _, s in numba):.1f} s"
    return {"to the first step": _median(before)} | cells | {"of these numba": compiled}


def _median(pairs: list[list[float]]) -> str:
    seconds, cpu_s = (statistics.median(values) for values in zip(*pairs, strict=True))
    return f"{seconds:.1f} ({cpu_s:.1f})"


def _begin(flags: list[str], machine_code: Path) -> dict[str, list[float]]:
    """Begin a training in a process of its own, and end it after its first step."""
    command = [sys.executable, "-m", "analysis.benchmarks.start_parts", str(time.time()), *flags]
    done = subprocess.run(
        command,
        env={**os.environ, "NUMBA_CACHE_DIR": str(machine_code)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())

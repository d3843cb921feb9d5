"""What is to be measured on a GPU, in order of worth, in calls that go on where the last one was.

make gpu-evidence DATA_DIR=DIR OUT=DIR                    # at most eight minutes a call
python analysis/gpu_evidence.py --data-dir DIR --out OUT --seconds 480
python analysis/gpu_evidence.py --preset digits --device cpu   # a rehearsal: all of it, tiny

A piece is a command of this repository. Each call runs the pieces that have not ended, in order,
until its seconds are used up; one that is stopped then goes on in the next call, or begins again if
it cannot. OUT has what they wrote and said, records-PRESET.jsonl, the claims' finished runs,
beginning with those that are committed, and done.json, which says how each one ended. The last
lines printed are a table of that."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

from analysis.harness import cli, records
from analysis.harness.tables import markdown
from effssl.run.files import check_writable, write_text

ROOT = Path(__file__).parents[1]
_TO_SAVE_S = 30.0  # what a command that is stopped has, to save what it did
_RATES = ("0.333", "1", "3", "9")  # of the trials, in multiples of the scale's
_ENOUGH_S = 20.0  # with less time left no piece is begun: importing torch takes as long


class Piece(NamedTuple):
    """A command to run; in its words {seconds} is the time that it has."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


class Ended(NamedTuple):
    """How a run of a piece ended."""

    code: int
    seconds: float
    in_time: bool  # by itself


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--preset", choices=["gpu", "digits"], default="gpu", help="scale of the pieces")
    add("--device", default="cuda", help="cuda or cpu")
    add("--data-dir", type=cli.path, default=Path("data"), help="folder of CIFAR-10, or digits")
    add("--out", type=cli.path, default=Path("runs/gpu-evidence"), help="where all of it goes")
    add("--seconds", type=float, default=480.0, metavar="S", help="of this call")
    add("--only", nargs="+", metavar="NAME", help="just these pieces")
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _run_all(args))


def pieces(args: argparse.Namespace) -> list[Piece]:
    """Return all that is to be measured, in order of worth."""
    data, out, python = str(args.data_dir), args.out, sys.executable
    is_gpu = args.preset == "gpu"
    of_set = ("--data", "cifar10" if is_gpu else "digits", "--device", args.device)
    few = () if is_gpu else ("--image-size", "8", "--proj-dim", "16", "--batch-size", "64")

    def study(name: str, *more: str, preset: str = args.preset, called: str = "") -> Piece:
        called = called or name
        script = (python, f"analysis/{name}.py", "--preset", preset, "--data-dir", data)
        where = ("--runs", str(out / f"runs-{preset}"), "--out", str(out / called))
        return Piece(called, (*script, *where, "--seconds", "{seconds}", *more))

    def kept(preset: str) -> tuple[str, ...]:
        return ("--records", str(_records(out, preset)), "--save-records")

    def claim(name: str, *more: str) -> Piece:
        # Side by side, as a run's start takes as long as many seconds of training.
        return study(name, "--parallel", "3", *kept(args.preset), *more)

    def scarce(name: str) -> Piece:
        # Small runs, bound by the cores that launch them.
        preset = "scarce" if is_gpu else args.preset
        many = ("--parallel", "12") if is_gpu else ("--rates", "1", "3")
        return study(name, *many, *kept(preset), preset=preset, called=f"{name}-scarce")

    varied = (*(f"--views {k}" for k in (2, 4, 8)), "--views 4 --optimizer muon --lr 2e-2")
    steps = [word for flags in varied for word in ("--vary", flags)]
    bench = (python, "-m", "analysis.benchmarks.step", "--bare", "--data-dir", data, *steps)
    of_device = ("tests/test_device.py", "tests/test_device_muon.py")
    tests = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *of_device)
    train = (python, "-m", "effssl.train", "--config", f"configs/{of_set[1]}.yaml")
    three = ("--", "--epochs", "3") if is_gpu else ()
    of_run = ("--out", str(out / "run"), "--go-on")
    return [
        Piece("tests", tests, (("EFFSSL_TEST_DEVICE", args.device),)),
        Piece("train", (*train, *of_run, "--data-dir", data, "--device", args.device)),
        scarce("subset"),
        scarce("views"),
        # Few trials: most of what they choose and of its runs is among the committed records.
        claim("wallclock", "--rates", *_RATES, "--weights", "1", "--seeds", "3", *three),
        claim("views", *three),
        Piece("step", (*bench, "--", *of_set, *few)),
        claim("projector", *three),
        claim("subset", *three),
        # A run of another tool cannot be gone on with, so it has to fit into a call.
        study("race", "--seeds", "1", "--run-seconds", "200" if is_gpu else "4"),
    ]


def _run_all(args: argparse.Namespace) -> None:
    check_writable(args.out, f"--out {args.out}")
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    for preset in {args.preset, "scarce"} - {"digits"}:
        committed = records.FOLDER / f"claims-{preset}.jsonl"
        if committed.is_file() and not (file := _records(args.out, preset)).exists():
            write_text(file, committed.read_text())
    wanted = [p for p in pieces(args) if args.only is None or p.name in args.only]
    ends, done = time.monotonic() + args.seconds, _read(args.out)
    for piece in wanted:
        left = ends - time.monotonic() - _TO_SAVE_S
        if not done.get(piece.name, {}).get("ended") and left > _ENOUGH_S:
            print(f"{piece.name}: {' '.join(command_in(piece, left)[1:])}", flush=True)
            ended = run_piece(piece, args.out / f"{piece.name}.log", left)
            before = done.get(piece.name, {}).get("seconds", 0.0)
            done[piece.name] = {
                "ended": ended.in_time,
                "code": ended.code,
                "seconds": round(before + ended.seconds, 1),
            }
            write_text(_file(args.out), json.dumps(done, indent=2) + "\n")
            print("\n".join(f"  {line}" for line in _last_lines(args.out / f"{piece.name}.log")))
    print(markdown([{"piece": p.name, "state": _state(done.get(p.name))} for p in wanted]))


def command_in(piece: Piece, seconds: float) -> list[str]:
    """Return a piece's command, told to end in time to save what it did."""
    return [word.replace("{seconds}", f"{seconds - _TO_SAVE_S:.0f}") for word in piece.command]


def run_piece(piece: Piece, log: Path, seconds: float) -> Ended:
    """Run a piece for at most that long, and let it save what it did; its words go to `log`."""
    command = command_in(piece, seconds)
    began = time.monotonic()
    with log.open("a") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(piece.environment),
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_TO_SAVE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    took = time.monotonic() - began
    # A command that was told its seconds and used them up has more to do.
    is_told = "{seconds}" in piece.command
    return Ended(process.returncode, took, took < seconds - _TO_SAVE_S * is_told)


def _state(done: dict[str, Any] | None) -> str:
    if done is None:
        return "not begun"
    if not done["ended"]:
        return f"goes on, {done['seconds']:.0f} s so far"
    return f"ended after {done['seconds']:.0f} s" + f", code {done['code']}" * (done["code"] != 0)


def _last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-12:]


def _records(out: Path, preset: str) -> Path:
    return out / f"records-{preset}.jsonl"


def _file(out: Path) -> Path:
    return out / "done.json"


def _read(out: Path) -> dict[str, dict[str, Any]]:
    return json.loads(_file(out).read_text()) if _file(out).is_file() else {}


if __name__ == "__main__":
    sys.exit(main())

"""Orthogonality and rank of representations h and embeddings z, of any finished runs; or of a small projector trained
with the rule's decorrelation weight and with a hundredth of it, which shows what the weight is for.

python analysis/orthogonality.py RUN...                         # any finished runs
python analysis/orthogonality.py                                # trains the digits pair: minutes on two CPU cores
python analysis/orthogonality.py --preset cpu --data-dir DIR    # CIFAR-10 at d = 64, 256, 1024

Of clean views of the validation images (of a set without labels, training images; never the test split): correlation
matrices, off-diagonal energy less its sampling floor, effective rank, eigenvalues of the covariance with the decay
exponent alpha fitted over ranks 3 to 100, LiDAR of random views; their course through training and the accuracy of the
probes from the runs' metrics.jsonl; and all of it against the projector's width. The encoders before training stand
beside them. Runs that exist are read, those stopped go on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import experiments
import numpy as np
import torch
from orthogonality_picture import picture
from run_measures import Measured, measure_runs

from effssl import InputError, cli
from effssl.evaluation import protocols
from effssl.losses import functional as losses
from effssl.run.folder import machine, write_text

FRACTION_OF_RULE = 0.01  # "far too small"
CONFIGS = Path(__file__).parent.parent / "configs"


class Preset(NamedTuple):
    flags: tuple[str, ...]
    widths: tuple[int, ...]
    seeds: int


PRESETS = {
    "digits": Preset(("--data", "digits", "--epochs", "16", "--probe-every", "2"), (64,), 3),
    "cpu": Preset(
        (
            *("--config", str(CONFIGS / "cifar10_cpu.yaml"), "--precision", "bf16"),
            *("--fraction", "0.4", "--epochs", "1", "--probe-every", "0"),
        ),
        (64, 256, 1024),
        1,
    ),
    "gpu": Preset(
        ("--config", str(CONFIGS / "cifar10.yaml"), "--epochs", "10", "--probe-every", "1"), (64, 256, 1024), 2
    ),
    "paper": Preset(("--config", str(CONFIGS / "cifar10.yaml")), (64, 256, 1024, 8192), 3),
}


def main(argv: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    own, further = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = experiments.Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="-- and flags of effssl.train after all others go to every run that is trained",
    )
    parser.add_argument("run", nargs="*", type=Path, help="folders of finished runs (default: train those of --preset)")
    parser.add_argument("--preset", choices=PRESETS, default="digits", help="what is trained (default: digits)")
    parser.add_argument("--data-dir", type=Path, help="folder of the images (default: data; of RUN, where they were)")
    parser.add_argument("--runs", type=Path, default=Path("runs/orthogonality"), help="where trained runs are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/orthogonality/summary"), help="where the results go")
    parser.add_argument("--method", choices=("vicreg", "barlow_twins"), default="vicreg", help="of the runs trained")
    parser.add_argument("--widths", type=int, nargs="+", metavar="D", help="of the projectors (default: the preset's)")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: the preset's)")
    parser.add_argument("--parallel", type=int, help="runs at once (default: one per GPU, else one per core)")
    parser.add_argument("--seconds", type=float, help="stop training after this long; the next call goes on")
    args = parser.parse_args(own)
    command = shlex.join(["python", "analysis/orthogonality.py", *given])
    return experiments.exit_code(lambda: _measure(args, further, command))


def _measure(args: argparse.Namespace, further: list[str], command: str) -> None:
    folders = args.run
    if not folders:
        wanted = _wanted(args, further)
        names = experiments.complete(wanted, args.runs, parallel=args.parallel, seconds=args.seconds)
        print(f"{len(names)} of {len(wanted)} runs are finished")
        folders = [args.runs / name for name in names]
    elif further:
        raise InputError(f"{shlex.join(further)}: finished runs are not trained; leave out RUN or these flags")
    if folders:
        report(measure_runs(folders, args.data_dir), folders, args.out, command)


def _wanted(args: argparse.Namespace, further: list[str]) -> dict[str, list[str]]:
    """Runs by name: at every width and seed, with the rule's weight and with a hundredth of it."""
    preset: Preset = PRESETS[args.preset]
    seeds = preset.seeds if args.seeds is None else args.seeds
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, not {seeds}")
    wanted = {}
    for seed in range(seeds):
        for dim in args.widths or preset.widths:
            flags = [*preset.flags, "--final-images", "0", *further, "--data-dir", str(args.data_dir or "data")]
            flags += ["--method", args.method, "--proj-dim", str(dim), "--seed", str(seed)]
            name = "cov" if args.method == "vicreg" else "redundancy"
            cfg = cli.parse([*flags, f"--{name}-weight", "auto"])
            rule = losses.cov_weight(dim, cfg.loss.inv_weight) if name == "cov" else losses.redundancy_weight(dim)
            for label, weight in (("rule", "auto"), ("rule_over_100", repr(FRACTION_OF_RULE * rule))):
                run = f"{args.preset}_{args.method}_d{dim}_{label}_s{seed}"
                wanted[run] = [*flags, f"--{name}-weight", weight]
    return wanted


def report(measured: list[Measured], folders: list[Path], out: Path, command: str) -> None:
    """Write runs.csv, summary.md and orthogonality.png, and print the table."""
    rows = [each.row for each in measured]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    splits = sorted({f"{row['images']:,} {row['split']} images" for row in rows})
    text = f"{experiments.provenance([*results, machine(torch.device('cpu'))])}; `{command}`\n\n"
    text += f"Of clean views of {' or '.join(splits)}; LiDAR of {protocols.VIEWS} random views of at most "
    text += f"{protocols.VIEW_IMAGES:,} of them; the test split is not read. Mean and standard deviation over n seeds. "
    text += "`w` is the decorrelation weight against the invariance.\n\n"
    text += "\n".join(map(experiments.markdown, summary(rows)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        experiments.write_csv(out / "runs.csv", rows)
        write_text(out / "summary.md", text)
        picture(measured, out / "orthogonality.png")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    print(f"{text}\n{out / 'runs.csv'}\n{out / 'orthogonality.png'}")


def summary(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two tables, the first with accuracies in % and the measures of z, the second with those of h; a line a recipe:
    mean and standard deviation over seeds."""
    tables: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        accuracies = {"linear %": "linear", "kNN %": "knn"}
        shared = {name: _spread([row[key] for row in own], 100, 1) for name, key in accuracies.items()}
        for of, more, table in zip(("z", "h"), (shared, {}), tables, strict=True):
            line: dict[str, Any] = {"recipe": recipe, "n": len(own)} | more
            for name, digits in (("effective_rank", 1), ("off_diagonal", 3), ("alpha", 2), ("lidar", 1)):
                shown = {"effective_rank": "rank", "off_diagonal": "off-diag", "lidar": "LiDAR"}.get(name, name)
                line[f"{shown} {of}"] = _spread([row[f"{of}/{name}"] for row in own], 1, digits)
            table.append(line)
    return tables


def _spread(values: list[Any], factor: float, digits: int) -> str:
    numbers = [factor * value for value in values if value != ""]
    if not numbers:
        return ""
    mean = f"{np.mean(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} +- {statistics.stdev(numbers):.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())

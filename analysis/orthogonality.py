"""Orthogonality and rank of representations h and embeddings z, of any finished runs; or of a small
projector trained with the rule's decorrelation weight and with a hundredth of it, which shows what
the weight is for.

python analysis/orthogonality.py RUN...                         # any finished runs python
analysis/orthogonality.py                                # trains the digits pair: minutes on two
CPU cores python analysis/orthogonality.py --preset cpu --data-dir DIR    # CIFAR-10 at d = 64, 256,
1024

Of clean views of the validation images (of a set without labels, training images; never the test
split): correlation matrices, off-diagonal energy less its sampling floor, effective rank,
eigenvalues of the covariance with the decay exponent alpha fitted over ranks 4 to 100, LiDAR of
random views; their course through training and the accuracy of the probes from the runs'
metrics.jsonl; and all of it against the projector's width. The encoders before training stand
beside them. Runs that exist are read, those stopped go on."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
import torch

from analysis.harness import cli, runs, training
from analysis.harness.methods import RULES
from analysis.harness.plots import write_picture
from analysis.harness.presets import ORTHOGONALITY
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown, write_csv
from effssl import InputError
from effssl.cli import parse
from effssl.losses.auto_weights import cov_weight, redundancy_weight
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine

FRACTION_OF_RULE = 0.01  # "far too small"


def main(argv: list[str] | None = None) -> int:
    own, further = cli.split_further(argv)
    end = "-- and flags of effssl.train after all others go to every run that is trained"
    parser = cli.Parser(__doc__, end)
    add = parser.add_argument
    add(
        "run",
        nargs="*",
        type=cli.path,
        help="folders of finished runs (default: train those of --preset)",
    )
    add(
        "--preset",
        choices=ORTHOGONALITY,
        default="digits",
        help="what is trained (default: digits)",
    )
    data_dir = "folder of the images (default: data; of RUN, where they were)"
    add("--data-dir", type=cli.path, help=data_dir)
    folder = Path("runs/orthogonality")
    add("--runs", type=cli.path, default=folder, help="where trained runs are kept")
    add("--out", type=cli.path, default=folder / "summary", help="where the results go")
    add("--method", choices=list(RULES), default="vicreg", help="of the runs trained")
    widths = "of the projectors (default: the preset's)"
    add("--widths", type=int, nargs="+", metavar="D", help=widths)
    add("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: the preset's)")
    add("--parallel", type=int, help="runs at once (default: one per GPU, else one per core)")
    add("--seconds", type=float, help="stop training after this long; the next call goes on")
    args = parser.parse_args(own)
    given = [*own, "--", *further] if further else own
    command = shlex.join(["python", "analysis/orthogonality.py", *given])
    return cli.exit_code(lambda: _measure(args, further, command))


def _measure(args: argparse.Namespace, further: list[str], command: str) -> None:
    folders = args.run
    if not folders:
        flags = wanted(args, further)
        limits = {"parallel": args.parallel, "seconds": args.seconds}
        names = training.complete(flags, args.runs, **limits)
        print(f"{runs.finished_of(names, flags)} runs are finished")
        folders = [args.runs / name for name in names]
    elif further:
        flags_text = shlex.join(further)
        raise InputError(
            f"{flags_text}: finished runs are not trained; leave out RUN or these flags"
        )
    if folders:
        check_writable(args.out, f"--out {args.out}")
        report(folders, args.data_dir, args.out, command)


def wanted(args: argparse.Namespace, further: list[str]) -> training.Flags:
    """Return runs by name: at every width and seed, with the rule's weight and with a hundredth of
    it. Raises InputError."""
    preset = ORTHOGONALITY[args.preset]
    seeds = preset.seeds if args.seeds is None else args.seeds
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, not {seeds}")
    flags_of = {}
    data_dir = str(args.data_dir or "data")
    weight_flag = "--cov-weight" if args.method == "vicreg" else "--redundancy-weight"
    for seed in range(seeds):
        for dim in args.widths or preset.widths:
            flags = [*preset.flags, "--final-images", "0", *further, "--data-dir", data_dir]
            flags += ["--method", args.method, "--proj-dim", str(dim), "--seed", str(seed)]
            flags += [
                "--split-seed",
                str(seed),
            ]  # so that other images are among what seeds differ by
            inv_weight = parse([*flags, weight_flag, "auto"]).loss.inv_weight
            vicreg = args.method == "vicreg"
            rule = cov_weight(dim, inv_weight) if vicreg else redundancy_weight(dim)
            small = repr(FRACTION_OF_RULE * rule)
            for label, weight in (("rule", "auto"), ("rule_over_100", small)):
                name = f"{args.preset}_{args.method}_d{dim}_{label}_s{seed}"
                flags_of[name] = [*flags, weight_flag, weight]
    return flags_of


def report(folders: list[Path], data_dir: Path | None, out: Path, command: str) -> None:
    """Measure the runs, write runs.csv, summary.md and orthogonality.png, and print the table."""
    # Slow, and not needed for --help.
    from analysis.harness.claims import splits_in_words
    from analysis.harness.orthogonality_measures import measure_runs
    from analysis.harness.orthogonality_picture import picture
    from effssl.evaluation import protocols

    measured = measure_runs(folders, data_dir)
    rows = [each.row for each in measured]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    splits = sorted({f"{row['images']:,} {row['split']} images" for row in rows})
    text = (
        f"{runs.origin([*results, machine(torch.device('cpu'))])}; `{command}`\n\n"
        f"Of clean views of {' or '.join(splits)}; LiDAR of {protocols.VIEWS} random views of at "
        f"most {protocols.VIEW_IMAGES:,} of them; the test split is not read. Mean and standard "
        "deviation over n seeds. `w` is the decorrelation weight against the invariance. "
        f"{splits_in_words(pd.DataFrame(rows))}\n\n"
    )
    text += "\n".join(map(markdown, summary(rows)))
    write_csv(out / "runs.csv", rows)
    write_text(out / "summary.md", text)
    # A palette, as noise of correlations does not compress.
    write_picture(out / "orthogonality.png", picture(measured), dpi=130, palette=True)
    print(f"{text}\n{out / 'runs.csv'}\n{out / 'orthogonality.png'}")


Lines = list[dict[str, Any]]


def summary(rows: Lines) -> tuple[Lines, Lines]:
    """Return two tables, the first with accuracies in % and the measures of z, the second with
    those of h; a line a recipe: mean and standard deviation over seeds."""
    of_z, of_h = [], []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        line = {"recipe": recipe, "n": len(own)}
        accuracies = {"linear %": "linear", "kNN %": "knn"}
        shown = {name: _spread(own, key, 1, 100) for name, key in accuracies.items()}
        of_z.append({**line, **shown, **_measures(own, "z")})
        of_h.append({**line, **_measures(own, "h")})
    return of_z, of_h


def _measures(rows: Lines, of: str) -> dict[str, str]:
    shown = {"effective_rank": ("rank", 1), "off_diagonal": ("off-diag", 3)}
    shown |= {"alpha": ("alpha", 2), "lidar": ("LiDAR", 1)}
    return {
        f"{short} {of}": _spread(rows, f"{of}/{name}", digits)
        for name, (short, digits) in shown.items()
    }


def _spread(rows: Lines, column: str, digits: int, factor: float = 1) -> str:
    numbers = [factor * row[column] for row in rows if row[column] != ""]
    return mean_std(numbers, f"{{:.{digits}f}}")


if __name__ == "__main__":
    sys.exit(main())

"""Orthogonality and rank of representations h and embeddings z, of any finished runs; or of a small
projector trained with the rule's decorrelation weight and with a hundredth of it, which shows what
the weight is for.

python analysis/orthogonality.py RUN...                         # any finished runs
python analysis/orthogonality.py                                # trains the digits pair: minutes
python analysis/orthogonality.py --preset cpu --data-dir DIR    # CIFAR-10 at d = 64, 256, 1024

Of clean views of the validation images (of a set without labels, training images; never the test
split): correlation matrices, off-diagonal energy less its sampling floor, effective rank,
eigenvalues of the covariance with the decay exponent alpha fitted over ranks 4 to 100, LiDAR of
random views; their course through training and the accuracy of the probes from the runs'
metrics.jsonl; and all of it against the projector's width. The encoders before training stand
beside them. Runs that exist are read, those stopped go on. VICReg has 25 for both its invariance
and its variance."""

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
from analysis.harness.methods import RULES, rule_weight, weight_flags
from analysis.harness.plots import write_picture
from analysis.harness.presets import ORTHOGONALITY
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown, write_csv
from effssl import InputError
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine

FRACTION_OF_RULE = 0.01  # "far too small"


def main(argv: list[str] | None = None) -> int:
    parser = cli.training_parser(
        __doc__,
        ORTHOGONALITY,
        "runs/orthogonality",
        "the preset's",
        "Where no preset is named it is digits; without --data-dir RUN has its images where it had "
        "them.\n",
    )
    add = parser.add_argument
    runs_given = "folders of finished runs (default: train those of --preset)"
    add("run", nargs="*", type=cli.path, help=runs_given)
    add("--method", choices=list(RULES), default="vicreg", help="of the runs trained")
    widths = "of the projectors (default: the preset's)"
    add("--widths", type=cli.count, nargs="+", metavar="D", help=widths)
    parser.set_defaults(preset="digits", data_dir=None)
    args = cli.read_flags(parser, argv)
    args.runs = args.runs or Path("runs/orthogonality")
    args.out = args.out or args.runs / "summary"
    return cli.exit_code(lambda: _measure(args))


def _measure(args: argparse.Namespace) -> None:
    folders = args.run
    if not folders:
        flags = wanted(args)
        limits = {"parallel": args.parallel, "seconds": args.seconds}
        names = training.complete(flags, args.runs, **limits)
        print(f"{runs.finished_of(names, flags)} runs are finished")
        folders = [args.runs / name for name in names]
    elif args.further:
        flags_text = shlex.join(args.further)
        raise InputError(
            f"{flags_text}: finished runs are not trained; leave out RUN or these flags"
        )
    if folders:
        check_writable(args.out, f"--out {args.out}")
        report(folders, args.data_dir, args.out, args.command)


def wanted(args: argparse.Namespace) -> training.Flags:
    """Return runs by name: at every width and seed, with the rule's weight and with a hundredth of
    it."""
    preset = ORTHOGONALITY[args.preset]
    common = [*preset.flags, "--final-images", "0", *args.further]
    common += ["--data-dir", str(args.data_dir or "data"), "--method", args.method]
    flags_of = {}
    for seed in range(args.seeds or preset.seeds):
        for dim in args.widths or preset.widths:
            # The split too, so that other images are among what seeds differ by.
            own = ["--proj-dim", str(dim), "--seed", str(seed), "--split-seed", str(seed)]
            small = FRACTION_OF_RULE * rule_weight(args.method, dim)
            for label, weight in (("rule", None), ("rule_over_100", small)):
                name = f"{args.preset}_{args.method}_d{dim}_{label}_s{seed}"
                flags_of[name] = [*common, *own, *weight_flags(args.method, weight)]
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
        f"{runs.origin([*results, machine(torch.device('cpu'))], command)}\n\n"
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

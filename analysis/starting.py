"""What a start is worth: weights to go on from, a teacher, vectors paired with the images.

python analysis/starting.py continue --init RUN --data-dir IMAGENETTE   # CIFAR-10 -> 32 px of it
python analysis/starting.py beside --teacher RUN --data-dir CIFAR10

continue: a run on CIFAR-10 goes on on Imagenette at 32 px (10 classes of photographs, 9,469
images), beside training from scratch for as many steps, which take as many seconds; the start
itself is the first probe of the former. beside: a tenth of CIFAR-10 with a teacher's representation
of each image as a further row of z, with the colour histogram of each image (64 numbers), and with
neither.

Every way has three trials of its rate (a third, once and three times the recipe's) with a seed
that is not reported, and the best on the validation split is trained with each seed. Asked is, by
Student's t over seeds at 5%, paired by seed and corrected by Holm for the ways of a study: is it
better than the way without? Accuracies are of the linear probe on validation images; seconds are of
training, a teacher's among them."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import numpy as np
import pandas as pd

from analysis.harness import cli, records, runs, training
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown, write_csv
from analysis.harness.verdicts import differences, over_seeds, parts_table
from effssl import InputError
from effssl.data.sources import names_of, open_source
from effssl.run.files import atomic, check_writable, write_text

CONFIG = str(Path(__file__).parents[1] / "configs" / "cifar10_cpu.yaml")
TRIAL_SEED, RATES = 1000, ("6e-3", "2e-2", "6e-2")
BINS = 4  # of each colour in the histograms
_ENDS = ("--final-images", "0", "--probe-every", "2")


class Way(NamedTuple):
    """A way to train, and its further flags; the first of a study is what others are compared
    with."""

    name: str
    flags: tuple[str, ...]


class Study(NamedTuple):
    """What its runs have alike, and how they differ."""

    flags: tuple[str, ...]
    ways: tuple[Way, ...]


def main(argv: list[str] | None = None) -> int:
    parser = cli.training_parser(__doc__, ["cpu", "digits"], "runs/starting-STUDY-PRESET", "3")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--init", type=cli.path, metavar="RUN", help="of continue: where it starts")
    parser.add_argument("--teacher", type=cli.path, metavar="RUN", help="of beside: the teacher")
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(args))


def continued(args: argparse.Namespace) -> Study:
    """Return training from scratch and from a run, on another set."""
    if args.init is None:
        raise InputError("continue: --init RUN says where it starts")
    flags = {
        "cpu": ("--config", CONFIG, "--data", "folder", "--image-size", "32", "--epochs", "4"),
        "digits": ("--data", "digits", "--epochs", "2"),
    }[args.preset]
    return Study(flags, (Way("scratch", ()), Way("continued", ("--init", str(args.init)))))


def beside(args: argparse.Namespace) -> Study:
    """Return training without and with rows of z beside the views."""
    if args.teacher is None:
        raise InputError("beside: --teacher RUN says which")
    flags = {
        "cpu": ("--config", CONFIG, "--fraction", "0.1", "--epochs", "6"),
        "digits": ("--data", "digits", "--epochs", "2"),
    }[args.preset]
    histograms = args.runs / "histograms.npz"
    if not histograms.is_file():
        write_histograms("digits" if args.preset == "digits" else "cifar10", args, histograms)
    teacher, paired = ("--teacher", str(args.teacher)), ("--paired", str(histograms))
    ways = Way("views", ()), Way("teacher", teacher), Way("histograms", paired)
    return Study(flags, ways)


STUDIES = {"continue": continued, "beside": beside}


def write_histograms(data: str, args: argparse.Namespace, file: Path) -> None:
    """Write the share of an image's pixels in each of BINS^3 colours, by its name."""
    source = open_source(data, args.data_dir, "train")
    assert source is not None
    names = names_of(source, np.arange(len(source.labels)), args.data_dir, "train")
    colours = [
        np.ravel_multi_index(
            tuple((source.images[i] // (256 // BINS)).reshape(-1, 3).T), [BINS] * 3
        )
        for i in range(len(source.labels))
    ]
    shares = [np.bincount(c, minlength=BINS**3) / len(c) for c in colours]
    with atomic(file) as temporary, temporary.open("wb") as out:
        np.savez(out, names=np.array(names), representations=np.array(shares, np.float32))


def _study(args: argparse.Namespace) -> None:
    args.runs = args.runs or Path(f"runs/starting-{args.study}-{args.preset}")
    args.out = args.out or args.runs / "starting"
    args.seeds = args.seeds or 3
    check_writable(args.out, f"--out {args.out}")
    study = STUDIES[args.study](args)
    trials = {
        f"{way.name}_lr{rate}_s{TRIAL_SEED}": flags_of(args, study, way, rate, TRIAL_SEED)
        for way in study.ways
        for rate in RATES
    }
    began_s = time.monotonic()
    tried = table(args, _complete(args, trials, began_s))
    lost = [name for name in trials if training.diverged(args.runs / name)]
    chosen = choose(tried, study, lost)
    timed = {
        f"{way.name}_lr{chosen[way.name]}_s{seed}": flags_of(
            args, study, way, chosen[way.name], seed
        )
        for seed in range(args.seeds)
        for way in study.ways
        if way.name in chosen
    }
    names = _complete(args, timed, began_s) if len(chosen) == len(study.ways) else []
    if names:
        _write(args, study, tried, table(args, names), names)


def _complete(args: argparse.Namespace, wanted: training.Flags, began_s: float) -> list[str]:
    seconds = training.seconds_left(args.seconds, began_s)
    names = training.complete(wanted, args.runs, parallel=args.parallel, seconds=seconds)
    print(f"{runs.finished_of(names, wanted)} runs are finished")
    return names


def flags_of(args: argparse.Namespace, study: Study, way: Way, rate: str, seed: int) -> list[str]:
    """Return the flags of a run; the seed chooses its validation split too."""
    of_seed = ("--seed", str(seed), "--split-seed", str(seed))
    places = ("--data-dir", str(args.data_dir))
    return [*study.flags, *_ENDS, *places, *args.further, *way.flags, "--lr", rate, *of_seed]


def table(args: argparse.Namespace, names: list[str]) -> pd.DataFrame:
    """Return a row for each finished run: its first and its last probe, and its cost."""
    rows = []
    for name in names:
        record = records.of_folder(args.runs / name)
        probes = [each for each in record["metrics"] if each["kind"] == "probe"]
        way, rate, _ = name.split("_")
        rows.append(
            {
                "way": way,
                "lr": rate.removeprefix("lr"),
                "seed": record["config"]["seed"],
                "start": probes[0]["linear"],
                "linear": probes[-1]["linear"],
                "knn": probes[-1]["knn"],
                "recall_at_1": probes[-1].get("paired/recall_at_1", np.nan),
                "seconds": record["result"]["seconds"],
                "steps": record["result"]["steps"],
            }
        )
    return pd.DataFrame(rows)


def choose(tried: pd.DataFrame, study: Study, lost: Iterable[str] = ()) -> dict[str, str]:
    """Return the rate of the best trial of each way that has all of its trials, those included that
    diverged: lost, by name."""
    diverged = Counter(name.partition("_")[0] for name in lost)
    chosen = {}
    for way in study.ways:
        own = tried[tried["way"] == way.name] if len(tried) else tried
        if 0 < len(own) == len(RATES) - diverged[way.name]:
            chosen[way.name] = str(own.sort_values("linear")["lr"].iloc[-1])
    return chosen


def _write(
    args: argparse.Namespace,
    study: Study,
    tried: pd.DataFrame,
    rows: pd.DataFrame,
    names: list[str],
) -> None:
    """Write trials.csv, runs.csv and summary.md."""
    results = [records.of_folder(args.runs / name)["result"] for name in names]
    text = f"{summary(rows, study)}\n{runs.origin(results, args.command)}\n"
    write_csv(args.out / "trials.csv", tried)
    write_csv(args.out / "runs.csv", rows)
    write_text(args.out / "summary.md", text)
    print(f"{text}\n{args.out / 'summary.md'}")


def summary(rows: pd.DataFrame, study: Study) -> str:
    """Return what each way reached, and whether it is better than the first."""
    lines, parts = [], []
    for way in study.ways:
        own, first = (rows[rows["way"] == name] for name in (way.name, study.ways[0].name))
        line: dict[str, Any] = {"": way.name, "rate": own["lr"].iloc[0] if len(own) else ""}
        line["seeds"] = len(own)
        line |= {f"{c} (%)": mean_std(100 * own[c]) for c in ("start", "linear", "knn")}
        if rows["recall_at_1"].notna().any():
            line["recall at 1 (%)"] = mean_std(100 * own["recall_at_1"].dropna())
        line["seconds"] = mean_std(own["seconds"], "{:.0f}")
        lines.append(line)
        if way != study.ways[0]:
            gain = differences(own, first, "linear", 100)
            parts.append(over_seeds(f"{way.name} better than {study.ways[0].name}", gain))
    return (
        "Linear probe and kNN on the validation split, mean and standard deviation over seeds, at "
        "the best of three rates each; `start` is before the first step.\n\n"
        f"{markdown(lines)}\n{parts_table(parts)}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""What the commands of the claims do alike: flags -> finished runs -> a table of them -> files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import cli, records, runs, training
from analysis.harness.methods import NAMES, OF_CLAIMS, weight_of
from analysis.harness.plots import write_picture
from analysis.harness.presets import CLAIMS
from analysis.harness.recipes import SHORT, Recipe, Scale, name_of
from analysis.harness.tables import write_csv
from effssl.run.files import check_writable, write_text

PROBE = (
    "Accuracies are of the validation split: kNN, and a linear probe with one penalty (1e-3) on "
    "the representations of at most 10,000 training images, as while training. That is not "
    "`effssl evaluate`'s, which fits on all of them and chooses the penalty; figures of the two "
    "are not to be compared."
)
KEEP_MB = 100.0  # checkpoints of finished runs; those of wide projectors are larger
MEASURES = (
    *("linear", "knn", "h/effective_rank", "z/effective_rank"),
    *("h/off_diagonal", "z/off_diagonal"),
)


def parser(doc: str | None) -> cli.Parser:
    """Return the flags of every claim's command."""
    flags = cli.training_parser(
        doc,
        CLAIMS,
        "runs/claims-PRESET",
        "the preset's: gpu 1, scarce 5, else 3",
        "E is 8 epochs of 1,295 digits for digits, 1 of 18,000 CIFAR-10 images with a half-width "
        "ResNet-18 for cpu, 50 of 5,120 with a quarter-width one for scarce, 3 of a folder of "
        "photographs for photographs, 4 of 45,000 with a ResNet-18 for gpu, 100 with a ResNet-50 "
        "for paper; -- --epochs sets E.\n",
    )
    flags.add_argument("--method", choices=SHORT, default=OF_CLAIMS, help="loss of all runs")
    cli.add_records(flags, "claims-PRESET")
    return flags


def trained(scale: Scale, wanted: training.Flags, called: str = "runs") -> list[records.Record]:
    """Train what is missing, say how many runs are finished, and return those, as records. Raises
    InputError for folders and files that cannot be used, before anything is trained."""
    args = scale.args
    check_writable(args.out, f"--out {args.out}")
    known = records.known(args, records.file_of(args))
    names = training.complete(
        wanted,
        args.runs,
        records=known,
        parallel=args.parallel,
        seconds=args.seconds,
        keep_mb=KEEP_MB,
    )
    print(f"{runs.finished_of(names, wanted)} {called} are finished")
    return [training.record_of(args.runs / name, known) for name in names]


def save_records(scale: Scale, finished: list[records.Record]) -> None:
    """Put finished runs into the file of records, if there are any and --save-records asks."""
    if finished and scale.args.save_records:
        file = records.file_of(scale.args)
        # Read once more: subset.py adds to the folders.
        folders = [scale.args.runs / record["name"] for record in finished]
        records.save(file, [records.of_folder(run) for run in folders if training.has_result(run)])
        print(f"the finished runs are in {file}")


def known_record(scale: Scale, name: str) -> records.Record | None:
    """Return a record by its name, if the file of records is there and has it."""
    file = records.file_of(scale.args)
    return records.read(file).get(name) if file.is_file() else None


def table_of(scale: Scale, finished: list[records.Record]) -> pd.DataFrame:
    """Return a row for each finished run, as runs.csv has it; accuracies in [0, 1]."""
    rows = [_row(scale, runs.of_record(record)) for record in finished]
    rows.sort(key=lambda r: (r["dim"], r["weight"], r["views"], -r["part"], r["epochs"], r["seed"]))
    return pd.DataFrame(rows)


def _row(scale: Scale, run: runs.Run) -> dict[str, Any]:
    settings, result = run.settings, run.result
    return {
        "name": run.name,
        "method": settings["method"],
        "views": settings["views"],
        "dim": settings["proj_dim"],
        "weight": weight_of(settings),
        "part": round(settings["fraction"] / scale.cfg.images.fraction, 6),
        "lr": settings["lr"],
        "epochs": settings["epochs"],
        "seed": settings["seed"],
        "split_seed": settings["split_seed"],
        **{name: round(run.probe[name], 5) for name in MEASURES if name in run.probe},
        "steps": result["steps"],
        "encoded_views": result["encoded_views"],
        "seconds": round(result["seconds"], 2),
        "views_per_s": result["views_per_s"],
        "finished": result["finished"],
    }


def rows_of(scale: Scale, table: pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """Return the rows of a recipe's finished runs, by seed."""
    names = [name_of(scale, recipe, seed) for seed in range(scale.args.seeds)]
    return table[table["name"].isin(names)].sort_values("seed")


def measured(
    scale: Scale, table: pd.DataFrame, recipes: Iterable[Recipe]
) -> Iterator[tuple[Recipe, pd.DataFrame]]:
    """Yield the recipes that have finished runs, each with their rows."""
    for recipe in recipes:
        rows = rows_of(scale, table, recipe)
        if not rows.empty:
            yield recipe, rows


def splits_in_words(table: pd.DataFrame) -> str:
    """Return what the intervals over seeds cover, from the columns `seed` and `split_seed`."""
    if table["seed"].nunique() < 2:
        return "One seed: no intervals."
    if table["split_seed"].nunique() == 1:
        return (
            "All seeds share one validation split, so intervals and p are over training seeds "
            "alone; what other validation images would change is not in them."
        )
    return (
        "Each seed has its own validation split and part of the images, so intervals and p are "
        "over seeds and images together."
    )


def write(
    scale: Scale,
    name: str,
    table: pd.DataFrame,
    text: str,
    figure: Figure,
    finished: list[records.Record],
    wanted: training.Flags,
) -> None:
    """Write runs.csv, summary.md with where it comes from, and NAME.png; print the summary."""
    out: Path = scale.args.out
    origin = runs.origin([record["result"] for record in finished], scale.args.command)
    about = f"{NAMES[scale.args.method]}. {PROBE} {splits_in_words(table)}"
    left = wanted.keys() - {record["name"] for record in finished}
    if lost := sorted(name for name in left if training.diverged(scale.args.runs / name)):
        about += f" Diverged, and so without figures here: {', '.join(lost)}."
    text = f"{text}\n{about}\n\n{runs.finished_of(finished, wanted)} runs finished; {origin}\n"
    write_csv(out / "runs.csv", table)
    write_picture(out / f"{name}.png", figure)
    write_text(out / "summary.md", text)
    print(f"{text}\n{out / 'runs.csv'}\n{out / f'{name}.png'}")

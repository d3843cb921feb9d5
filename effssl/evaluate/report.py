"""What an evaluation leaves: files beside the run, tables on the console, tables of all runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from effssl.evaluate.images import ImageSet
from effssl.evaluation import protocols, tables
from effssl.evaluation.finished_run import FinishedRun
from effssl.evaluation.pictures import save_evaluation
from effssl.job_config import Evaluation
from effssl.run.device import Runtime
from effssl.run.files import write_json, write_text
from effssl.run.pictures import or_a_line
from effssl.run.provenance import machine

CONFUSION_CLASSES = 200  # of more classes the matrix would be most of evaluation.json


class Judged(NamedTuple):
    """What was said of a run."""

    rows: dict[str, dict[str, Any]]
    """Numbers by name of every row, and the seconds that they took."""
    confusion: list[list[int]]
    """Of the first row's linear probe, [classes, classes]: a row a true class."""
    notes: list[str]
    """Sentences to be said beside the table."""

    def numbers(self) -> dict[str, tables.Numbers]:
        """Return the rows without the seconds."""
        return {
            row: {name: v for name, v in columns.items() if isinstance(v, (int, float))}
            for row, columns in self.rows.items()
        }


def write_report(
    run: FinishedRun, probed: ImageSet, judged: Judged, settings: Evaluation, runtime: Runtime
) -> list[Path]:
    """Write a run's evaluation.json and evaluation.png, and return the paths of what is there.

    On another set than the run's own they are evaluation-SET. Raises InputError if they cannot be
    written.
    """
    data, classes = probed.data, probed.data.train.classes
    stem = "evaluation" if probed.is_own else f"evaluation-{probed.images.data}"
    split = protocols.reported_split(data)
    sizes = {
        "train": len(data.train_positions),
        "validation": len(data.val_positions),
        "test": 0 if data.test is None else len(data.test.labels),
    }
    images = asdict(probed.images) | {"image_size": probed.augment.image_size}
    report = {
        "run": str(run.folder),
        "data": probed.images.data,
        "split": split,
        "rows": judged.rows,
        "classes": classes,
        "confusion": judged.confusion if len(classes) <= CONFUSION_CLASSES else None,
        "images": sizes,
        "unlabelled": protocols.about_unlabelled(data),
        "settings": to_jsonable_python(asdict(settings) | {"images": images}),
        "notes": judged.notes,
        **machine(runtime.device),
    }
    picture, file = run.folder / f"{stem}.png", run.folder / f"{stem}.json"
    with or_a_line(picture):
        save_evaluation(
            picture,
            judged.confusion,
            classes,
            judged.rows,
            title=f"{run.folder.resolve().name}: {probed.images.data}, {split} split",
            averaged_views=settings.num_averaged_views,
            few_labels=settings.probe_labels,
        )
    write_json(file, report)
    return [each for each in (file, picture) if each.exists()]


def print_report(
    run: FinishedRun, probed: ImageSet, judged: Judged, files: list[Path], settings: Evaluation
) -> None:
    """Print a run's tables, the notes, and where its files are."""
    accuracies, measures = map(tables.as_text, _tables(judged.numbers(), settings))
    unlabelled = protocols.about_unlabelled(probed.data)
    split = f"the {protocols.reported_split(probed.data)} split of {probed.images.data}"
    split += f" ({unlabelled})" if unlabelled else ""
    print(
        f"\n{run.folder}: accuracy on {split} in %, with 95% intervals",
        accuracies,
        "\nwithout labels, of representations h and embeddings z",
        measures,
        *judged.notes,
        *files,
        sep="\n",
    )


def report_together(numbers: dict[tuple[str, str], tables.Numbers], settings: Evaluation) -> None:
    """Print the rows of several runs, known by (run, row), as one table, and write it to --to."""
    by_name = {f"{run}: {row}": columns for (run, row), columns in numbers.items()}
    together = _tables(by_name, settings)
    if len(settings.runs) > 1:
        print("", *map(tables.as_text, together), *tables.at_ends(by_name), sep="\n")
    if settings.to:
        files = settings.to / "comparison.csv", settings.to / "comparison.md"
        write_text(files[0], tables.as_csv(numbers))
        ends = (f"{line}\n" for line in tables.at_ends(by_name))
        write_text(files[1], "\n".join([*map(tables.as_markdown, together), *ends]))
        print(*files, sep="\n")


def _tables(rows: dict[str, tables.Numbers], settings: Evaluation) -> list[list[list[str]]]:
    accuracies = tables.accuracies(rows, settings.num_averaged_views, settings.probe_labels)
    return [accuracies, tables.measures(rows)]

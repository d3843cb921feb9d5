"""The evaluation of finished runs, from their folders to files and tables."""

from __future__ import annotations

from pathlib import Path

from effssl import InputError
from effssl.evaluate import report
from effssl.evaluate.compare_layers import compare_layers
from effssl.evaluate.images import (
    Corruptions,
    ImageSet,
    about_classes,
    find_corruptions,
    open_probed,
)
from effssl.evaluate.judge import draw_labels, judge
from effssl.evaluate.report import Judged
from effssl.evaluate.rows import rows_of
from effssl.evaluation import tables
from effssl.evaluation.finished_run import FinishedRun, open_run
from effssl.evaluation.ssl_fisher import loss_of
from effssl.job_config import Evaluation
from effssl.run import signals
from effssl.run.device import Runtime, open_runtime
from effssl.run.files import check_writable


def main(settings: Evaluation) -> int:
    """Evaluate as the command line does; returns the exit code."""
    return signals.exit_code(lambda: evaluate(settings))


def evaluate(settings: Evaluation) -> None:
    """Judge every run, write its evaluation.json and .png, and print a table.

    Each file is written in one go when its run is done. Raises InputError for anything that the
    user has to mend.
    """
    opened = [open_run(folder) for folder in settings.runs]
    for folder in settings.runs:
        check_writable(folder, f"evaluation.json in {folder}")
    if settings.to:
        check_writable(settings.to, f"--to {settings.to}")
    _check_together(opened, settings)
    for run in opened[1:]:  # evaluate_run looks at the first
        _open_images(run, settings)
    runs = dict(zip(_names(settings.runs), opened, strict=True))
    runtime = open_runtime(settings.device, settings.precision)
    together: dict[tuple[str, str], tables.Numbers] = {}
    for name, run in runs.items():
        judged = evaluate_run(run, settings, runtime)
        together |= {(name, row): numbers for row, numbers in judged.numbers().items()}
    report.report_together(together, settings)
    if settings.cka:
        compare_layers(runs, settings, runtime)


def evaluate_run(run: FinishedRun, settings: Evaluation, runtime: Runtime) -> Judged:
    """Judge one run, write its files and print its table."""
    probed, corruptions, corruptions_note = _open_images(run, settings)
    rows = list(rows_of(run, probed, settings, runtime))  # all first: one may not load
    columns, confusions = {}, []
    for row in rows:
        print(f"{run.folder}: {row.name}", flush=True)
        columns[row.name], confusion = judge(row, probed, corruptions, settings)
        confusions.append(confusion)
    notes = [about_classes(probed.data), corruptions_note, *(row.note for row in rows)]
    if run.projector is None:
        notes.append(f"{run.folder / 'checkpoint.pt'} is not there: no measures of z")
    notes += tables.at_ends(columns)
    judged = Judged(columns, confusions[0], [note for note in notes if note is not None])
    files = report.write_report(run, probed, judged, settings, runtime)
    report.print_report(run, probed, judged, files, settings)
    return judged


def _open_images(
    run: FinishedRun, settings: Evaluation
) -> tuple[ImageSet, Corruptions | None, str | None]:
    """Open what a run is judged on. Raises InputError for what is wrong with it."""
    probed = open_probed(run, settings)
    draw_labels(probed, settings)
    return probed, *find_corruptions(probed, settings)


def _check_together(runs: list[FinishedRun], settings: Evaluation) -> None:
    """Raise InputError, before hours are spent, for what runs cannot be asked for."""
    channels = {run.folder: run.cfg.augment.channels for run in runs}
    if settings.cka and len({*channels.values()}) > 1:
        found = ", ".join(f"{folder} has {count}" for folder, count in channels.items())
        raise InputError(f"--cka: runs of other channels cannot be compared: {found}")
    needs_projector = settings.fine_tune and settings.keep and settings.keep_fisher == "ssl"
    without = [run.folder for run in runs if run.projector is None]
    if needs_projector and without:
        raise InputError(
            f"--keep: {without[0] / 'checkpoint.pt'} is not there, and with it the projector of "
            "the run's loss; --keep-fisher none weighs all weights alike"
        )
    for run in runs if needs_projector else ():
        loss_of(run.cfg, run.projector)


def _names(folders: tuple[Path, ...]) -> list[str]:
    """Name runs by the last part of their folders if these differ, else by their paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]

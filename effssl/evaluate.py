"""Turn finished runs into the numbers that papers report, on the run's own images or on another set.

python -m effssl.evaluate RUN                                             # the run's own set
python -m effssl.evaluate RUN --data cifar100 --data-dir DIR              # transfer
python -m effssl.evaluate RUN_A RUN_B --pixels --to comparison            # one table of several
"""

from __future__ import annotations

import sys

from effssl import InputError, cli

if __name__ == "__main__":
    # Before the imports below, which take seconds: --help and a typo should not.
    COMMAND_LINE = cli.parse_or_exit(cli.parse_evaluation)

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from effssl import augment, models, pictures, process, protocols, run_folder, tables
from effssl.config import Evaluation, Images
from effssl.data import Data
from effssl.data.corruptions import FOLDERS, open_corruptions
from effssl.parts import FinishedRun, build_encoder, open_images, open_run
from effssl.representations import (
    Clean,
    Crops,
    Encode,
    Features,
    averaged_features,
    clean_views,
    clean_views_of,
    encode,
    pixels,
    small_views,
)

T = TypeVar("T")
CONFUSION_CLASSES = 200  # of more classes the matrix would be most of evaluation.json
Corruptions = tuple[np.ndarray, dict[str, np.ndarray]]  # labels, and images by corruption


class Row(NamedTuple):
    """What is judged: a backbone, or the pixels."""

    name: str
    encode: Encode
    clean: Clean
    averaged: Features | None  # mean representations over random crops
    projector: nn.Module | None


def evaluate(settings: Evaluation) -> None:
    """Judge every run, write its evaluation.json and .png, and print a table.

    Each file is written in one go when its run is done. Raises InputError for anything that the user has to mend.
    """
    runs = [open_run(folder) for folder in settings.runs]
    for folder in settings.runs:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{folder} is not a folder that you may write to: evaluation.json goes there")
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    together: dict[tuple[str, str], tables.Row] = {}
    for run, name in zip(runs, names, strict=True):
        report = evaluate_run(run, settings)
        columns = {row: _columns(numbers) for row, numbers in report["rows"].items()}
        together |= {(name, row): numbers for row, numbers in columns.items()}
        _print_report(report, columns, settings)
    common = _cells({f"{name}: {row}": numbers for (name, row), numbers in together.items()}, settings)
    if len(runs) > 1:
        print(f"\n{tables.as_text(common)}")
    if settings.to:
        run_folder.write_text(settings.to / "comparison.csv", tables.as_csv(together))
        run_folder.write_text(settings.to / "comparison.md", tables.as_markdown(common))
        print(*(settings.to / name for name in ("comparison.csv", "comparison.md")), sep="\n")


def evaluate_run(run: FinishedRun, settings: Evaluation) -> dict[str, Any]:
    """Judge one run and write its files; returns what evaluation.json holds."""
    device, autocast, _ = process.where_it_runs(settings.device, settings.precision, "false")
    images = _images(run.cfg.images, settings)
    data, clean = open_images(images, run.cfg.augment, device, torch.bfloat16 if autocast else torch.float32)
    _check_labels(data, images)
    notes, corruptions = _corruptions(images, settings, len(data.train.classes))
    rows, confusion = {}, None
    for row in list(_rows(run, settings, clean._replace(progress=True))):  # all first: one may not load
        print(f"{run.folder}: {row.name}", flush=True)
        rows[row.name], counted = _judge(row, data, corruptions, settings, images.split_seed)
        confusion = confusion or counted
    if run.projector is None:
        notes.append(f"{run.folder / 'checkpoint.pt'} is not there: no measures of z")
    is_own = images.data == run.cfg.images.data
    stem = "evaluation" if is_own else f"evaluation-{images.data}"
    report = {
        "run": str(run.folder),
        "data": images.data,
        "split": protocols.reported_split(data),
        "rows": rows,
        "classes": data.train.classes,
        "confusion": confusion if len(data.train.classes) <= CONFUSION_CLASSES else None,
        "images": {"train": len(data.train_positions), "validation": len(data.val_positions), "test": _count(data)},
        "settings": _plain(dataclasses.asdict(settings) | {"images": dataclasses.asdict(images)}),
        "notes": notes,
        **run_folder.machine(device),
    }
    pictures.save_evaluation(
        run.folder / f"{stem}.png", confusion or [], data.train.classes, rows,
        title=f"{run.folder.resolve().name}: {images.data}, {report['split']} split",
        averaged_views=settings.num_averaged_views, few_labels=settings.probe_labels,
    )  # fmt: skip
    run_folder.write_json(run.folder / f"{stem}.json", report)
    report["files"] = [str(run.folder / f"{stem}.{ending}") for ending in ("json", "png")]
    return report


def _rows(run: FinishedRun, settings: Evaluation, clean: Clean) -> Iterator[Row]:
    """The run, then its baselines; a row is a backbone, so a further one is one more line."""
    crops = None
    if settings.num_averaged_views:
        a = run.cfg.augment
        shape = a.crop_scale, a.crop_ratio, a.hflip_prob
        crops = Crops(settings.num_averaged_views, *shape, run.cfg.run.seed)
    yield _backbone_row("trained", run.backbone, clean, crops, run.projector)
    if settings.untrained:
        fresh = build_encoder(run.cfg)
        yield _backbone_row("untrained", fresh.backbone, clean, crops, fresh.projector)
    # Supervised training of the same backbone becomes a row here: _backbone_row("supervised", backbone, clean, crops).
    for given in settings.checkpoint:
        name, _, file = given.partition("=")
        backbone, about = models.load_weights(name, Path(file), settings.checkpoint_size)
        size = about["image_size"]
        own = clean._replace(size=size, mean=about["mean"], std=about["std"], canvas=augment.canvas_of(size))
        yield _backbone_row(name, backbone, own, crops)
    if settings.pixels:
        yield Row("pixels", pixels, small_views(clean), None, None)


def _backbone_row(
    name: str, backbone: nn.Module, clean: Clean, crops: Crops | None, projector: nn.Module | None = None
) -> Row:
    backbone = backbone.to(clean.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    models.check_takes(backbone, clean.size, f"{name} ({type(backbone).__name__})")
    averaged = averaged_features(backbone, clean, crops) if crops else None
    encode_views = functools.partial(encode, backbone, dtype=clean.dtype)
    return Row(name, encode_views, clean, averaged, projector.to(clean.device) if projector is not None else None)


def _judge(
    row: Row, data: Data, corruptions: Corruptions | None, settings: Evaluation, seed: int
) -> tuple[dict[str, Any], list[list[int]]]:
    """All columns of a row, with the seconds that each part took, and the confusion matrix of its linear probe."""
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[..., T], *arguments: Any) -> T:
        began = time.monotonic()
        result = work(*arguments)
        seconds[part] = round(time.monotonic() - began, 3)
        return result

    def features(beton, positions) -> Tensor:
        return row.encode(clean_views(beton, positions, row.clean))

    encoded = timed("encode_train", protocols.encode_splits, features, data, settings.train_images)
    chosen = timed("fit_linear", protocols.choose_linear, encoded)
    h, y = timed("encode_reported", encoded.reported)
    # A protocol is one function that gives columns: further ones (fine-tuning, few percent of labels) go beside these.
    columns = timed("linear", protocols.linear, encoded, chosen)
    columns |= timed("knn", protocols.knn, encoded, settings.knn_k)
    columns |= timed("few_labels", protocols.few_labels, encoded, settings.probe_labels, seed)
    columns |= timed("measures", protocols.measures, protocols.measured_part(h), row.projector)
    if row.averaged is not None:
        averaged = timed("encode_averaged_train", protocols.encode_splits, row.averaged, data, settings.train_images)
        chosen_averaged = timed("fit_averaged", protocols.choose_linear, averaged)
        columns |= timed("averaged", protocols.linear, averaged, chosen_averaged, "averaged")
    if corruptions is not None:
        columns |= timed("corrupted", protocols.corrupted, chosen[0], _encoded_corruptions(row, *corruptions))
    return columns | {"seconds": seconds}, protocols.confusion(chosen[0], h, y)


def _encoded_corruptions(row: Row, labels: np.ndarray, images: dict[str, np.ndarray]):
    y = torch.from_numpy(labels).to(row.clean.device)
    for name, each in images.items():
        yield name, row.encode(clean_views_of(each, row.clean)), y


def _images(of_run: Images, settings: Evaluation) -> Images:
    """Where the images come from that are probed on."""
    images = of_run
    if settings.data not in (None, of_run.data):
        kept = {k: getattr(of_run, k) for k in ("val_fraction", "split_seed", "image_size", "workers", "skip_corrupt")}
        images = Images(data=settings.data, **kept)
    if settings.data_dir is not None:  # its .beton files lie there too
        images = dataclasses.replace(images, data_dir=settings.data_dir, beton_dir=None)
    names = ("beton_dir", "image_size", "fraction", "workers")
    return dataclasses.replace(images, **{k: getattr(settings, k) for k in names if getattr(settings, k) is not None})


def _check_labels(data: Data, images: Images) -> None:
    if len(protocols.labelled_positions(data)) == 0:
        raise InputError(f"{images.data} in {images.data_dir} has no labels to probe with")
    if protocols.reported_split(data) == "test":
        assert data.test is not None
        of_train, of_test = set(data.train.labels.tolist()) - {-1}, set(data.test.labels.tolist())
        for lacking, absent in (("test", of_train - of_test), ("train", of_test - of_train)):
            if absent:
                named = [data.train.classes[c] if c < len(data.train.classes) else str(c) for c in sorted(absent)]
                more = f" and {len(named) - 5} more" if len(named) > 5 else ""
                raise InputError(f"{images.data} in {images.data_dir}: {lacking} lacks {', '.join(named[:5])}{more}")


def _corruptions(images: Images, settings: Evaluation, classes: int) -> tuple[list[str], Corruptions | None]:
    """What is to be said about them, and the corrupted test images, where there are any."""
    folder = settings.robustness_dir
    if folder is None and images.data in FOLDERS:
        folder = images.data_dir / FOLDERS[images.data]
        if not folder.is_dir():
            return [f"no column of corrupted images: no {folder}"], None
    return [], None if folder is None else open_corruptions(folder, classes)


def _count(data: Data) -> int:
    return 0 if data.test is None else len(data.test.labels)


def _columns(numbers: dict[str, Any]) -> tables.Row:
    return {k: v for k, v in numbers.items() if isinstance(v, (int, float))}


def _cells(rows: dict[str, tables.Row], settings: Evaluation) -> list[list[str]]:
    return tables.cells(rows, settings.num_averaged_views, settings.probe_labels)


def _print_report(report: dict[str, Any], columns: dict[str, tables.Row], settings: Evaluation) -> None:
    print(
        f"\n{report['run']}: accuracy on the {report['split']} split of {report['data']} in %, with 95% intervals",
        tables.as_text(_cells(columns, settings)), *report["notes"], *report["files"], sep="\n",
    )  # fmt: skip


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Without paths, for JSON."""
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        match value:
            case Path():
                plain[name] = str(value)
            case dict():
                plain[name] = _plain(value)
            case tuple() | list():
                plain[name] = [str(v) if isinstance(v, Path) else v for v in value]
            case _:
                plain[name] = value
    return plain


def main(settings: Evaluation) -> int:
    """`evaluate`; returns the exit code: 2 for bad input, 130 for Ctrl-C (SIGTERM leaves with 143 by SystemExit)."""
    try:
        with process.orderly():
            evaluate(settings)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, say
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(COMMAND_LINE))

"""Turn finished runs into the numbers that papers report, on the run's own images or on another set."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from effssl import InputError
from effssl.config import Augment, Config, Images
from effssl.data import Data
from effssl.data.beton import Beton
from effssl.data.corruptions import FOLDERS, open_corruptions
from effssl.evaluation import classifiers, protocols, tables
from effssl.evaluation.encode import (
    Clean,
    RandomViews,
    averaged_features,
    clean_views,
    clean_views_of,
    encode,
    pixels,
    small_views,
    spread,
    view_features,
)
from effssl.evaluation.finished_run import FinishedRun, build_encoder, clean_of, open_images, open_run, strengths
from effssl.evaluation.labelled_views import NO_COLOURS
from effssl.evaluation.layers import layer_features
from effssl.evaluation.spectrum import cka_matrix
from effssl.job_config import Evaluation
from effssl.models import backbones as models
from effssl.run import device as process
from effssl.run import folder as run_folder
from effssl.run import pictures
from effssl.views.ops import canvas_of

T = TypeVar("T")
CONFUSION_CLASSES = 200  # of more classes the matrix would be most of evaluation.json
LINE_AFTER_S = 10.0  # parts that took longer are told of where there is no terminal
Corruptions = tuple[np.ndarray, dict[str, np.ndarray]]  # labels, and images by corruption


class Row(NamedTuple):
    """What is judged: a backbone, or the pixels."""

    name: str
    backbone: nn.Module | None  # None: the pixels
    clean: Clean
    projector: nn.Module | None = None


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
    common = _tables({f"{name}: {row}": numbers for (name, row), numbers in together.items()}, settings)
    if len(runs) > 1:
        print("", *map(tables.as_text, common), sep="\n")
    if settings.to:
        run_folder.write_text(settings.to / "comparison.csv", tables.as_csv(together))
        run_folder.write_text(settings.to / "comparison.md", "\n".join(map(tables.as_markdown, common)))
        print(*(settings.to / name for name in ("comparison.csv", "comparison.md")), sep="\n")
    if settings.cka:
        _compare_layers(dict(zip(names, runs, strict=True)), settings)


def evaluate_run(run: FinishedRun, settings: Evaluation) -> dict[str, Any]:
    """Judge one run and write its files; returns what evaluation.json holds."""
    device, autocast, _ = process.where_it_runs(settings.device, settings.precision, "false")
    images = _images(run.cfg.images, settings)
    data, clean = open_images(images, run.cfg.augment, device, torch.bfloat16 if autocast else torch.float32)
    _check_labels(data, images)
    notes, corruptions = _corruptions(images, settings, len(data.train.classes))
    rows, confusion = {}, None
    for row in list(_rows(run, settings, clean._replace(progress=True), notes)):  # all first: one may not load
        print(f"{run.folder}: {row.name}", flush=True)
        rows[row.name], counted = _judge(row, data, corruptions, settings, images, run.cfg.augment)
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


def _rows(run: FinishedRun, settings: Evaluation, clean: Clean, notes: list[str]) -> Iterator[Row]:
    """The run, then its baselines; a row is a backbone, so a further one is one more line."""
    yield _backbone_row("trained", run.backbone, clean, run.projector)
    if settings.untrained:
        fresh = build_encoder(run.cfg)
        yield _backbone_row("untrained", fresh.backbone, clean, fresh.projector)
    if settings.supervised:
        print(f"{run.folder}: supervised training, unless that was done", flush=True)
        backbone, about = classifiers.supervised(run, *_own_images(run, settings, clean))
        notes.append(
            f"supervised: its own classifier reaches {100 * about['accuracy']:.1f} on {about['images']} images of the "
            f"run's set, after {about['encoded_views']} views in {about['seconds']:.0f} s"
        )
        yield _backbone_row("supervised", backbone, clean)
    for given in settings.checkpoint:
        name, _, file = given.partition("=")
        backbone, about = models.load_weights(name, Path(file), settings.checkpoint_size)
        size = about["image_size"]
        own = clean._replace(size=size, mean=about["mean"], std=about["std"], canvas=canvas_of(size))
        yield _backbone_row(name, backbone, own)
    if settings.pixels:
        yield Row("pixels", None, small_views(clean))


def _backbone_row(name: str, backbone: nn.Module, clean: Clean, projector: nn.Module | None = None) -> Row:
    backbone = backbone.to(clean.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    models.check_takes(backbone, clean.size, f"{name} ({type(backbone).__name__})")
    return Row(name, backbone, clean, projector.to(clean.device) if projector is not None else None)


def _own_images(run: FinishedRun, settings: Evaluation, clean: Clean) -> tuple[Data, Clean]:
    """The set that the run was trained on, also where another is evaluated."""
    same = settings.data in (None, run.cfg.images.data)
    images = _images(run.cfg.images, settings) if same else run.cfg.images
    return open_images(images, run.cfg.augment, clean.device, clean.dtype)


def _judge(
    row: Row, data: Data, corruptions: Corruptions | None, settings: Evaluation, images: Images, augment: Augment
) -> tuple[dict[str, Any], list[list[int]]]:
    """All columns of a row, with the seconds that each part took, and the confusion matrix of its linear probe."""
    seconds: dict[str, float] = {}
    at_most, seed, clean = settings.train_images, images.split_seed, row.clean

    def timed(part: str, work: Callable[..., T], *arguments: Any) -> T:
        began = time.monotonic()
        result = work(*arguments)
        seconds[part] = round(time.monotonic() - began, 3)
        if seconds[part] > LINE_AFTER_S and not sys.stderr.isatty():  # where there is no progress bar
            print(f"  {row.name}: {part}, {seconds[part]:.0f} s", flush=True)
        return result

    def features(beton: Beton, positions: np.ndarray) -> Tensor:
        return _encode(row, clean_views(beton, positions, clean))

    # Each protocol is a function that gives columns.
    encoded = timed("encode_train", protocols.encode_splits, features, data, at_most)
    chosen = timed("fit_linear", protocols.choose_linear, encoded)
    h, y = timed("encode_reported", encoded.reported)
    columns = timed("linear", protocols.linear, encoded, chosen)
    columns |= timed("knn", protocols.knn, encoded, settings.knn_k)
    columns |= timed("few_labels", protocols.few_labels, encoded, settings.probe_labels, seed)
    columns |= timed("measures", protocols.measures, protocols.measured_part(h), row.projector)
    if corruptions is not None:
        columns |= timed("corrupted", protocols.corrupted, chosen[0], _encoded_corruptions(row, *corruptions))
    if (backbone := row.backbone) is not None:
        beton, positions = protocols.reported_images(data)
        of_views = view_features(backbone, clean, RandomViews(protocols.VIEWS, strengths(augment), seed))
        some = timed("encode_views", of_views, beton, spread(positions, protocols.VIEW_IMAGES))
        columns |= timed("measures_of_views", protocols.measures_of_views, some, row.projector)
        if settings.num_averaged_views:
            crops = RandomViews(settings.num_averaged_views, strengths(augment) | NO_COLOURS, seed)
            of_crops = averaged_features(backbone, clean, crops)
            averaged = timed("encode_averaged_train", protocols.encode_splits, of_crops, data, at_most)
            chosen_averaged = timed("fit_averaged", protocols.choose_linear, averaged)
            columns |= timed("averaged", protocols.linear, averaged, chosen_averaged, "averaged")
        if settings.adapt_batch_norm:
            columns |= timed("adapted", classifiers.adapted, backbone, data, clean, at_most)
        for fraction in settings.fine_tune:
            tune = functools.partial(
                classifiers.fine_tuned, name=f"{images.data}-train", fraction=fraction,
                epochs=settings.fine_tune_epochs, max_steps=settings.fine_tune_steps, seed=seed,
            )  # fmt: skip
            columns |= timed(f"fine_tuned/{fraction:g}", tune, backbone, data, clean, augment)
    return columns | {"seconds": seconds}, protocols.confusion(chosen[0], h, y)


def _encode(row: Row, views: Iterable[Tensor]) -> Tensor:
    return pixels(views) if row.backbone is None else encode(row.backbone, views, dtype=row.clean.dtype)


def _encoded_corruptions(row: Row, labels: np.ndarray, images: dict[str, np.ndarray]):
    y = torch.from_numpy(labels).to(row.clean.device)
    for name, each in images.items():
        yield name, _encode(row, clean_views_of(each, row.clean)), y


def _images(of_run: Images, settings: Evaluation) -> Images:
    """Where the images come from that are probed on."""
    images = of_run
    if settings.data not in (None, of_run.data):
        kept = {k: getattr(of_run, k) for k in ("val_fraction", "split_seed", "workers", "skip_corrupt")}
        images = Images(data=settings.data, **kept)
    if settings.data_dir is not None:  # its .beton files lie there too
        images = dataclasses.replace(images, data_dir=settings.data_dir, beton_dir=None)
    names = ("beton_dir", "fraction", "workers")
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


def _tables(rows: dict[str, tables.Row], settings: Evaluation) -> list[list[list[str]]]:
    return [tables.accuracies(rows, settings.num_averaged_views, settings.probe_labels), tables.measures(rows)]


def _print_report(report: dict[str, Any], columns: dict[str, tables.Row], settings: Evaluation) -> None:
    accuracies, measures = map(tables.as_text, _tables(columns, settings))
    print(
        f"\n{report['run']}: accuracy on the {report['split']} split of {report['data']} in %, with 95% intervals",
        accuracies, "\nwithout labels, of representations h and embeddings z", measures,
        *report["notes"], *report["files"], sep="\n",
    )  # fmt: skip


def _compare_layers(runs: dict[str, FinishedRun], settings: Evaluation) -> None:
    """Write CKA between the layers of the first run and those of the others, and print the files."""
    (first, run), *others = runs.items()
    backbones = {name: (other.backbone, other.cfg) for name, other in others}
    backbones = backbones or {"untrained": (build_encoder(run.cfg).backbone, run.cfg)}
    device, autocast, _ = process.where_it_runs(settings.device, settings.precision, "false")
    dtype = torch.bfloat16 if autocast else torch.float32

    def layers(backbone: nn.Module, cfg: Config) -> dict[str, Tensor]:
        clean = clean_of(_images(cfg.images, settings), cfg.augment, device, dtype)
        return layer_features(backbone.to(device), clean_views(beton, positions, clean), dtype=dtype)

    data, _ = open_images(_images(run.cfg.images, settings), run.cfg.augment, device, dtype)
    beton, positions = protocols.reported_images(data)
    positions = spread(positions, protocols.RANK_IMAGES)
    own = layers(run.backbone, run.cfg)
    for name, (backbone, cfg) in backbones.items():
        theirs = layers(backbone, cfg)
        matrix = cka_matrix(list(own.values()), list(theirs.values()))
        stem = (settings.to or run.folder) / f"cka-{first}-{name}".replace("/", "_")
        found = {"rows": {first: list(own)}, "columns": {name: list(theirs)}, "cka": matrix.tolist()}
        run_folder.write_json(stem.with_suffix(".json"), found | {"images": len(positions)})
        pictures.save_cka(stem.with_suffix(".png"), matrix, list(own), list(theirs), axes=(first, name))
        print(stem.with_suffix(".json"), stem.with_suffix(".png"), sep="\n")


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
    """`evaluate`, as process.exit_code does it."""
    return process.exit_code(lambda: evaluate(settings))

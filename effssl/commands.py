"""The settings of evaluate, export and embed, as frozen dataclasses; cli.py reads them.

Every field is a flag (`fine_tune` is `--fine-tune`). Those of train and prepare: config.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional, UseAppendAction

from effssl import InputError
from effssl.config import SetName, flag_of


@dataclass(frozen=True)
class Evaluation:
    """Turn finished runs into the numbers that papers report: linear probe, kNN, few labels, robustness, and measures
    without labels, beside baselines. Writes RUN/evaluation.json and RUN/evaluation.png."""

    runs: Positional[tuple[Path, ...]]
    """Folders of finished runs; of several a common table is printed."""
    data: SetName | None = None
    """Image set to probe on (None: the run's). Of another, the files are evaluation-DATA.json and .png."""
    data_dir: Path | None = None
    """Folder of the set (None: the run's; `data` for another set)."""
    beton_dir: Path | None = None
    """Where the .beton files go (None: as the run has it, or DATA_DIR/beton)."""
    image_size: int | None = None
    """Side of a view in pixels (None: the run's)."""
    fraction: float | None = None
    """Part of the training images that probes are fitted on (None: the run's; 1 for another set)."""
    train_images: int = 100_000
    """At most this many training images are encoded."""
    num_averaged_views: int = 16
    """Random crops an image whose mean representation is probed as a second column, as the authors do (0: none)."""
    knn_k: int = 20
    """Neighbours that vote."""
    probe_labels: int = 10
    """Labels per class in the few-label probe."""
    fine_tune: tuple[float, ...] = ()
    """Parts of the labels to train backbone and head on, in (0, 1]: 0.01 0.1 1. Takes the longest."""
    fine_tune_epochs: int = 20
    """Passes over these labels, for each of three pairs of learning rates."""
    fine_tune_steps: int | None = None
    """At most so many steps, where the passes are more (None: no bound)."""
    adapt_batch_norm: bool = False
    """A column for BatchNorm's statistics taken from the set's training images, all weights as they are."""
    robustness_dir: Path | None = None
    """Corrupted test images: labels.npy and CORRUPTION.npy (None: DATA_DIR/CIFAR-10-C or CIFAR-100-C, where there)."""
    untrained: bool = True
    """A row for the run's encoder before training."""
    supervised: bool = False
    """A row for the run's backbone trained with labels by the same views, steps and schedule; at the first call it is
    trained, and kept in RUN/supervised.safetensors."""
    pixels: bool = False
    """A row for the pixels."""
    checkpoint: UseAppendAction[tuple[str, ...]] = ()
    """NAME=FILE, may be repeated: a row for other weights on disk. NAME is a timm model name, FILE its .safetensors or
    .pth; or NAME is yours and FILE a run's backbone.safetensors."""
    checkpoint_size: int | None = None
    """Side of a view for timm models of --checkpoint (None: what each was made for)."""
    cka: bool = False
    """Compare the first run's layers with those of every other run (of one run: with its untrained backbone's) by
    linear CKA; cka-*.png and .json go to `to` (None: the first run's folder)."""
    to: Path | None = None
    """Folder for comparison.csv and comparison.md: all rows of all runs."""
    workers: int | None = None
    """Threads that load (None: the run's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the backbone's forward pass. auto: bf16 on CUDA, fp32 on CPU."""


@dataclass(frozen=True)
class Export:
    """Write a run's backbone as a folder that plain timm loads, without effssl; its README.md has the lines that do."""

    run: Positional[Path]
    """Run folder, or its backbone.safetensors."""
    to: Path
    """Folder to write; files of another export in it are not overwritten."""
    onnx: bool = False
    """Also model.onnx, for any batch size, compared with torch to 1e-4 before it is left there; may take minutes."""
    projector: bool = False
    """Also projector/model.safetensors, the projector's weights, from the run's checkpoint.pt."""


@dataclass(frozen=True)
class Embed:
    """Write the representations of images: of those below a folder, or of a set's split."""

    run: Positional[Path]
    """Run folder, or its backbone.safetensors."""
    to: Path
    """File to write: .npz or .parquet."""
    images: Path | None = None
    """Folder of images, at any depth; the first folder below it is the label, where there are several."""
    data: SetName | None = None
    """In place of --images: an image set, as in training; the next flags down to --jpeg-quality are for it alone."""
    split: Literal["train", "test"] = "train"
    """The set's split."""
    data_dir: Path = Path("data")
    """Folder of the set."""
    beton_dir: Path | None = None
    """Where its .beton files lie, or go (None: DATA_DIR/beton)."""
    max_side: int = 500
    """As the set was stored."""
    jpeg_quality: int = 90
    """As the set was stored."""
    batch_size: int = 256
    """Images that the backbone sees at once."""
    workers: int = 2
    """Threads that load."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda where there is one."""
    skip_corrupt: bool = False
    """Leave out images that do not decode, instead of stopping."""


def check_evaluation(settings: Evaluation) -> None:
    """Ranges that types cannot say. Raises InputError naming the flag."""
    at_least = {"image_size": 8, "checkpoint_size": 8, "train_images": 1, "num_averaged_views": 0, "knn_k": 1}
    at_least |= {"probe_labels": 1, "fine_tune_epochs": 1, "fine_tune_steps": 1, "workers": 1}
    for name, low in at_least.items():
        value = getattr(settings, name)
        if value is not None and value < low:
            raise InputError(f"{flag_of(name)} must be at least {low}, not {value}")
    if settings.fraction is not None and not 0 < settings.fraction <= 1:
        raise InputError(f"--fraction must lie in (0, 1], not {settings.fraction}")
    for part in settings.fine_tune:
        if not 0 < part <= 1:
            raise InputError(f"--fine-tune takes parts of the labels in (0, 1], not {part:g}")
    for each in settings.checkpoint:
        if not all(each.partition("=")):
            raise InputError(f"--checkpoint {each}: expected NAME=FILE")
    names = ["trained", "untrained", "supervised", "pixels", *(each.partition("=")[0] for each in settings.checkpoint)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"--checkpoint {twice[0]}=...: two rows of that name (timm's tags tell models apart: NAME.TAG)"
        )
    if not settings.runs:
        raise InputError("name at least one run folder")

"""The settings of `effssl evaluate`, `export` and `embed`; those of the others are in config.py.

Every field is a flag (`fine_tune` is `--fine-tune`) except `run` and `runs`, which are given bare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from effssl.ranges import (
    SETTINGS,
    AtLeast1,
    AtLeast8,
    Channels,
    GrayRange,
    JpegQuality,
    LocalPath,
    NamedFile,
    NotNegative,
    Part,
    PositiveFinite,
    Precision,
    SetName,
    StoredSide,
    Storing,
)


def _rows_differ(checkpoints: tuple[str, ...]) -> tuple[str, ...]:
    """Return the checkpoints. Raises ValueError if two rows of the table would have one name."""
    names = ["trained", "averaged", "start", "untrained", "supervised", "pixels"]
    for checkpoint in checkpoints:
        name = checkpoint.partition("=")[0]
        if name in names:
            raise ValueError(
                f"there would be two rows of that name, {name} (timm's tags tell models apart: "
                "NAME.TAG)"
            )
        names.append(name)
    return checkpoints


def _at_least_one(runs: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the runs. Raises ValueError if there is none.

    Of a minimal length pydantic would complain where a path is wrong.
    """
    if not runs:
        raise ValueError("must be at least one")
    return runs


@dataclass(frozen=True, config=SETTINGS)
class Evaluation:
    """Turn finished runs into the numbers that papers report: linear probe, kNN, few labels,
    robustness, and measures without labels, beside baselines. Writes RUN/evaluation.json and
    RUN/evaluation.png."""

    runs: Annotated[tuple[LocalPath, ...], AfterValidator(_at_least_one)]
    """Folders of finished runs; for several, a common table is printed."""
    data: SetName | None = None
    """Image set to probe on (None: the run's). For another, also of the same kind, the files are
    evaluation-DATA.json and .png."""
    data_dir: LocalPath | None = None
    """Folder of the set (None: the run's, which is not downloaded; `data` for another set)."""
    more_dirs: tuple[LocalPath, ...] = ()
    """Further folders of the set in `data_dir`."""
    beton_dir: LocalPath | None = None
    """Where the .beton files go (None: as the run has it, or DATA_DIR/beton)."""
    image_size: AtLeast8 | None = None
    """Side of a view in pixels, which is a square then (None: as the run has it)."""
    gray_range: GrayRange | None = None
    """Black and white of images of more than 8 bits (None: the run's; with other `data` 0 and
    65535)."""
    max_image_gib: PositiveFinite | None = None
    """Memory that decoding an image may take, in GiB (None: the run's; 8 with other `data`)."""
    skip_corrupt: bool = False
    """Leave out images that cannot be stored, as is done anyhow if the run did so."""
    image_column: str | None = None
    """Column of `hf` with the images (None: the run's; with other `data` the one that has any)."""
    label_column: str | None = None
    """Column of `hf` with the labels (None: the run's; with other `data` as in training)."""
    fraction: Part | None = None
    """Part of the training images to fit probes on (None: the run's; 1 with other `data`)."""
    train_images: AtLeast1 = 100_000
    """Training images that are encoded, if there are more: about so many, a part of every class, at
    least one."""
    num_averaged_views: Annotated[int, Field(ge=0)] = 16
    """Views of an image whose mean representation is probed as a second column (0: none)."""
    averaged_views: tuple[Literal["authors", "crops"], ...] = ("authors",)
    """What these views are, a column each. authors: one clean view, the others as in pretraining,
    colours included, as in arXiv 2312.10725. crops: random crops and flips."""
    knn_k: AtLeast1 = 20
    """Neighbours that vote."""
    probe_labels: AtLeast1 = 10
    """Labels per class in the few-label probe."""
    fine_tune: tuple[Part, ...] = ()
    """Parts of the labels to train backbone and head on, in (0, 1]: 0.01 0.1 1. Takes long."""
    fine_tune_epochs: AtLeast1 = 20
    """Passes over these labels, for each of five pairs of learning rates."""
    fine_tune_folds: Annotated[int, Field(ge=2)] | None = None
    """Rates are chosen by cross-validation within these labels, in so many folds (None: on the
    validation split, which may have many more labels)."""
    fine_tune_steps: AtLeast1 | None = None
    """At most this many steps, if the passes are more (None: no bound)."""
    keep: NotNegative = 0.0
    """In --fine-tune: weight of the penalty sum F (theta - theta_0)^2 on how far the backbone moves
    from what it was."""
    keep_fisher: Literal["ssl", "none"] = "ssl"
    """F in --keep. ssl: the diagonal of the Fisher information of the run's own loss on its own
    images, scaled to a mean of 1; it needs checkpoint.pt, and rows that have no projector have
    F = 1. none: 1."""
    adapt_batch_norm: bool = False
    """A column for BatchNorm's statistics taken from the set's training images, all weights as they
    are."""
    robustness_dir: LocalPath | None = None
    """Corrupted test images: labels.npy and CORRUPTION.npy (None: DATA_DIR/CIFAR-10-C or
    CIFAR-100-C, if it is there)."""
    untrained: bool = True
    """A row for the run's encoder before training."""
    supervised: bool = False
    """A row for the run's backbone trained with labels on the run's images, from the same weights,
    by the same views, steps and schedule; the first call trains it, and keeps it in
    RUN/supervised.safetensors."""
    pixels: bool = False
    """A row for the pixels."""
    checkpoint: Annotated[tuple[NamedFile, ...], AfterValidator(_rows_differ)] = ()
    """A row for other weights on disk; may be repeated. NAME is a timm model name, FILE its
    .safetensors or .pth; or NAME is yours and FILE a run's backbone.safetensors."""
    checkpoint_size: AtLeast8 | None = None
    """Side of a view, a square, for timm models of --checkpoint (None: what each was made for)."""
    cka: bool = False
    """Compare the first run's layers with those of every other run (if there is none, with those of
    its untrained backbone) by linear CKA; cka-*.png and .json go to `to`, or the run's folder."""
    to: LocalPath | None = None
    """Folder for comparison.csv and comparison.md: all rows of all runs."""
    workers: AtLeast1 | None = None
    """Threads that load (None: the run's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda if there is one."""
    precision: Precision = "auto"
    """Precision of the backbone's forward pass. auto: on CUDA bf16, or fp16 on cards without it; on
    CPUs fp32."""

    @model_validator(mode="after")
    def _views_beside_the_clean_one(self) -> Evaluation:
        if self.num_averaged_views == 1 and "authors" in self.averaged_views:
            raise ValueError(
                "--num-averaged-views 1: must be 2 or more with --averaged-views authors, of which "
                "one is the clean view"
            )
        return self


@dataclass(frozen=True, config=SETTINGS)
class Export:
    """Write a run's backbone as a folder that plain timm loads, without effssl; its README.md shows
    how."""

    run: LocalPath
    """Run folder, or its backbone.safetensors."""
    to: LocalPath
    """Folder to write; files of another export in it are not overwritten."""
    onnx: bool = False
    """Also write model.onnx, for any batch size, compared with torch to 1e-4; may take minutes."""
    projector: bool = False
    """Also write projector/model.safetensors: the projector's weights, from checkpoint.pt."""


@dataclass(frozen=True, config=SETTINGS)
class Embed:
    """Write the representations of images: of those below a folder, or of a set's split."""

    run: LocalPath
    """Run folder, or its backbone.safetensors."""
    to: LocalPath
    """File to write: .npz or .parquet."""
    images: LocalPath | None = None
    """Folder of images, at any depth; the first folder below is the label, if there are several."""
    data: SetName | None = None
    """Image set in place of --images, as in training; flags down to --label-column are for it."""
    split: Literal["train", "test"] = "train"
    """The set's split."""
    data_dir: LocalPath = Path("data")
    """Folder of the set."""
    more_dirs: tuple[LocalPath, ...] = ()
    """Further folders of the set, as it was stored."""
    beton_dir: LocalPath | None = None
    """Where its .beton files lie, or go if there are none (None: DATA_DIR/beton)."""
    max_side: StoredSide = 500
    """As the set was stored."""
    store: Storing = "auto"
    """As the set was stored."""
    jpeg_quality: JpegQuality = 90
    """As the set was stored."""
    image_column: str | None = None
    """As the set was stored."""
    label_column: str | None = None
    """As the set was stored."""
    batch_size: AtLeast1 = 256
    """Images that the backbone sees at once."""
    workers: AtLeast1 = 2
    """Threads that load."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is cuda if there is one."""
    skip_corrupt: bool = False
    """Leave out images that do not decode, instead of stopping."""
    channels: Channels | None = None
    """Channels of the images (None: as in training)."""
    gray_range: GrayRange | None = None
    """Values that are black and white in images of more than 8 bits (None: as in training)."""
    max_image_gib: PositiveFinite = 8.0
    """Memory that decoding an image may take, in GiB (24 bytes a pixel); larger ones are named."""
    labels: bool = True
    """Folders are classes; --no-labels: they mean nothing, and no image has a label."""

    @model_validator(mode="after")
    def _one_source(self) -> Embed:
        if (self.images is None) == (self.data is None):
            raise ValueError(
                "name what to embed: --images DIR for a folder of images, or --data SET --data-dir "
                "DIR"
            )
        return self

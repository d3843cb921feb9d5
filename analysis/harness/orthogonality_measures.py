"""What orthogonality.py measures of a run's encoder, trained and untrained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from analysis.harness.methods import NAMES
from analysis.harness.runs import MAY_DIFFER
from effssl.config import Config, Model, flat
from effssl.data.stored import Data, reopen_data
from effssl.evaluation import protocols
from effssl.evaluation.encode import (
    Streams,
    backbone_features,
    embed,
    open_streams,
    random_streams,
    spread,
    view_features,
)
from effssl.evaluation.finished_run import open_run
from effssl.image_config import Augment, Images
from effssl.losses.auto_weights import decorrelation_weight
from effssl.models import build_encoder
from effssl.run.device import open_runtime
from effssl.run.log import read_metrics

SHOWN = 256  # dimensions of a correlation matrix, in order
MEASURES = ("effective_rank", "off_diagonal", "alpha", "lidar")
# Settings that make no other recipe of a run.
_NO_RECIPE = MAY_DIFFER | {
    *("seed", "final_images", "probe_labels", "max_side", "jpeg_quality", "skip_corrupt"),
    *("probe_images", "on_collapse"),  # here all are measured anew
}
# Settings that the name of a recipe has already.
_NAMED = {"method", "proj_dim", "cov_weight", "redundancy_weight"}


class Measured(NamedTuple):
    """An encoder, measured."""

    row: dict[str, Any]  # of runs.csv
    correlation: dict[str, np.ndarray]  # "z" and "h" -> [shown, shown]
    eigenvalues: dict[str, np.ndarray]  # "z" and "h" -> of the covariance, largest first
    dims: dict[str, int]  # "z" and "h" -> how many dimensions there are
    course: list[dict[str, Any]]  # probes on the way; none of an encoder before training

    @property
    def recipe(self) -> str:
        return self.row["recipe"]


class Opened(NamedTuple):
    """A run's images and their views, clean and random."""

    data: Data
    clean: Streams
    random: Streams


def measure_runs(folders: list[Path], data_dir: Path | None = None) -> list[Measured]:
    """Measure every run, then its encoder before training: once if several runs began with the
    same. Raises InputError for a folder that holds no finished run."""
    names = recipes([open_run(folder).cfg for folder in folders])  # all first: one may be none
    measured: list[Measured] = []
    untrained: dict[str, Measured] = {}
    both = list(zip(folders, names, strict=True))
    for folder, (recipe, recipe_before) in tqdm(both, desc="measured", unit="run"):
        run = open_run(folder)
        cfg, images = run.cfg, run.cfg.images
        if data_dir is not None:
            images = dataclasses.replace(images, data_dir=data_dir, beton_dir=None)
        opened = _open(images, cfg)
        course = [record for record in read_metrics(folder) if record["kind"] == "probe"]
        row = {"run": folder.resolve().name, "recipe": recipe} | _about(cfg)
        last = course[-1] if course else {}
        row |= _numbers(last, ("linear", "knn", "encoded_views", "seconds"))
        measured.append(_measure(row, run.backbone, run.projector, opened, course))
        key = str((images, cfg.augment, cfg.model, cfg.run.seed))
        if key not in untrained:
            before = build_encoder(cfg.model, cfg.augment, cfg.run.seed)
            row |= dict.fromkeys(("run", "method", "weight", "product"), "")
            row |= {"recipe": recipe_before, "encoded_views": 0, "seconds": 0}
            first = course[0] if course and course[0]["step"] == 0 else {}
            row |= _numbers(first, ("linear", "knn"))
            parts = before.backbone, before.projector
            untrained[key] = _measure(row, *parts, opened, [])
    return [*measured, *untrained.values()]


def _open(images: Images, cfg: Config) -> Opened:
    data = reopen_data(images)
    streams = open_streams(
        data,
        cfg.augment,
        seed=cfg.run.seed,
        batch_size=cfg.optim.batch_size,
        workers=images.workers,
        runtime=open_runtime("auto", cfg.run.precision),
    )
    augment = dataclasses.replace(cfg.augment, views=protocols.VIEWS)
    random = random_streams(streams, augment, seed=images.split_seed)
    return Opened(data, streams, random)


def _weight(cfg: Config) -> float | None:
    views, part = cfg.augment.views, cfg.images.fraction
    return decorrelation_weight(cfg.loss, cfg.model.proj_dim, views=views, part=part)


def _about(cfg: Config) -> dict[str, Any]:
    weight = _weight(cfg)
    return {
        "data": cfg.images.data,
        "method": cfg.loss.method,
        "dim": cfg.model.proj_dim,
        "weight": "" if weight is None else round(weight, 8),
        "product": "" if weight is None else round(weight * cfg.model.proj_dim, 6),
        "views": cfg.augment.views,
        "fraction": cfg.images.fraction,
        "epochs": cfg.optim.epochs,
        "seed": cfg.run.seed,
        "split_seed": cfg.images.split_seed,
    }


def recipes(configs: list[Config]) -> list[tuple[str, str]]:
    """Return for every run a name that it shares with the runs that differ from it by the seed
    alone, and a name of its encoder before training."""
    settings = [flat(cfg) for cfg in configs]
    others = [k for k in settings[0] if k not in _NO_RECIPE | _NAMED]
    differing = [k for k in others if any(each[k] != settings[0][k] for each in settings)]
    of_encoder = {f.name for kind in (Images, Augment, Model) for f in dataclasses.fields(kind)}
    names = []
    for cfg, each in zip(configs, settings, strict=True):
        dim = cfg.model.proj_dim
        weight = _weight(cfg)
        product = [] if weight is None else [f"w d = {weight * dim:.3g}"]
        further = {k: f"{k} {each[k]}" for k in differing}
        trained = [NAMES[cfg.loss.method], f"d = {dim}", *product, *further.values()]
        before = ["untrained", f"d = {dim}", *(further[k] for k in differing if k in of_encoder)]
        names.append((", ".join(trained), ", ".join(before)))
    return names


def _numbers(record: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: round(record[name], 5) if name in record else "" for name in names}


def _measure(
    row: dict[str, Any],
    backbone: nn.Module,
    projector: nn.Module | None,
    opened: Opened,
    course: list[dict[str, Any]],
) -> Measured:
    """Measure an encoder on the validation images, or on training images of a set without
    labels."""
    data, clean, random = opened
    has_labels = len(data.val_positions) > 0
    positions = data.val_positions if has_labels else data.train_positions
    device = clean["train"].runtime.device
    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    projector = None if projector is None else projector.to(device)
    measured = spread(positions, protocols.RANK_IMAGES)
    h = backbone_features(backbone, clean)("train", measured)
    of_views = view_features(backbone, random)("train", spread(positions, protocols.VIEW_IMAGES))
    columns = protocols.measures(h, projector) | protocols.measures_of_views(of_views, projector)
    x = {"h": h} if projector is None else {"z": embed(projector, h), "h": h}
    numbers = _numbers(columns, tuple(f"{of}/{name}" for of in ("h", "z") for name in MEASURES))
    about = {"split": "validation" if has_labels else "train", "images": len(measured)}
    return Measured(
        {**row, **about, **numbers},
        {of: correlation(each).cpu().numpy() for of, each in x.items()},
        {of: eigenvalues(each).cpu().numpy() for of, each in x.items()},
        {of: each.shape[1] for of, each in x.items()},
        course,
    )


def correlation(x: Tensor) -> Tensor:
    """Return the correlation matrix of the first SHOWN dimensions of x [n, dim], float64; nan for a
    dimension that is constant."""
    x = x[:, :SHOWN].double()
    centred = x - x.mean(0)
    norm = torch.linalg.vector_norm(centred, dim=0)
    varies = norm > 1e-7 * torch.linalg.vector_norm(x, dim=0)  # as effssl.evaluation.spectrum
    unit = centred / norm.where(varies, torch.nan)
    return unit.T @ unit


def eigenvalues(x: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance of x [n, dim] above float64's noise, largest first,
    float64."""
    centred = x.double() - x.double().mean(0)
    gram = centred @ centred.T if x.shape[0] <= x.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).flip(0) / (len(x) - 1)
    return values[values > len(values) * torch.finfo(torch.float64).eps * values[0]]

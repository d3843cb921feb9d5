"""What orthogonality.py measures of a run's encoder, trained and untrained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from effssl import cli
from effssl.config import Config, flat
from effssl.data import Data
from effssl.evaluation import protocols
from effssl.evaluation.encode import (
    Clean,
    RandomViews,
    backbone_features,
    embed,
    spread,
    view_features,
)
from effssl.evaluation.finished_run import build_encoder, open_images, open_run, strengths
from effssl.losses import functional as losses
from effssl.run import device as process
from effssl.run.log import read_metrics

SHOWN = 256  # dimensions of a correlation matrix, in order
METHODS = {"vicreg": "VICReg", "barlow_twins": "Barlow Twins", "simclr": "SimCLR"}
METHODS["entropy_reconstruction"] = "entropy-reconstruction"
MEASURES = ("effective_rank", "off_diagonal", "alpha", "lidar")
# Settings that make no other recipe of a run.
PLUMBING = (cli.RESUME_MAY_CHANGE - {"max_seconds"}) | {
    *("seed", "final_images", "probe_labels", "max_side", "jpeg_quality", "skip_corrupt")
}


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


def measure_runs(folders: list[Path], data_dir: Path | None = None) -> list[Measured]:
    """Every run, then its encoder before training: once where several runs began with the same.
    Raises InputError for a folder that holds no finished run."""
    names = recipes([open_run(folder).cfg for folder in folders])  # all first: one may be none
    measured: list[Measured] = []
    untrained: dict[str, Measured] = {}
    for folder, (recipe, before) in tqdm(
        list(zip(folders, names, strict=True)), desc="measured", unit="run"
    ):
        run = open_run(folder)
        cfg = run.cfg
        device, autocast, _ = process.where_it_runs("auto", cfg.run.precision, "false")
        images = cfg.images
        if data_dir is not None:
            images = dataclasses.replace(images, data_dir=data_dir, beton_dir=None)
        data, clean = open_images(
            images, cfg.augment, device, torch.bfloat16 if autocast else torch.float32
        )
        course = [record for record in read_metrics(run.folder) if record["kind"] == "probe"]
        about = {"run": run.folder.resolve().name, "recipe": recipe} | _about(cfg)
        done = {} if not course else course[-1]
        row = about | _numbers(done, ("linear", "knn", "encoded_views", "seconds"))
        measured.append(_measure(row, run.backbone, run.projector, data, clean, cfg, course))
        key = str((images, cfg.augment, cfg.model, cfg.run.seed))
        if key not in untrained:
            fresh = build_encoder(cfg)
            first = course[0] if course and course[0]["step"] == 0 else {}
            row = about | {
                "run": "",
                "recipe": before,
                "method": "",
                "weight": "",
                "product": "",
                "encoded_views": 0,
            }
            row |= {"seconds": 0} | _numbers(first, ("linear", "knn"))
            untrained[key] = _measure(row, fresh.backbone, fresh.projector, data, clean, cfg, [])
    return [*measured, *untrained.values()]


def _about(cfg: Config) -> dict[str, Any]:
    weight = decorrelation_weight(cfg)
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
    }


def decorrelation_weight(cfg: Config) -> float | None:
    """w: of the off-diagonal term against the invariance; None where the loss has none."""
    c, dim = cfg.loss, cfg.model.proj_dim
    match c.method:
        case "vicreg" if c.inv_weight > 0:
            weight = (
                losses.cov_weight(dim, c.inv_weight) if c.cov_weight == "auto" else c.cov_weight
            )
            return float(weight) / c.inv_weight
        case "barlow_twins":
            return float(
                losses.redundancy_weight(dim)
                if c.redundancy_weight == "auto"
                else c.redundancy_weight
            )
    return None


def recipes(configs: list[Config]) -> list[tuple[str, str]]:
    """Of every run, a name that it shares with the runs that differ from it by the seed alone, and
    one of its encoder before training."""
    resolved = {"method", "proj_dim", "cov_weight", "redundancy_weight"}  # the name has them
    settings = [flat(cfg) for cfg in configs]
    others = [k for k in settings[0] if k not in PLUMBING | resolved]
    differing = [k for k in others if any(each[k] != settings[0][k] for each in settings)]
    of_encoder = {
        f.name
        for part in (Config().images, Config().augment, Config().model)
        for f in dataclasses.fields(part)
    }
    names = []
    for cfg, each in zip(configs, settings, strict=True):
        width, weight = f"d = {cfg.model.proj_dim}", decorrelation_weight(cfg)
        product = [] if weight is None else [f"w d = {weight * cfg.model.proj_dim:.3g}"]
        trained = [
            METHODS[cfg.loss.method],
            width,
            *product,
            *(f"{k} {each[k]}" for k in differing),
        ]
        before = ["untrained", width, *(f"{k} {each[k]}" for k in differing if k in of_encoder)]
        names.append((", ".join(trained), ", ".join(before)))
    return names


def _numbers(record: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: round(record[name], 5) if name in record else "" for name in names}


def _measure(
    row: dict[str, Any], backbone: nn.Module, projector: nn.Module | None, data: Data, clean: Clean, cfg: Config,
    course: list[dict[str, Any]],
) -> Measured:  # fmt: skip
    positions, split = data.val_positions, "validation"
    if len(positions) == 0:
        positions, split = data.train_positions, "train"
    backbone = backbone.to(clean.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    projector = None if projector is None else projector.to(clean.device)
    some = spread(positions, protocols.RANK_IMAGES)
    h = backbone_features(backbone, clean)(data.train, some)
    random = RandomViews(protocols.VIEWS, strengths(cfg.augment), cfg.images.split_seed)
    of_views = view_features(backbone, clean, random)(
        data.train, spread(positions, protocols.VIEW_IMAGES)
    )
    columns = protocols.measures(h, projector) | protocols.measures_of_views(of_views, projector)
    x = {"h": h} if projector is None else {"z": embed(projector, h), "h": h}
    numbers = _numbers(columns, tuple(f"{of}/{name}" for of in ("h", "z") for name in MEASURES))
    return Measured(
        row | {"split": split, "images": len(some)} | numbers,
        {of: correlation(each).cpu().numpy() for of, each in x.items()},
        {of: eigenvalues(each).cpu().numpy() for of, each in x.items()},
        {of: each.shape[1] for of, each in x.items()},
        course,
    )


def correlation(x: Tensor) -> Tensor:
    """Correlation matrix of the first SHOWN dimensions of x [n, dim], float64; nan where a
    dimension is constant."""
    x = x[:, :SHOWN].double()
    centred = x - x.mean(0)
    norm = torch.linalg.vector_norm(centred, dim=0)
    unit = centred / norm.where(
        norm > 1e-7 * torch.linalg.vector_norm(x, dim=0), torch.nan
    )  # as effssl.spectrum
    return unit.T @ unit


def eigenvalues(x: Tensor) -> Tensor:
    """Eigenvalues of the covariance of x [n, dim] above float64's noise, largest first, float64."""
    centred = x.double() - x.double().mean(0)
    gram = centred @ centred.T if x.shape[0] <= x.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).flip(0) / (len(x) - 1)
    return values[values > len(values) * torch.finfo(torch.float64).eps * values[0]]

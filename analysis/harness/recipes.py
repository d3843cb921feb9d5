"""What the scripts of the paper's claims share: scales, runs by name, their figures by seed, the report.

A run is named by what it is: bt_k4_d256_f0.5_e2_s0 is Barlow Twins (vr: VICReg) with K = 4 views, a projector 256
wide, half of the scale's images, 2 epochs, seed 0; _w0.0008 where its weight is not the rule's, _b512 where its batch
is not the scale's. All scripts of one scale keep their runs in one folder, so that each is trained once.

Every run has its own whole schedule: none is read midway. Warm-up takes the same part of each. The projector's hidden
layer is as wide as z. Accuracies are of a linear probe on the validation split; the test split is not read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import experiments
from matplotlib.figure import Figure

from effssl import InputError, cli
from effssl.config import Config, flag_of
from effssl.losses import functional as losses
from effssl.run.folder import write_text

CONFIGS = Path(__file__).parent.parent / "configs"
INV_WEIGHT = 25.0  # of VICReg, and its variance term's
KEEP_MB = 100.0  # checkpoints of finished runs; those of wide projectors are larger
SHORT = {"barlow_twins": "bt", "vicreg": "vr"}
# What these scripts choose themselves, from K, d and the length of a run.
CHOSEN = (
    *("views", "method", "seed", "warmup_epochs", "proj_hidden_dim"),
    *("redundancy_weight", "inv_weight", "var_weight", "cov_weight"),
)


class Preset(NamedTuple):
    """A scale. --epochs is that of K = 8 on all its images; --fraction is of the set's."""

    flags: tuple[str, ...]
    seeds: int
    warmup: float  # part of a run


_ALL = ("--proj-dim", "256", "--probe-every", "0", "--final-images", "0")
_CPU = ("--precision", "bf16", "--fraction", "0.4", "--epochs", "1")
# Runs of a minute: compiling would take as long as it saves, and count as training.
_GPU = ("--compile", "false", "--epochs", "4")
PRESETS = {
    "cpu": Preset(("--config", str(CONFIGS / "cifar10_cpu.yaml"), *_CPU, *_ALL), seeds=3, warmup=0.1),
    "gpu": Preset(("--config", str(CONFIGS / "cifar10.yaml"), *_GPU, *_ALL), seeds=1, warmup=0.1),
    "paper": Preset(
        ("--config", str(CONFIGS / "cifar10_baseline.yaml"), "--batch-size", "128", "--epochs", "100", *_ALL),
        seeds=3,
        warmup=0.0,
    ),
}


class Recipe(NamedTuple):
    """What a run is, but for its seed."""

    views: int
    dim: int
    epochs: int
    part: float = 1.0  # of the scale's images
    weight: float | None = None  # of decorrelation against invariance; None: the rule's
    batch: int | None = None  # None: the scale's
    extra: tuple[str, ...] = ()  # further flags
    extra_name: str = ""


class Scale(NamedTuple):
    """A preset with the user's flags over it."""

    args: argparse.Namespace
    flags: tuple[str, ...]
    cfg: Config
    warmup: float

    @property
    def epochs(self) -> int:
        return self.cfg.optim.epochs

    @property
    def dim(self) -> int:
        return self.cfg.model.proj_dim


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The flags of every claim's script."""
    made = experiments.parser(doc, PRESETS, "runs/claims-PRESET", "the preset's: cpu 3, gpu 1, paper 3")
    made.epilog = (
        "E is 1 epoch of 18,000 CIFAR-10 images with a half-width ResNet-18 for cpu, 4 of 45,000 with a ResNet-18 for "
        f"gpu, 100 with a ResNet-50 for paper.\n{made.epilog}; -- --epochs sets E"
    )
    made.add_argument("--method", choices=SHORT, default="barlow_twins", help="loss of all runs")
    return made


def scale(args: argparse.Namespace, name: str) -> Scale:
    """The settings that the script's runs start from; fills in the folders and seeds that were not given. Raises
    InputError for bad further flags."""
    preset = PRESETS[args.preset]
    for flag in (flag_of(field) for field in CHOSEN):
        if any(token.partition("=")[0].replace("_", "-") == flag for token in args.further):
            raise InputError(f"-- {flag}: the script chooses it for every run")
    flags = (*preset.flags, "--method", args.method, "--data-dir", args.data_dir, *args.further)
    args.runs = args.runs or Path(f"runs/claims-{args.preset}")
    args.out = args.out or args.runs / (name if args.method == "barlow_twins" else f"{name}-{args.method}")
    args.seeds = args.seeds or preset.seeds
    return Scale(args, flags, cli.parse(list(flags)), preset.warmup)


def runs(scale: Scale, recipes: Iterable[Recipe]) -> dict[str, list[str]]:
    """Name -> flags of effssl.train, all recipes of the first seed first; a recipe that comes twice is one run."""
    recipes = list(dict.fromkeys(recipes))
    return {name_of(scale, r, s): flags_of(scale, r, s) for s in range(scale.args.seeds) for r in recipes}


def name_of(scale: Scale, recipe: Recipe, seed: int) -> str:
    weight = "" if recipe.weight is None else f"_w{recipe.weight:.4g}"
    other = f"_b{recipe.batch}" * (recipe.batch is not None) + f"_{recipe.extra_name}" * bool(recipe.extra_name)
    what = f"k{recipe.views}_d{recipe.dim}{weight}_f{recipe.part:g}_e{recipe.epochs}{other}"
    return f"{SHORT[scale.args.method]}_{what}_s{seed}"


def flags_of(scale: Scale, recipe: Recipe, seed: int) -> list[str]:
    views, dim, epochs = recipe.views, recipe.dim, recipe.epochs
    flags = [*scale.flags, "--views", str(views), "--proj-dim", str(dim), "--proj-hidden-dim", str(dim)]
    flags += ["--epochs", str(epochs), "--warmup-epochs", repr(round(scale.warmup * epochs, 6))]
    flags += ["--fraction", repr(round(scale.cfg.images.fraction * recipe.part, 6)), "--seed", str(seed)]
    if recipe.batch is not None:
        flags += ["--batch-size", str(recipe.batch)]
    return flags + weight_flags(scale.args.method, recipe.weight) + list(recipe.extra)


def weight_flags(method: str, weight: float | None) -> list[str]:
    """For a weight of decorrelation: redundancy_weight, or cov_weight / inv_weight. None: the rule's."""
    if method == "vicreg":
        strengths = ["--inv-weight", str(INV_WEIGHT), "--var-weight", str(INV_WEIGHT)]
        return [*strengths, "--cov-weight", "auto" if weight is None else repr(weight * INV_WEIGHT)]
    return ["--redundancy-weight", "auto" if weight is None else repr(weight)]


def weight_of(settings: dict[str, Any]) -> float:
    """The weight of decorrelation against invariance in a run's settings, the rule's resolved."""
    dim, inv = settings["proj_dim"], settings["inv_weight"]
    if settings["method"] == "vicreg":
        weight = settings["cov_weight"]
        return (losses.cov_weight(dim, inv) if weight == "auto" else float(weight)) / inv
    weight = settings["redundancy_weight"]
    return losses.redundancy_weight(dim) if weight == "auto" else float(weight)


def rule(method: str, dim: int) -> float:
    """The rule's weight at a width."""
    settings = {"method": method, "proj_dim": dim, "inv_weight": INV_WEIGHT}
    return weight_of({**settings, "cov_weight": "auto", "redundancy_weight": "auto"})


def epochs_for(views: int, part: float, views_per_image: int) -> int:
    """Epochs on `part` of the images that encode `views_per_image` views for every image of the whole. Raises
    InputError where they do not come out whole."""
    epochs = Fraction(views_per_image) / views / Fraction(part).limit_denominator(1000)
    if epochs.denominator != 1:
        raise InputError(
            f"K = {views} on {part:g} of the images would take {float(epochs):g} epochs for equal encoded views; "
            "choose -- --epochs so that they are whole"
        )
    return int(epochs)


def epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"


def rows_of(scale: Scale, finished: list[dict]) -> list[dict[str, Any]]:
    """Of every finished run what the tables need, for runs.csv; accuracies in [0, 1]."""
    measured = ("linear", "knn", "h/effective_rank", "z/effective_rank", "h/off_diagonal", "z/off_diagonal")
    rows = []
    for run in finished:
        s, result = run["settings"], run["result"]
        rows.append(
            {
                "name": run["name"],
                "method": s["method"],
                "views": s["views"],
                "dim": s["proj_dim"],
                "weight": weight_of(s),
                "part": round(s["fraction"] / scale.cfg.images.fraction, 6),
                "epochs": s["epochs"],
                "seed": s["seed"],
                **{k: round(run[k], 5) for k in measured if k in run},
                "steps": result["steps"],
                "encoded_views": result["encoded_views"],
                "seconds": round(result["seconds"], 2),
                "views_per_s": result["views_per_s"],
                "finished": result["finished"],
            }
        )
    return sorted(rows, key=lambda r: (r["dim"], r["weight"], r["views"], -r["part"], r["epochs"], r["seed"]))


def of(scale: Scale, rows: list[dict], recipe: Recipe, key: str = "linear") -> dict[int, float]:
    """By seed, one figure of a recipe's finished runs; accuracies in %."""
    by_name = {row["name"]: row for row in rows}
    percent = 100 if key.startswith("linear") or key == "knn" else 1
    names = {seed: name_of(scale, recipe, seed) for seed in range(scale.args.seeds)}
    return {seed: percent * by_name[name][key] for seed, name in names.items() if name in by_name}


def write(
    scale: Scale, name: str, rows: list[dict], text: str, figure: Figure, finished: list[dict], wanted: dict
) -> None:
    """runs.csv, summary.md with where it comes from, and NAME.png; prints the summary."""
    out: Path = scale.args.out
    origin = experiments.provenance([run["result"] for run in finished], scale.args.command)
    text = f"{text}\n{experiments.how_many(finished, wanted)} runs finished; {origin}\n"
    experiments.write_csv(out / "runs.csv", rows)
    experiments.write_picture(out / f"{name}.png", figure)
    write_text(out / "summary.md", text)
    print(f"{text}\n{out / 'runs.csv'}\n{out / f'{name}.png'}")

"""What the runs of the claims are: recipes, their names and their flags.

A run is named by what it is: bt_k4_d256_f0.5_e2_s0 is Barlow Twins (vr: VICReg) with K = 4 views, a
projector 256 wide, half of the scale's images, 2 epochs, seed 0; _w0.0008 if its weight is not the
rule's, _lr0.006 and _b512 if its learning rate and batch are not the scale's. All commands of one
scale keep their runs in one folder, so that each is trained once.

The seed of a run chooses its validation split and its part of the images too. So what other images
would change is among what seeds differ by, and intervals over seeds have it in them; runs of one
seed, which are compared, share both. A study that began with one split for all seeds goes on with
it, since its runs could not be compared with others, and its tables say so.

Every run has its own whole schedule: none is read midway. Warm-up takes the same part of each. The
projector's hidden layer is as wide as z. Accuracies are of a linear probe on the validation split;
the test split is not read."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import yaml

from analysis.harness import records
from analysis.harness.methods import folder_of, weight_flags
from analysis.harness.presets import CLAIMS
from analysis.harness.runs import changed
from analysis.harness.training import Flags
from effssl import InputError, cli
from effssl.config import Config, flag_of, resolved

SHORT = {"barlow_twins": "bt", "vicreg": "vr"}
# What the commands choose themselves, from K, d and the length of a run.
CHOSEN = (
    *("views", "method", "seed", "split_seed", "warmup_epochs", "proj_hidden_dim"),
    *("redundancy_weight", "inv_weight", "var_weight", "cov_weight"),
)


class Recipe(NamedTuple):
    """What a run is, but for its seed."""

    views: int
    dim: int
    epochs: int
    part: float = 1.0  # of the scale's images
    weight: float | None = None  # of decorrelation against invariance; None: the rule's
    batch: int | None = None  # None: the scale's
    lr: float | None = None  # None: the scale's
    extra: tuple[str, ...] = ()  # further flags
    extra_name: str = ""


class Scale(NamedTuple):
    """A preset with the user's flags over it, from which all runs of a command start."""

    args: argparse.Namespace
    flags: tuple[str, ...]
    cfg: Config
    warmup: float  # part of a run
    one_split: bool  # of validation, for all seeds

    @property
    def epochs(self) -> int:
        return self.cfg.optim.epochs

    @property
    def dim(self) -> int:
        return self.cfg.model.proj_dim


def scale_of(args: argparse.Namespace, command: str) -> Scale:
    """Return the settings that the runs start from; folders and seeds that were not given are
    filled in. Raises InputError for bad further flags."""
    preset = CLAIMS[args.preset]
    for flag in (flag_of(field) for field in CHOSEN):
        if any(token.partition("=")[0].replace("_", "-") == flag for token in args.further):
            raise InputError(f"-- {flag}: the script chooses it for every run")
    flags = (*preset.flags, "--method", args.method, "--data-dir", str(args.data_dir))
    flags += tuple(args.further)
    args.runs = args.runs or Path(f"runs/claims-{args.preset}")
    args.out = args.out or args.runs / folder_of(command, args.method)
    args.seeds = args.seeds or preset.seeds
    cfg = cli.parse(list(flags))
    return Scale(args, flags, cfg, preset.warmup, _share_a_split(args, cfg))


def _share_a_split(args: argparse.Namespace, cfg: Config) -> bool:
    """Say whether runs at the scale's own settings, recorded or in the folder of runs, share one
    validation split over their seeds. Raises InputError for a damaged file of records."""
    file, begins = records.file_of(args), f"{SHORT[args.method]}_"
    recorded = records.read(file).values() if file.is_file() else ()
    configs = [r.get("config", {}) for r in recorded if r["name"].startswith(begins)]
    there = args.runs.glob(f"{begins}*_s[1-9]/config.yaml")
    configs += [yaml.safe_load(f.read_text()) for f in there]
    now, free = resolved(cfg), {*CHOSEN, "proj_dim", "epochs"}
    return any(
        was.get("seed", 0) != 0 == was.get("split_seed") and not {*changed(was, now)} - free
        for was in configs
    )


def runs_of(scale: Scale, recipes: Iterable[Recipe]) -> Flags:
    """Return name -> flags of effssl.train, all recipes of the first seed first; a recipe that
    comes twice is one run."""
    recipes = list(dict.fromkeys(recipes))
    return {
        name_of(scale, recipe, seed): flags_of(scale, recipe, seed)
        for seed in range(scale.args.seeds)
        for recipe in recipes
    }


def name_of(scale: Scale, recipe: Recipe, seed: int) -> str:
    name = f"{SHORT[scale.args.method]}_k{recipe.views}_d{recipe.dim}"
    if recipe.weight is not None:
        name += f"_w{recipe.weight:.4g}"
    if recipe.lr is not None:
        name += f"_lr{recipe.lr:g}"
    name += f"_f{recipe.part:g}_e{recipe.epochs}"
    if recipe.batch is not None:
        name += f"_b{recipe.batch}"
    if recipe.extra_name:
        name += f"_{recipe.extra_name}"
    return f"{name}_s{seed}"


def flags_of(scale: Scale, recipe: Recipe, seed: int) -> list[str]:
    views, dim, epochs = recipe.views, recipe.dim, recipe.epochs
    flags = [*scale.flags, "--views", str(views), "--proj-dim", str(dim)]
    flags += ["--proj-hidden-dim", str(dim), "--epochs", str(epochs)]
    flags += ["--warmup-epochs", repr(round(scale.warmup * epochs, 6))]
    flags += ["--fraction", repr(round(scale.cfg.images.fraction * recipe.part, 6))]
    flags += ["--seed", str(seed), "--split-seed", str(0 if scale.one_split else seed)]
    if recipe.lr is not None:
        flags += ["--lr", repr(recipe.lr)]
    if recipe.batch is not None:
        flags += ["--batch-size", str(recipe.batch)]
    return flags + weight_flags(scale.args.method, recipe.weight) + list(recipe.extra)


def epochs_for(views: int, part: float, views_per_image: int) -> int:
    """Return the epochs on `part` of the images that encode `views_per_image` views for every image
    of the whole. Raises InputError if they do not come out whole."""
    epochs = Fraction(views_per_image) / views / Fraction(part).limit_denominator(1000)
    if epochs.denominator != 1:
        raise InputError(
            f"K = {views} on {part:g} of the images would take {float(epochs):g} epochs for equal "
            "encoded views; choose -- --epochs so that they are whole"
        )
    return int(epochs)


def in_epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"

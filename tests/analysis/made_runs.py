"""Scales of the claims, and finished runs made up for them."""

import contextlib
import dataclasses
import itertools
import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.harness import claims, recipes, training, trials
from analysis.harness.cli import read_flags
from analysis.harness.recipes import Scale
from effssl import cli
from effssl.train import loop
from tests.conftest import dots_for_pictures

TINY = [
    *("--data", "digits", "--image-size", "8", "--precision", "fp32", "--proj-dim", "16"),
    *("--probe-images", "200"),
    *("--backbone-kwargs", "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}"),
]
NO_RECORDS = ["--records", "/dev/null"]


def scale_of(*flags: str) -> Scale:
    """Return the scale of views.py called with these flags."""
    return recipes.scale_of(read_flags(claims.parser(""), [*NO_RECORDS, *flags]), "views")


def scale_of_wallclock(*flags: str) -> Scale:
    """Return the scale of wallclock.py called with these flags and a recipe of the user's own."""
    args = read_flags(claims.parser(""), [*NO_RECORDS, *flags])
    args.wide, args.recipe = 8192, [["fast", "--lr 0.01"]]
    args.rates, args.weights = trials.RATES, trials.WEIGHTS
    return recipes.scale_of(args, "wallclock")


def write_runs(scale: Scale, planned, figures_of, seeds=None) -> None:
    """Write finished runs as effssl.train leaves them, less the weights. figures_of(recipe, seed):
    accuracy in %, seconds. seeds: those of the scale, unless they are given."""
    parsed = {
        recipe: cli.parse(recipes.flags_of(scale, recipe, 0)) for recipe in dict.fromkeys(planned)
    }
    every = range(scale.args.seeds) if seeds is None else seeds
    for (recipe, cfg), seed in itertools.product(parsed.items(), every):
        folder = scale.args.runs / recipes.name_of(scale, recipe, seed)
        folder.mkdir(parents=True)
        split_seed = 0 if scale.one_split else seed
        seeded = dataclasses.replace(
            cfg,
            run=dataclasses.replace(cfg.run, seed=seed),
            images=dataclasses.replace(cfg.images, split_seed=split_seed),
        )
        (folder / "config.yaml").write_text(cli.dump(seeded))
        accuracy, seconds = figures_of(recipe, seed)
        encoded = round(18_000 * recipe.part) * recipe.epochs * recipe.views
        steps = round(18_000 * recipe.part) * recipe.epochs // 64
        probe = {
            "kind": "probe",
            "step": steps,
            "epoch": recipe.epochs,
            "seconds": seconds,
            "encoded_views": encoded,
        }
        probe |= {"linear": accuracy / 100, "knn": accuracy / 110}
        probe |= {
            f"{x}/{m}": 1.0 + recipe.dim for x in "hz" for m in ("effective_rank", "off_diagonal")
        }
        (folder / "metrics.jsonl").write_text(json.dumps(probe) + "\n")
        result = {
            "final": {"split": None, "rows": {}},
            "steps": steps,
            "seconds": seconds,
            "encoded_views": encoded,
            "views_per_s": encoded / seconds,
            "hardware": {"cpu": "a CPU", "cpu_cores": 2, "threads": 1, "gpu": None},
            "versions": {"effssl": "0", "commit": "abc", "torch": "2", "python": "3"},
            "finished": "2026-01-01 00:00 UTC",
        }
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "linear_all_labels.json").write_text(
            json.dumps({"fraction": scale.cfg.images.fraction, "linear": accuracy / 100 + 0.01})
        )


@contextlib.contextmanager
def trained_here() -> Iterator[None]:
    """Let studies train in this process, without the seconds that each start takes, and without
    pictures of runs."""

    def start(run: Path, flags: list[str], *_: object) -> types.SimpleNamespace:
        code = loop.main(cli.parse([*flags, "--out", str(run)]))
        none = lambda *_: None  # noqa: E731
        return types.SimpleNamespace(
            poll=lambda: code, returncode=code, send_signal=none, wait=none
        )

    with dots_for_pictures(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "start_process", start)
        yield


def cells(summary: str, begins: str) -> list[str]:
    (line,) = [line for line in summary.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in line.strip("|").split("|")]

"""What one change of the recipe does: the explicit penalty, the authors' ways, statistics by view,
what the recipes for CIFAR-10 change of the defaults.

python analysis/changes.py penalty --data-dir DIR                  # CIFAR-10, two CPU cores
python analysis/changes.py authors --data-dir DIR
python analysis/changes.py by_view --data-dir DIR --method vicreg
python analysis/changes.py defaults --preset photographs --method vicreg --data-dir IMAGENETTE

penalty: |W W' - I|^2 of the projector's last layer beside the loss (--weight-ortho), at widths 64,
256 and 1024. It is a sum over the entries of W W', so that one weight asks as much of each of them
at every width. authors: what the code of arXiv 2312.10725 does another way, one thing at a time,
and all of it. by_view: BatchNorm's statistics of each view by itself, as in the official code.
defaults: what configs/cifar10.yaml and cifar10_cpu.yaml have in place of the defaults for a user's
own photographs, one thing at a time and all of it.

Each change is compared with the recipe without it (the rule's decorrelation weight, K = 4 unless
said otherwise), paired by seed: is it better? The answer is by Student's t at 5%, corrected by Holm
for the number of the study's comparisons, else open."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import claims, cli, plots, verdicts
from analysis.harness.methods import INV_WEIGHT
from analysis.harness.recipes import Recipe, Scale, runs_of, scale_of
from analysis.harness.stats import mean_std
from analysis.harness.tables import markdown
from effssl.losses.auto_weights import authors_weight
from effssl.ranges import height_width

PENALTIES = (0.1, 1.0)
WIDTHS = (64, 256, 1024)  # of the study of the penalty
_COLOURS = (
    *("--saturation", "0.4", "--hue", "0"),
    *("--mean", "0.4914", "0.4822", "0.4465", "--std", "0.2023", "0.1994", "0.2010"),
)
_CONSTANT = ("--lr", "1e-3", "--final-lr", "1", "--warmup-epochs", "0")
_ADAM = ("--optimizer", "adam", "--weight-decay", "1e-6")


class Change(NamedTuple):
    """A recipe, and the one that it is compared with; `says` names the change."""

    says: str
    recipe: Recipe
    without: Recipe


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("study", choices=STUDIES, help="which changes")
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(scale_of(args, f"changes-{args.study}")))


def penalty(scale: Scale) -> list[Change]:
    """Return the penalty's weights at each width."""
    changes = []
    for dim in WIDTHS:
        for weight in PENALTIES:
            says, flags = f"d = {dim}: penalty {weight:g}", ("--weight-ortho", repr(weight))
            changes.append(_change(scale, says, f"ortho{weight:g}", *flags, dim=dim))
    return changes


def authors(scale: Scale) -> list[Change]:
    """Return what the authors' code does another way, one at a time, and all of it."""
    weight, of_two = (_their_weight(scale, views) for views in (4, 2))
    loss, crops, constant = ("--pairing", "authors"), ("--crop-scale", "0.08", "1"), _CONSTANT
    everything = (
        *(*loss, "--proj-bias", *weight, *crops, *_COLOURS, *_ADAM, *constant),
        *("--no-hold-out", "--no-drop-last"),
    )
    return [
        _change(scale, "their loss, the rule's weight", "pairing", *loss),
        _change(scale, "their loss and weight", "pairing-weight", *loss, *weight),
        _change(scale, "K = 2: their loss and weight", "pairing-weight", *loss, *of_two, views=2),
        _change(scale, "Adam with an L2 term of 1e-6", "adam", *_ADAM),
        _change(scale, "a constant rate of 1e-3", "constant", *constant),
        _change(scale, "crops from 8% of the area on", "crops", *crops),
        _change(scale, "their colours", "colours", *_COLOURS),
        _change(scale, "held-out images pretrained on too", "all-images", "--no-hold-out"),
        _change(scale, "all of these", "authors", *everything),
    ]


def _their_weight(scale: Scale, views: int) -> tuple[str, str]:
    """Return the flag of the authors' weight for all images, which the scale's stand for here."""
    weight = authors_weight(scale.args.method, scale.dim, views, 1.0)
    if scale.args.method == "vicreg":
        return "--cov-weight", repr(INV_WEIGHT / weight)
    return "--redundancy-weight", repr(weight)


def by_view(scale: Scale) -> list[Change]:
    """Return statistics by view, for two and four views."""
    return [
        _change(scale, f"K = {k}: statistics by view", "by-view", "--norm-by-view", views=k)
        for k in (2, 4)
    ]


def defaults(scale: Scale) -> list[Change]:
    """Return what the recipes for CIFAR-10 have in place of the defaults, and all of it; and a
    higher rate by itself, as theirs are higher."""
    side = min(height_width(scale.cfg.augment.image_size))
    muon = ("--optimizer", "muon", "--lr", "2e-2", "--decay", "linear")
    crops, ortho = ("--crop-scale", "0.2", "1"), ("--weight-ortho", "1")
    growing = ("--first-size", str(side // 2), "--grow-by", str(side // 4), "--grow-until", "0.8")
    return [
        _change(scale, "a rate three times as high", "rate", "--lr", repr(3 * scale.cfg.optim.lr)),
        _change(scale, "crops from 20% of the area on", "crops", *crops),
        _change(scale, "the penalty on W W'", "ortho1", *ortho),
        _change(scale, "views that grow from half of their side", "growing", *growing),
        _change(scale, "Muon at 2e-2, a linear decay", "muon", *muon),
        _change(scale, "all but the rate", "recipe", *crops, *ortho, *growing, *muon),
    ]


STUDIES = {"penalty": penalty, "authors": authors, "by_view": by_view, "defaults": defaults}


def _change(
    scale: Scale, says: str, name: str, *flags: str, views: int = 4, dim: int | None = None
) -> Change:
    """Return the recipe with further flags of effssl.train beside the one without."""
    without = Recipe(views, dim or scale.dim, scale.epochs)
    return Change(says, without._replace(extra=flags, extra_name=name), without)


def _study(scale: Scale) -> None:
    changes = STUDIES[scale.args.study](scale)
    wanted = runs_of(scale, [r for change in changes for r in (change.without, change.recipe)])
    if finished := claims.trained(scale, wanted):
        table = claims.table_of(scale, finished)
        text, figure = summary(scale, table, changes), picture(scale, table, changes)
        claims.write(scale, f"changes-{scale.args.study}", table, text, figure, finished, wanted)
        claims.save_records(scale, finished)


def parts_of(scale: Scale, table: pd.DataFrame, changes: list[Change]) -> list[verdicts.Part]:
    """Return what each change is worth, in points of the linear probe."""
    parts = []
    for change in changes:
        ours, without = (claims.rows_of(scale, table, r) for r in (change.recipe, change.without))
        if not ours.empty:
            gain = verdicts.differences(ours, without, "linear", 100)
            parts.append(verdicts.over_seeds(f"{change.says}: better", gain, label=change.says))
    return parts


def summary(scale: Scale, table: pd.DataFrame, changes: list[Change]) -> str:
    """Return the differences, and what each recipe reached."""
    lines = []
    recipes = dict.fromkeys(r for change in changes for r in (change.without, change.recipe))
    for recipe, rows in claims.measured(scale, table, recipes):
        lines.append(
            {
                "K": recipe.views,
                "d": recipe.dim,
                "change": recipe.extra_name or "none",
                "seeds": len(rows),
                "linear (%)": mean_std(100 * rows["linear"]),
                "kNN (%)": mean_std(100 * rows["knn"]),
                "rank of h": mean_std(rows["h/effective_rank"]),
                "rank of z": mean_std(rows["z/effective_rank"]),
                "off-diagonal of z": mean_std(rows["z/off_diagonal"], "{:.3f}"),
            }
        )
    return (
        "Linear and kNN accuracy on the validation split, mean and standard deviation over seeds; "
        "each change less the recipe without it, paired by seed.\n\n"
        f"{verdicts.parts_table(parts_of(scale, table, changes))}\n{markdown(lines)}"
    )


def picture(scale: Scale, table: pd.DataFrame, changes: list[Change]) -> Figure:
    """Draw each difference with its 95% interval."""
    parts = parts_of(scale, table, changes)
    figure = Figure(figsize=(7, 1 + 0.35 * max(1, len(parts))))
    axis = figure.subplots()
    plots.forest(axis, [(part.label, part.mean) for part in parts])
    axis.set_xlabel("points of the linear probe, 95% interval over seeds")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

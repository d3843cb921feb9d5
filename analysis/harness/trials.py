"""Trials: what the sides of a claim choose on validation, each by as many runs.

The baseline and the recommended recipe of claim 4 have all pairs of a rate and a weight, in
multiples of the scale's rate and of the rule's weight at their width, of the shortest length of the
study; each K of claims 2 and 3 has as many rates, on all images, for as many encoded views as the
study compares, and each width of claim 1 as many. All have a seed of their own. The best linear
probe on the validation split is taken; of equals, the pair nearest to the scale's and the rule's. A
trial that diverged is worse than any.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.harness import claims, cli
from analysis.harness.methods import rule_weight
from analysis.harness.presets import CLAIMS
from analysis.harness.recipes import Recipe, Scale, epochs_for, flags_of, name_of
from analysis.harness.records import Record
from analysis.harness.tables import markdown
from analysis.harness.training import Flags, diverged

SEED = 1000  # none that is reported
RATES = (1 / 3, 1.0, 3.0)  # of the scale's rate
WEIGHTS = (0.1, 0.3, 1.0, 3.0)  # of the rule's weight; VICReg's best is below it at d = 4096


class Trial(NamedTuple):
    """One pair of factors on the scale's rate and the rule's weight, and its run."""

    rate: float
    weight: float
    recipe: Recipe


class Chosen(NamedTuple):
    """The best trial of one side."""

    trial: Trial
    linear: float  # on the validation split, in [0, 1]
    ends: tuple[str, ...]  # `rate`, `weight`: which lie at an end of the grid


Sides = dict[str, list[Trial]]


class Tried(NamedTuple):
    """The trials of a claim, as far as they are finished, and what each side chose."""

    sides: Sides
    wanted: Flags
    records: list[Record]
    table: pd.DataFrame  # a row for each finished one
    chosen: dict[str, Chosen | None]
    took_s: float

    def left(self, scale: Scale) -> Scale:
        """Return the scale with what is left of --seconds: none before the trials are finished."""
        args = argparse.Namespace(**vars(scale.args))
        if not all(self.chosen.values()):
            args.seconds = 0.0
        elif args.seconds is not None:
            args.seconds = max(0.0, args.seconds - self.took_s)
        return scale._replace(args=args)

    def at_best_rates(
        self, scale: Scale, recipes: Iterable[Recipe], of: Literal["views", "dim"] = "views"
    ) -> list[Recipe]:
        """Return recipes with the rate that was chosen for their K or width; as they are until all
        trials are finished, and if there are none."""
        trials = [chosen.trial for chosen in self.chosen.values() if chosen]
        is_done = len(trials) == len(self.chosen)
        best = {getattr(each.recipe, of): each.rate for each in trials} if is_done else {}
        return [_at_rate(scale, each, best.get(getattr(each, of), 1.0)) for each in recipes]

    def words(self, scale: Scale, length: str) -> str:
        """Return the grid of the trials and what was chosen, in Markdown; length: of a trial, in
        words."""
        if not self.sides:
            return ""
        said = [in_words(scale, side, self.chosen[side], own) for side, own in self.sides.items()]
        return (
            f"\nTrials: linear accuracy (%) on validation by learning rate and weight, {length}, "
            f"seed {SEED}; the best of each side in bold:\n\n"
            f"{markdown(lines(scale, self.table, self.sides))}\n{' '.join(said)}\n"
        )


def add_rates(
    parser: argparse.ArgumentParser, each: str = "K", default: str = "the preset's"
) -> None:
    """Add the flag of the rates that each K, or each width, has trials of."""
    text = (
        f"learning rates tried for each {each}, in multiples of the scale's "
        f"(default: {default}; none: one rate for all)"
    )
    parser.add_argument("--rates", type=cli.factor, nargs="*", metavar="F", help=text)


def complete(scale: Scale, sides: Sides) -> Tried:
    """Train the trials that are missing, and choose."""
    began = time.monotonic()
    every = [trial for side in sides.values() for trial in side]
    wanted = {
        name_of(scale, trial.recipe, SEED): flags_of(scale, trial.recipe, SEED) for trial in every
    }
    finished = claims.trained(scale, wanted, "trials") if wanted else []
    table = claims.table_of(scale, finished)
    chosen = {side: choose(scale, table, own) for side, own in sides.items()}
    return Tried(sides, wanted, finished, table, chosen, time.monotonic() - began)


def by_views(scale: Scale, views: Iterable[int]) -> Sides:
    """Return the trials of each K: --rates, on all images, for the encoded views of the largest K
    at E; none if there are no rates."""
    rates = CLAIMS[scale.args.preset].rates if scale.args.rates is None else scale.args.rates
    if not rates:
        return {}
    most = max(views) * scale.epochs
    whole = {k: Recipe(k, scale.dim, epochs_for(k, 1.0, most)) for k in sorted(views)}
    return {
        f"K = {k}": [
            Trial(rate, 1.0, with_factors(scale, recipe, rate, 1.0)) for rate in sorted(set(rates))
        ]
        for k, recipe in whole.items()
    }


def by_widths(scale: Scale, recipes: Iterable[Recipe]) -> Sides:
    """Return the trials of each width: --rates, of its recipe at the rule's weight; none if there
    are no rates."""
    rates = sorted(set(scale.args.rates or ()))
    return {
        f"d = {recipe.dim}": [Trial(rate, 1.0, _at_rate(scale, recipe, rate)) for rate in rates]
        for recipe in recipes
        if rates
    }


def grid(scale: Scale, start: Recipe) -> list[Trial]:
    """Return the trials of a side, from its recipe at the scale's rate and the rule's weight."""
    return [
        Trial(rate, weight, with_factors(scale, start, rate, weight))
        for rate in sorted(set(scale.args.rates))
        for weight in sorted(set(scale.args.weights))
    ]


def with_factors(scale: Scale, recipe: Recipe, rate: float, weight: float) -> Recipe:
    """Return the recipe with these factors; a factor of 1 leaves the run that others have too."""
    at_rule = rule_weight(scale.args.method, recipe.dim)
    return recipe._replace(
        lr=None if rate == 1 else float(f"{rate * scale.cfg.lr:.3g}"),
        weight=None if weight == 1 else weight * at_rule,
    )


def _at_rate(scale: Scale, recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe at a rate, with the weight that it has."""
    return with_factors(scale, recipe, rate, 1.0)._replace(weight=recipe.weight)


def choose(scale: Scale, table: pd.DataFrame, trials: list[Trial]) -> Chosen | None:
    """Return the best trial of a side; None until all of them are finished, and if all diverged.
    table: a row a run."""
    ended = _ended(scale, table, trials)
    if len(ended) < len(trials) or all(map(math.isinf, ended.values())):
        return None
    reached = [ended[trial] for trial in trials]
    away = [abs(math.log(t.rate)) + abs(math.log(t.weight)) for t in trials]
    best = max(range(len(trials)), key=lambda i: (reached[i], -away[i]))
    trial = trials[best]
    ends = []
    for what in ("rate", "weight"):
        values = sorted({getattr(each, what) for each in trials})
        if len(values) > 1 and getattr(trial, what) in (values[0], values[-1]):
            ends.append(what)
    return Chosen(trial, reached[best], tuple(ends))


def _ended(scale: Scale, table: pd.DataFrame, trials: list[Trial]) -> dict[Trial, float]:
    """Return the accuracy of each trial that is over: -inf of one that diverged."""
    linear = dict(zip(table["name"], table["linear"], strict=True)) if len(table) else {}
    ended = {}
    for trial in trials:
        name = name_of(scale, trial.recipe, SEED)
        if name in linear:
            ended[trial] = float(linear[name])
        elif diverged(scale.args.runs / name):
            ended[trial] = -math.inf
    return ended


def lines(scale: Scale, table: pd.DataFrame, sides: Sides) -> list[dict[str, Any]]:
    """Return the grid as a table, a line for each side and rate, a column for each weight:
    accuracy in %, the best of a side in bold, nothing for a trial that is not finished."""
    shown = []
    for side, trials in sides.items():
        chosen, ended = choose(scale, table, trials), _ended(scale, table, trials)
        for rate in sorted({trial.rate for trial in trials}):
            line = {"side": side, "rate": f"{rate * scale.cfg.lr:.3g}"}
            for trial in (each for each in trials if each.rate == rate):
                reached = ended.get(trial)
                text = "" if reached is None else f"{100 * reached:.1f}"
                text = "diverged" if reached == -math.inf else text
                best = chosen is not None and trial == chosen.trial
                line[f"{trial.weight:g} of the rule's weight"] = f"**{text}**" if best else text
            shown.append(line)
    return shown


def in_words(scale: Scale, side: str, chosen: Chosen | None, trials: list[Trial]) -> str:
    """Say what was chosen for a side, and whether that lies at an end of the grid."""
    if chosen is None:
        if all(diverged(scale.args.runs / name_of(scale, t.recipe, SEED)) for t in trials):
            return f"{side}: all of its {len(trials)} trials diverged, so nothing is chosen."
        return f"{side}: its {len(trials)} trials are not finished, so nothing is chosen yet."
    dim = chosen.trial.recipe.dim
    product = chosen.trial.weight * rule_weight(scale.args.method, dim) * dim
    said = (
        f"{side}: of {len(trials)} trials the best has {100 * chosen.linear:.1f}%, with rate "
        f"{chosen.trial.rate * scale.cfg.lr:.3g} and weight w d = {product:.3g}"
    )
    if chosen.ends:
        said += f" (the {' and the '.join(chosen.ends)} at an end of the grid: widen it)"
    return f"{said}."

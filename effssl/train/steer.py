"""What the probes of a run say: whether it still improves, is flat or collapses, and its best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from effssl.config import Loss

# What judges a run without labels, and its sign: see docs/measurements.md on what earned it.
UNLABELLED = ("loss", -1)
GAIN = 0.002  # of the linear probe: less than that is flat
GAIN_OF_LOSS = 0.01  # as a part of it; records in a row differ by up to half as much again
COLLAPSED = 0.01  # share of variance, of h or of z, below which images are nearly alike
SHRUNK, GROWS = 0.1, 1.5  # standard deviation of z, of which VICReg asks 1, that does not grow


class State(NamedTuple):
    """What the last probe of a run says, beside those before it."""

    line: str  # for the console
    is_best: bool
    flat_for: int  # probes since the last that was better by GAIN or more
    is_collapsed: bool


def probes_of(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the probes among a run's records, each with the loss of the last training record since
    the probe before it, if there is one."""
    probes, loss = [], {}
    for record in metrics:
        if record["kind"] == "train":
            loss = {"loss": record["loss"]}
        elif record["kind"] == "probe":
            probes.append(record | loss)
            loss = {}  # the next probe would be taken for flat by it
    return probes


def state_of_probes(probes: Sequence[dict[str, Any]], loss: Loss | None = None) -> State | None:
    """Judge a run by its probes, in order; None if none has a measure.

    The measure is the linear probe on validation images, or UNLABELLED, which probes lack between
    two records of training: these are judged for a collapse alone. loss: what the run minimises, on
    which it depends what may be tried; None is the default.
    """
    name, sign = ("linear", 1) if any("linear" in probe for probe in probes) else UNLABELLED
    measured = [probe for probe in probes if name in probe]
    if not measured:
        return None
    values = [sign * probe[name] for probe in measured]
    best, last_gain = values[0], 0
    for i, value in enumerate(values):
        if value >= best + (GAIN if name == "linear" else GAIN_OF_LOSS * abs(best)):
            best, last_gain = value, i
    flat_for = len(values) - 1 - last_gain
    is_best = name in probes[-1] and all(values[-1] > value for value in values[:-1])
    collapse = _collapse(probes, loss or Loss())
    if collapse:
        line = collapse
    elif len(values) == 1:  # without labels there is no loss before training
        epoch = measured[-1]["epoch"]
        at = f"at epoch {epoch:.4g}" if epoch else "before training"
        line = f"{name} is {values[0] * sign:.4g} {at}"
    elif flat_for:
        top = max(range(len(values)), key=values.__getitem__)
        at = f"{measured[top][name]:.4g} at epoch {measured[top]['epoch']:.4g}"
        line = f"flat for {flat_for} probe{'s' * (flat_for > 1)}: the best {name} is {at}"
    else:
        now, before = (measured[i][name] for i in (-1, -2))
        line = f"still improving: {name} {now:.4g}, before {before:.4g}"
    return State(line, is_best, flat_for, bool(collapse))


def _collapse(probes: Sequence[dict[str, Any]], loss: Loss) -> str:
    """Say that representations or embeddings collapse, and what to try; empty if they do not."""
    if len(probes) < 2:
        return ""
    before, last = probes[-2:]
    weights = _weights_against_collapse(loss)
    larger = f", or larger {weights}," if weights else ","
    for letter, of in (("h", "representations"), ("z", "embeddings")):
        share = last.get(f"{letter}/variance_share", 1.0)
        if share < COLLAPSED:
            return (
                f"collapsing: the {of} {letter} of different images are nearly alike (variance is "
                f"{share:.1e} of their mean square); try a lower --lr{larger} and look at "
                "views.png: do images differ?"
            )
    std = last.get("z/std", 1.0)
    is_early = len(probes) < 3  # the rate may still be warming up
    if loss.method == "vicreg" and not is_early and std < SHRUNK and std < GROWS * before["z/std"]:
        return (
            f"collapsing: the embeddings z shrink (standard deviation {std:.1e}, where the loss "
            f"asks for 1); try larger {weights}, or a higher --lr"
        )
    return ""


def _weights_against_collapse(loss: Loss) -> str:
    """Name the flags of the weights in a loss that hold embeddings apart; empty if it has none."""
    if loss.method == "vicreg":
        return "--var-weight and --cov-weight"
    # As the authors have it, Barlow Twins has no variance term.
    is_added = loss.method == "barlow_twins" and loss.pairing != "authors"
    return "--var-weight" if is_added else ""

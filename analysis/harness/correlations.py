"""Rank correlations of measures without labels with the linear probe, for label_free.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.harness import records, runs
from analysis.harness.stats import estimate
from effssl import InputError

# What is compared, and the sign that it is expected to have with accuracy.
MEASURES = {
    **{f"{x}/{name}": 1 for x in "hz" for name in ("effective_rank", "lidar", "variance_share")},
    **{f"{x}/{name}": -1 for x in "hz" for name in ("alpha", "off_diagonal", "uniformity")},
    **{f"{x}/alignment": -1 for x in "hz"},
    "loss": -1,
}
DRAWS = 2000  # of the bootstrap
TRUSTED = 0.5  # in time, from the lower end of the interval on


def correlations(probes: pd.DataFrame, axes: Iterable[str]) -> list[dict[str, Any]]:
    """Return the correlation of each measure overall, along each axis, and in time."""
    last = probes.sort_values("step").groupby("run").tail(1)
    groups = {"overall": last}
    groups |= {axis: last[last["axis"].isin(["base", axis])] for axis in axes}
    lines = [line for name, group in groups.items() for line in _over_runs(name, group)]
    return lines + list(_in_time(probes))


def of_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the correlations over the last probes of a file of records."""
    read = [runs.of_record(r) for r in records.read(file).values() if r["kind"] == "run"]
    last = pd.DataFrame([{m: run.probe.get(m) for m in ("linear", *MEASURES)} for run in read])
    if len(last) < 5 or "linear" not in last:
        raise InputError(f"{file} has no five runs with a linear probe")
    yield from _over_runs(file.stem, last.astype(float))


def _over_runs(where: str, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield Spearman's correlation over runs, with a bootstrap interval, for measures there are."""
    generator = np.random.default_rng(0)
    for measure, sign in MEASURES.items():
        pairs = rows[[measure, "linear"]].dropna().to_numpy()
        if len(pairs) < 4:
            continue
        drawn = generator.integers(0, len(pairs), (DRAWS, len(pairs)))
        low, high = np.nanpercentile(_spearman(pairs[drawn]), [2.5, 97.5])
        yield _line(where, measure, sign, float(_spearman(pairs)), low, high, len(pairs))


def _in_time(probes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the mean over runs of the correlation over the probes of one run."""
    for measure, sign in MEASURES.items():
        groups = [group[[measure, "linear"]].dropna() for _, group in probes.groupby("run")]
        of_runs = [float(_spearman(pairs.to_numpy())) for pairs in groups if len(pairs) > 2]
        mean = estimate(value for value in of_runs if not np.isnan(value))
        if mean is not None:
            yield _line("in time", measure, sign, mean.mean, mean.low, mean.high, mean.n)


def _line(
    where: str, measure: str, sign: int, value: float, low: float, high: float, n: int
) -> dict[str, Any]:
    numbers = {"correlation": value, "low": low, "high": high}
    return {
        "where": where,
        "measure": measure,
        "expected": sign,
        **{name: round(float(number), 3) for name, number in numbers.items()},
        "n": n,
    }


def _spearman(pairs: np.ndarray) -> np.ndarray:
    """Return the rank correlation of the two columns of pairs [..., n, 2]: [...], nan where one of
    them is constant."""
    ranks = rankdata(pairs, axis=-2)
    away = ranks - ranks.mean(-2, keepdims=True)
    squares = np.square(away).sum(-2).prod(-1)
    with np.errstate(invalid="ignore"):
        return away.prod(-1).sum(-1) / np.sqrt(np.where(squares > 0, squares, np.nan))


def trusted(table: list[dict[str, Any]], axes: Iterable[str]) -> list[str]:
    """Return the measures whose interval in time is surely beyond TRUSTED and on none of the axes
    surely of the wrong sign, the strongest first. Neither all runs together nor those of other
    studies have a say."""
    axes, chosen = set(axes), {}
    for measure, sign in MEASURES.items():
        lines = [line for line in table if line["measure"] == measure]
        in_time = [line for line in lines if line["where"] == "in time"]
        on_axes = [line for line in lines if line["where"] in axes]
        wrong = [line for line in on_axes if max(sign * line["low"], sign * line["high"]) < 0]
        if in_time and not wrong:
            surest = min(sign * in_time[0]["low"], sign * in_time[0]["high"])
            if surest > TRUSTED:
                chosen[measure] = surest
    return sorted(chosen, key=lambda measure: -chosen[measure])

"""The tables and the picture of a race, from its finished runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import plots
from analysis.harness.race_contenders import OURS, PEER, Contender
from analysis.harness.race_runs import Start
from analysis.harness.records import Record
from analysis.harness.runs import of_record
from analysis.harness.speedups import INTERVAL, Speedup, speedup
from analysis.harness.stats import estimate, mean_std
from analysis.harness.tables import markdown

Finished = Sequence[tuple[Start, Record]]
COLUMNS = ("seconds", "encoded_views", "linear", "knn")


class Compared(NamedTuple):
    """How many times sooner a recipe of effssl has the accuracy that another has at its end."""

    name: str
    other: str
    target: float  # the other's accuracy, mean over seeds, in [0, 1]
    times: Speedup


def table(finished: Finished) -> pd.DataFrame:
    """Return a row for each finished run; accuracies in [0, 1]."""
    return pd.DataFrame([_row(start, record) for start, record in finished])


def curves(finished: Finished) -> pd.DataFrame:
    """Return a row for each probe of each run."""
    rows = [
        _place(start) | {name: probe[name] for name in COLUMNS}
        for start, record in finished
        for probe in record["metrics"]
        if probe["kind"] == "probe"
    ]
    return pd.DataFrame(rows)


def of_several_machines(finished: Finished) -> str:
    """Return the seeds whose runs are of several machines, as far as they say, as text.

    Older runs do not say which vectors their processor has.
    """
    told: dict[int, dict[str, set[str]]] = {}
    for start, record in finished:
        hardware = record["result"]["hardware"]
        for fact in ("cpu", "cpu_vectors", "cpu_cores", "gpu"):
            if (value := hardware.get(fact)) is not None:
                told.setdefault(start.seed, {}).setdefault(fact, set()).add(str(value))
    several = (seed for seed, facts in told.items() if any(len(v) > 1 for v in facts.values()))
    return ", ".join(map(str, sorted(several)))


def ends(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a contender's whole runs."""
    return rows[(rows["contender"] == name) & (rows["length"] == 1)]


def best_peer(rows: pd.DataFrame, contenders: Iterable[Contender]) -> str | None:
    """Return the other tool with the highest accuracy at its end, the mean over seeds; of those
    with the most seeds. None if no run of one is finished."""
    reached = [(ends(rows, c.name)["linear"], c.name) for c in contenders if c.side == PEER]
    counted = [(len(linear), linear.mean(), name) for linear, name in reached if len(linear)]
    return max(counted)[2] if counted else None


def in_reach(
    rows: pd.DataFrame, contenders: Iterable[Contender], margin: float
) -> tuple[Contender, ...]:
    """Return the contenders that race on: our recipes, and of the other tools those that end at
    most `margin`, in [0, 1], below the best one."""
    contenders = list(contenders)
    reached = {c.name: ended_at(rows, c.name) or 0.0 for c in contenders if c.side == PEER}
    best = max(reached.values(), default=0.0)
    near = {name for name, accuracy in reached.items() if accuracy >= best - margin}
    return tuple(each for each in contenders if each.side == OURS or each.name in near)


def compared(rows: pd.DataFrame, contenders: Sequence[Contender]) -> Iterator[Compared]:
    """Yield each recipe of effssl that is timed at several lengths against the end of every other
    contender, paired by seed: of one length every seed would be a bound."""
    for own in (c for c in contenders if c.side == OURS and len(c.lengths) > 1):
        own_rows = rows[rows["contender"] == own.name]
        for other in (c for c in contenders if c.name != own.name):
            target = ends(rows, other.name)
            times = speedup(own_rows, target, lengths=len(own.lengths))
            if times.n:
                yield Compared(own.name, other.name, float(target["linear"].mean()), times)


def ratios(all_compared: Iterable[Compared]) -> list[dict[str, Any]]:
    """Return the comparisons as lines of a table."""
    return [
        {
            "recipe": each.name,
            "to the accuracy of": each.other,
            "which is (%)": f"{100 * each.target:.1f}",
            "times sooner": each.times.mean,
            INTERVAL: each.times.interval,
            "seconds": each.times.mean_seconds,
            "seeds": each.times.n,
            "note": each.times.note,
        }
        for each in all_compared
    ]


def standings(
    rows: pd.DataFrame,
    probes: pd.DataFrame,
    contenders: Iterable[Contender],
    chosen: dict[str, int],
    out: Collection[str] = (),
) -> str:
    """Return the ends of all contenders as a Markdown table, with those that do not race and why.
    out: names of those whose trials all diverged."""
    lines = []
    for each in contenders:
        own = ends(rows, each.name) if len(rows) else rows
        missing = "" if each.is_installed else f"not installed: {each.install}"
        if not len(own) and not missing:
            missing = "all trials diverged" if each.name in out else "not finished"
        line = {"contender": each.name, "trial": "", "seeds": len(own), "linear (%)": missing}
        line |= dict.fromkeys(("kNN (%)", "untrained (%)", "seconds", "views/s"), "")
        if len(own):
            before = probes[(probes["contender"] == each.name) & (probes["encoded_views"] == 0)]
            line |= {
                "trial": each.trials[chosen[each.name]].name,
                "linear (%)": mean_std(100 * own["linear"]),
                "kNN (%)": mean_std(100 * own["knn"]),
                "untrained (%)": mean_std(100 * before.groupby("seed")["linear"].first()),
                "seconds": mean_std(own["seconds"], "{:.0f}"),
                "views/s": mean_std(own["views_per_s"], "{:.0f}"),
            }
        lines.append(line)
    return markdown(lines)


def trials_table(tried: pd.DataFrame, contenders: Iterable[Contender], diverged: set[str]) -> str:
    """Return the accuracies of the trials as a Markdown table, a contender a line, the best in
    bold. diverged: names of runs."""
    lines = []
    for each in contenders:
        own = tried[tried["contender"] == each.name] if len(tried) else tried
        reached = dict(zip(own["trial"], own["linear"], strict=True)) if len(own) else {}
        if len(each.trials) == 1:
            continue  # it had no choice
        line = {"contender": each.name}
        for i, trial in enumerate(each.trials):
            text = f"{100 * reached[i]:.1f}" if i in reached else ""
            if any(name.startswith(f"{each.name}_t{i}_") for name in diverged):
                text = "diverged"
            bold = "**" * (len(reached) > 0 and reached.get(i) == max(reached.values()))
            line[f"trial {i + 1}"] = f"{trial.name}: {bold}{text}{bold}"
        lines.append(line)
    return markdown(lines)


def picture(probes: pd.DataFrame, contenders: Sequence[Contender], target: float | None) -> Figure:
    """Draw accuracy against seconds: the ends of all lengths of effssl's recipes, which have whole
    schedules, and the probes on the way of the others. target: that of the best peer, in [0, 1]."""
    figure = Figure(figsize=(9, 5))
    axis = figure.subplots()
    for i, each in enumerate(contenders):
        own = probes[(probes["contender"] == each.name) & (probes["encoded_views"] > 0)]
        if own.empty:
            continue
        if each.side == OURS:
            points = [
                (of["seconds"], 100 * of["linear"])
                for _, of in own.groupby(["length", "seed"]).tail(1).groupby("length")
            ]
        else:
            whole = own[own["length"] == 1]
            order = whole.groupby("seed").cumcount()
            points = [(of["seconds"], 100 * of["linear"]) for _, of in whole.groupby(order)]
        look = plots.style(i) | {"linestyle": "-" if each.side == OURS else "--"}
        plots.draw(axis, points, **look, label=each.name)
    if target is not None:
        axis.axhline(100 * target, color="0.5", linestyle=":", linewidth=1)
    if axis.has_data():
        plots.few_log_ticks(axis)
    axis.set(xlabel="training seconds", ylabel=plots.ACCURACY)
    axis.grid(alpha=0.3)
    plots.legend_below(figure, axis)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    return figure


def ended_at(rows: pd.DataFrame, name: str) -> float | None:
    """Return the mean accuracy of a contender's whole runs; None for none."""
    found = estimate(ends(rows, name)["linear"]) if len(rows) else None
    return found.mean if found else None


def _place(start: Start) -> dict[str, Any]:
    return {
        "name": start.name,
        "contender": start.contender.name,
        "trial": start.trial,
        "length": start.length,
        "seed": start.seed,
    }


def _row(start: Start, record: Record) -> dict[str, Any]:
    run = of_record(record)
    measured = {name: round(run.probe[name], 5) for name in ("linear", "knn")}
    result = run.result
    return {
        **_place(start),
        "split_seed": run.settings["split_seed"],
        **measured,
        "steps": result["steps"],
        "encoded_views": result["encoded_views"],
        "seconds": round(result["seconds"], 2),
        "views_per_s": result["views_per_s"],
        "finished": result["finished"],
    }

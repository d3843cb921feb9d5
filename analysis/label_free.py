"""Which measures without labels can be trusted: their rank correlation with the linear probe.

python analysis/label_free.py --data-dir DIR            # CIFAR-10, two CPU cores
python analysis/label_free.py --preset digits           # minutes, to see it work

Good and bad runs are trained: from one recipe, one thing is changed at a time (an axis: the
covariance weight, the width d, the rate, the crops, the length, K, the method). Every run is probed
on the way. Spearman's correlation of each measure with the linear probe on validation images is
taken

  overall    over the last probes of all runs
  AXIS       over those of the recipe and the runs of one axis
  in time    over the probes of one run, mean over runs
  RECORDS    over the last probes of committed runs of other studies, in records/RECORDS.jsonl

with a 95% interval by bootstrap over runs (in time: Student's, over runs). A measure whose sign is
not the expected one on an axis misleads there. Trusted, for steering a run, is what has an interval
in time above 0.5 and no axis whose interval lies on the wrong side of 0; that rule was written
before the first run. It does not say when to stop: where accuracy rises at every probe, all that
falls steadily has -1 in time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.harness import cli, plots, records, runs, training
from analysis.harness.correlations import MEASURES, correlations, of_records, trusted
from analysis.harness.tables import markdown, write_csv
from effssl.run.files import check_writable, write_text

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10_cpu.yaml"
AXES: dict[str, list[tuple[str, ...]]] = {
    "weight": [("--cov-weight", w) for w in ("0", "0.04", "0.4", "40", "400")],
    "width": [("--proj-dim", d) for d in ("16", "64", "1024")],
    "rate": [("--lr", lr) for lr in ("6e-4", "2e-3", "6e-2", "2e-1")],
    "crops": [("--crop-scale", low, "1") for low in ("0.02", "0.5", "0.9")],
    "length": [("--epochs", n) for n in ("1", "2", "8")],
    "views": [("--views", k) for k in ("2", "8")],
    "method": [("--method", m) for m in ("barlow_twins", "simclr", "entropy_reconstruction")],
}
OTHER_RECORDS = ("changes-cpu", "claims-cpu", "claims-gpu")
PRESETS = {
    "cpu": (
        *("--config", str(CONFIG), "--fraction", "0.1", "--epochs", "4", "--probe-images", "5000"),
        *("--probe-every", "1", "--final-images", "0"),
    ),
    "digits": (
        *("--data", "digits", "--views", "4", "--proj-dim", "256", "--epochs", "3"),
        *("--crop-scale", "0.2", "1", "--probe-every", "1", "--final-images", "0"),
    ),
}


class Started(NamedTuple):
    """A run of the study: what it changes, and its flags."""

    axis: str  # "base" for the recipe itself
    seed: int
    flags: list[str]


def main(argv: list[str] | None = None) -> int:
    parser = cli.training_parser(__doc__, PRESETS, "runs/label-free-PRESET", "2")
    cli.add_records(parser, "label-free-PRESET")
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(args))


def started(args: argparse.Namespace) -> dict[str, Started]:
    """Return all runs by name: the recipe, and each change of it, for every seed."""
    wanted = {}
    for seed in range(args.seeds):
        places = ["--data-dir", str(args.data_dir), "--seed", str(seed), "--split-seed", str(seed)]
        base = [*PRESETS[args.preset], *places]
        wanted[f"base_s{seed}"] = Started("base", seed, [*base, *args.further])
        for axis, changes in AXES.items():
            for change in changes:
                name = f"{axis}-{'-'.join(change[1:])}_s{seed}"
                wanted[name] = Started(axis, seed, [*base, *args.further, *change])
    return wanted


def _study(args: argparse.Namespace) -> None:
    args.runs = args.runs or Path(f"runs/label-free-{args.preset}")
    args.out = args.out or args.runs / "label_free"
    args.seeds = args.seeds or 2
    check_writable(args.out, f"--out {args.out}")
    file = args.records or records.FOLDER / f"label-free-{args.preset}.jsonl"
    known = records.known(args, file)
    wanted = started(args)
    flags = {name: run.flags for name, run in wanted.items()}
    names = training.complete(
        flags, args.runs, records=known, parallel=args.parallel, seconds=args.seconds
    )
    print(f"{runs.finished_of(names, wanted)} runs are finished")
    finished = [training.record_of(args.runs / name, known) for name in names]
    if finished and args.save_records:
        records.save(file, finished)
    if finished:
        _write(args, wanted, finished)


def _write(
    args: argparse.Namespace, wanted: dict[str, Started], finished: list[records.Record]
) -> None:
    """Write probes.csv, correlations.csv, label_free.png and summary.md."""
    probes = probes_of(wanted, finished)
    table = correlations(probes, AXES)
    for name in OTHER_RECORDS if args.preset == "cpu" else ():
        table += of_records(records.FOLDER / f"{name}.jsonl")
    out: Path = args.out
    write_csv(out / "probes.csv", probes)
    write_csv(out / "correlations.csv", table)
    plots.write_picture(out / "label_free.png", picture(probes))
    origin = runs.origin([record["result"] for record in finished], args.command)
    text = f"{summary(table)}\n{runs.finished_of(finished, wanted)} runs finished; {origin}\n"
    write_text(out / "summary.md", text)
    print(f"{text}\n{out / 'summary.md'}")


def probes_of(wanted: dict[str, Started], finished: list[records.Record]) -> pd.DataFrame:
    """Return a row for every probe after the first step: its run, axis, and measures."""
    rows = []
    for record in finished:
        run, loss = wanted[record["name"]], float("nan")
        for metric in record["metrics"]:
            loss = metric.get("loss", loss)  # records have it in their probes
            if metric["kind"] == "probe" and metric["step"] > 0:
                place = {"run": record["name"], "axis": run.axis, "seed": run.seed}
                place |= {"step": metric["step"], "linear": metric["linear"], "loss": loss}
                rows.append(place | {m: metric.get(m, np.nan) for m in MEASURES if m != "loss"})
    return pd.DataFrame(rows)


def summary(table: list[dict[str, Any]]) -> str:
    """Return which measures are trusted, and all correlations, a row a measure."""
    places = list(dict.fromkeys(line["where"] for line in table))
    rows = []
    for measure, sign in MEASURES.items():
        row = {"measure": measure, "expected": "+" if sign > 0 else "-"}
        for place in places:
            found = [x for x in table if (x["where"], x["measure"]) == (place, measure)]
            row[place] = _cell(found[0]) if found else ""
        rows.append(row)
    names = ", ".join(trusted(table, AXES)) or "none"
    return (
        f"Trusted for steering a run: **{names}**. When to stop was not tested: within a run they "
        "may share no more than its course.\n\nSpearman's correlation with the linear probe "
        f"on validation, 95% intervals, (number of runs):\n\n{markdown(rows)}"
    )


def _cell(line: dict[str, Any]) -> str:
    return f"{line['correlation']:.2f} ({line['low']:.2f} to {line['high']:.2f}; {line['n']})"


def picture(probes: pd.DataFrame) -> Figure:
    """Draw accuracy against each measure, the last probe of every run, a colour an axis."""
    last = probes.sort_values("step").groupby("run").tail(1)
    figure = Figure(figsize=(12, 8))
    shown = [measure for measure in MEASURES if last[measure].notna().any()]
    grid = list(figure.subplots(3, -(-len(shown) // 3), sharey=True, squeeze=False).flat)
    for axis in grid[len(shown) :]:
        axis.set_visible(False)
    for panel, measure in zip(grid, shown, strict=False):
        for index, name in enumerate(("base", *AXES)):
            rows = last[last["axis"] == name]
            look = {"color": "k", "marker": "*"} if name == "base" else plots.style(index - 1)
            marks = {"color": look["color"], "marker": look["marker"], "linestyle": ""}
            panel.plot(rows[measure], 100 * rows["linear"], **marks, markersize=4, label=name)
        panel.set_xlabel(measure)
        panel.grid(alpha=0.3)
    figure.supylabel(plots.ACCURACY)
    figure.legend(*next(iter(figure.axes)).get_legend_handles_labels(), ncols=8, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    return figure


if __name__ == "__main__":
    sys.exit(main())

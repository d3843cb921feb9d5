"""Claim 3: with more views fewer images suffice.

python analysis/subset.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/subset.py --data-dir DIR --preset gpu --seconds 500

Trains on 25%, 50% and 100% of the scale's images (each part within the next, every class alike)
with K = 2, 4, 8 views (d = 256, the rule's weight), all for equal encoded views: half the images,
or half the views, means twice the epochs. So their seconds are nearly equal too; the table has
them. The learning rate is one for all; --rates, and --preset scarce, choose one for each K first,
by as many trials on all images (harness/trials.py).

An encoder trained on a part of the images is probed with the labels of all the scale's images, as
one trained on all of them is; `linear_own` in runs.csv is of a probe on its own part's labels
alone.

Verdict: are K = 8 on 25% and K = 4 on 50% no more than 1 point worse than K = 2 on 100%, and better
than K = 2 on the same part? A part of the images counts only if K = 2 on it is shown to be more
than 1 point worse than on all; else nothing is short of images, and it is not decided here.
Differences are paired by seed; p over seeds, corrected for the number of questions, says yes or no,
else the answer is open (docs/claims.md)."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from analysis.harness import claim_rules, claims, cli, plots, trials, verdicts
from analysis.harness.recipes import Recipe, Scale, epochs_for, runs_of, scale_of
from analysis.harness.records import Record
from analysis.harness.stats import estimate, mean_std
from analysis.harness.tables import markdown
from analysis.harness.training import has_result
from effssl import InputError
from effssl.run.device import open_runtime
from effssl.run.files import write_json


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("--views", type=cli.count, nargs="+", default=[2, 4, 8], metavar="K")
    parts_of_all, among = [0.25, 0.5, 1.0], "1 among them"
    add = parser.add_argument
    add("--parts", type=cli.part, nargs="+", default=parts_of_all, metavar="F", help=among)
    trials.add_rates(parser)
    args = cli.read_flags(parser, argv)
    views, parts = sorted(set(args.views)), sorted({*args.parts, 1.0})
    return cli.exit_code(lambda: _claim(scale_of(args, "subset"), views, parts))


def recipes(
    scale: Scale, views: list[int], parts: list[float]
) -> tuple[list[Recipe], list[Recipe]]:
    """Return of all K and parts those that the verdict needs, and all."""
    budget = max(views) * scale.epochs  # encoded views for every image of the whole
    every = [
        Recipe(k, scale.dim, epochs_for(k, part, budget), part)
        for part in reversed(parts)
        for k in reversed(views)
    ]
    fewest = min(views)
    return [r for r in every if r.views == fewest or r.part == fewest / r.views], every


def _claim(scale: Scale, views: list[int], parts: list[float]) -> None:
    tried = trials.complete(scale, trials.by_views(scale, views))
    needed, planned = (tried.at_best_rates(scale, r) for r in recipes(scale, views, parts))
    # The verdict's runs of all seeds, then the rest of the grid.
    wanted = runs_of(scale, needed) | runs_of(scale, planned)
    finished = claims.trained(tried.left(scale), wanted)
    every = [*finished, *tried.records]
    if finished:
        table = claims.table_of(scale, finished)
        table["linear_own"] = table["linear"]
        by_name = {record["name"]: record for record in finished}
        in_part = table.index[table["part"] < 1]
        for row in tqdm(in_part, desc="probes on all labels", unit="run", leave=False):
            record = by_name[table.loc[row, "name"]]
            table.loc[row, "linear"] = _on_all_labels(scale, record)
        text = summary(scale, table, planned) + tried.words(scale, "of as many encoded views")
        figure = picture(scale, table, planned)
        claims.write(scale, "subset", table, text, figure, every, wanted | tried.wanted)
    claims.save_records(scale, every)


def _on_all_labels(scale: Scale, record: Record) -> float:
    fraction, run = scale.cfg.images.fraction, scale.args.runs / record["name"]
    kept = record.get("linear_all_labels")
    if kept and kept["fraction"] == fraction:
        return round(kept["linear"], 5)
    if not has_result(run):
        raise InputError(
            f"the record of {run.name} has no accuracy on all labels, and its weights are not "
            "there; --records /dev/null trains it again"
        )
    return on_all_labels(run, fraction)


def on_all_labels(run: Path, fraction: float) -> float:
    """Return the accuracy in [0, 1] on the validation split of a finished run's linear probe,
    fitted as while training but on the labels of `fraction` of the set's training images; it is
    kept in the run's folder."""
    # Slow, and needed only if there is a run to be probed.
    from effssl.data.stored import reopen_data
    from effssl.evaluation.encode import backbone_features, open_streams
    from effssl.evaluation.final_table import validation_probe
    from effssl.evaluation.finished_run import open_run

    file = run / "linear_all_labels.json"
    if file.is_file() and (kept := json.loads(file.read_text()))["fraction"] == fraction:
        return kept["linear"]
    _, cfg, backbone, projector, _ = open_run(run)
    runtime = open_runtime(cfg.run.device, cfg.run.precision)
    images = dataclasses.replace(cfg.images, fraction=fraction)
    data = reopen_data(images)
    streams = open_streams(
        data,
        cfg.augment,
        seed=cfg.run.seed,
        batch_size=cfg.optim.batch_size,
        workers=images.workers,
        runtime=runtime,
    )
    features = backbone_features(backbone.to(runtime.device), streams)
    projector = (projector or torch.nn.Identity()).to(runtime.device)
    probed = validation_probe(features, data, cfg.probe.probe_images, projector)
    linear = round(probed["linear"], 5)
    write_json(file, {"fraction": fraction, "linear": linear})
    return linear


def summary(scale: Scale, table: pd.DataFrame, planned: list[Recipe]) -> str:
    judged = verdicts.judge(claim_rules.subset, table)
    lines = []
    ordered = sorted(planned, key=lambda r: (r.part, r.views))
    for recipe, own in claims.measured(scale, table, ordered):
        lines.append(
            {
                "images": f"{recipe.part:.0%}",
                "K": recipe.views,
                "epochs": recipe.epochs,
                "seeds": len(own),
                "linear (%)": mean_std(100 * own["linear"]),
                "on its own labels (%)": mean_std(100 * own["linear_own"]),
                "encoded views": f"{own['encoded_views'].iloc[0]:,}",
                "seconds": mean_std(own["seconds"], "{:.0f}"),
            }
        )
    whole = f"{scale.cfg.images.fraction:.0%}"
    return (
        f"**Claim 3, with more views fewer images suffice: {judged.verdict}.** At equal encoded "
        "views; linear accuracy on the validation split, mean and standard deviation over seeds; "
        f"100% are {whole} of the set's training images.\n\n"
        f"{verdicts.parts_table(judged.parts)}\n{markdown(lines)}"
    )


def picture(scale: Scale, table: pd.DataFrame, planned: list[Recipe]) -> Figure:
    """Draw accuracy by part of the images and K, and the differences that the verdict rests on."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 0.8))
    kinds = sorted({recipe.views for recipe in planned})
    for i, k in enumerate(kinds):
        points = [
            ([100 * r.part], 100 * claims.rows_of(scale, table, r)["linear"])
            for r in planned
            if r.views == k
        ]
        look = plots.style_of_views(k) | {"apart": plots.apart(i, len(kinds))}
        plots.draw(left, points, **look, label=f"K = {k}")
    whole = next(r for r in planned if (r.views, r.part) == (kinds[0], 1))
    if base := estimate(100 * claims.rows_of(scale, table, whole)["linear"]):
        colour = plots.style_of_views(kinds[0])["color"]
        left.axhline(base.mean, color=colour, linewidth=1, linestyle=":")
    left.set(xlabel="part of the images (%), at equal encoded views", ylabel=plots.ACCURACY)
    plots.plain_log(left, sorted({100 * r.part for r in planned}))
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    parts = verdicts.judge(claim_rules.subset, table).parts
    plots.forest(right, [(part.label, part.mean) for part in parts])
    right.set_xlabel("difference in accuracy (points), 95% interval")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

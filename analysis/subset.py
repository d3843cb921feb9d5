"""Claim 3: with more views fewer images suffice.

python analysis/subset.py --data-dir DIR                     # CIFAR-10, two CPU cores
python analysis/subset.py --data-dir DIR --preset gpu --seconds 500

Trains on 25%, 50% and 100% of the scale's images (each part within the next, every class alike) with K = 2, 4, 8
views (d = 256, the rule's weight), all for equal encoded views: half the images, or half the views, means twice the
epochs. So their seconds are nearly equal too; the table has them.

An encoder trained on a part of the images is probed with the labels of all the scale's images, as one trained on all
of them is; `linear_own` in runs.csv is of a probe on its own part's labels alone.

Verdict: are K = 8 on 25% and K = 4 on 50% no more than 1 point worse than K = 2 on 100%, and better than K = 2 on the
same part? Differences are paired by seed; the answer is yes or no where the whole 95% interval over seeds says so,
else open.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import claims
import experiments
import figures
import intervals
import torch
from claims import Recipe, Scale
from intervals import Question
from matplotlib.figure import Figure
from tqdm import tqdm

from effssl.evaluation.encode import backbone_features
from effssl.evaluation.final_table import validation_probe
from effssl.evaluation.finished_run import open_images, open_run
from effssl.run.device import where_it_runs
from effssl.run.folder import write_json

MARGIN = 1.0  # points


def main(argv: list[str] | None = None) -> int:
    parser = claims.parser(__doc__)
    parser.add_argument("--views", type=experiments.count, nargs="+", default=[2, 4, 8], metavar="K")
    parser.add_argument("--parts", type=_part, nargs="+", default=[0.25, 0.5, 1.0], metavar="F", help="1 among them")
    args = experiments.read_flags(parser, argv)
    views, parts = sorted(set(args.views)), sorted({*args.parts, 1.0})
    return experiments.exit_code(lambda: _claim(claims.scale(args, "subset"), views, parts))


def recipes(scale: Scale, views: list[int], parts: list[float]) -> tuple[list[Recipe], list[Recipe]]:
    """Of all K and parts those that the verdict needs, and all."""
    budget = max(views) * scale.epochs  # encoded views for every image of the whole
    pairs = [(k, part) for part in reversed(parts) for k in reversed(views)]
    every = [Recipe(k, scale.dim, claims.epochs_for(k, part, budget), part) for k, part in pairs]
    return [r for r in every if r.views == min(views) or r.part == min(views) / r.views], every


def _part(text: str) -> float:
    if not 0 < (part := float(text)) <= 1:
        raise ValueError
    return part


def _claim(scale: Scale, views: list[int], parts: list[float]) -> None:
    needed, planned = recipes(scale, views, parts)
    # The verdict's runs of all seeds, then the rest of the grid.
    wanted = claims.runs(scale, needed) | claims.runs(scale, planned)
    if finished := experiments.trained(scale.args, wanted, keep_mb=claims.KEEP_MB):
        rows = claims.rows_of(scale, finished)
        for row in tqdm(rows, desc="probes on all labels", unit="run", leave=False):
            row["linear_own"] = row["linear"]
            if row["part"] < 1:
                row["linear"] = round(on_all_labels(scale.args.runs / row["name"], scale.cfg.images.fraction), 5)
        text = summary(scale, rows, planned)
        claims.write(scale, "subset", rows, text, picture(scale, rows, planned), finished, wanted)


def on_all_labels(run: Path, fraction: float) -> float:
    """Accuracy in [0, 1] on the validation split of a finished run's linear probe, fitted as while training but on the
    labels of `fraction` of the set's training images; kept in the run's folder."""
    file = run / "linear_all_labels.json"
    if file.is_file() and (kept := json.loads(file.read_text()))["fraction"] == fraction:
        return kept["linear"]
    _, cfg, backbone, projector = open_run(run)
    device, autocast, _ = where_it_runs(cfg.run.device, cfg.run.precision, "false")
    images = dataclasses.replace(cfg.images, fraction=fraction)
    data, clean = open_images(images, cfg.augment, device, torch.bfloat16 if autocast else torch.float32)
    features = backbone_features(backbone.to(device), clean)
    projector = (projector or torch.nn.Identity()).to(device)
    linear = round(validation_probe(features, data, cfg.probe.probe_images, projector)["linear"], 5)
    write_json(file, {"fraction": fraction, "linear": linear})
    return linear


def questions(scale: Scale, rows: list[dict], planned: list[Recipe]) -> list[Question]:
    """Of K on 2/K of the images against the fewest views on all of them, and on as many."""
    fewest = min(r.views for r in planned)
    base = next(r for r in planned if r.views == fewest and r.part == 1)
    asked = []
    for own in sorted((r for r in planned if r.views > fewest and r.part == fewest / r.views), reverse=True):
        seconds = intervals.difference(*(claims.of(scale, rows, r, "seconds") for r in (own, base)))
        note = f"seconds: {seconds.mean:+.0f}" if seconds else ""
        found = intervals.difference(claims.of(scale, rows, own), claims.of(scale, rows, base))
        named = f"K = {own.views} on {own.part:.0%}"
        text = f"{named} no more than {MARGIN:g} point worse than K = {fewest} on 100%"
        asked.append(Question(text, found, MARGIN, note, f"{named}\nless K = {fewest} on 100%"))
        same = next(r for r in planned if r.views == fewest and r.part == own.part)
        found = intervals.difference(claims.of(scale, rows, own), claims.of(scale, rows, same))
        text = f"{named} better than K = {fewest} on {own.part:.0%}"
        asked.append(Question(text, found, 0, short=f"{named}\nless K = {fewest} on {own.part:.0%}"))
    return asked


def summary(scale: Scale, rows: list[dict], planned: list[Recipe]) -> str:
    asked = questions(scale, rows, planned)
    table = [
        {
            "images": f"{r.part:.0%}",
            "K": r.views,
            "epochs": r.epochs,
            "seeds": len(claims.of(scale, rows, r)),
            "linear (%)": intervals.mean_std(claims.of(scale, rows, r).values()),
            "on its own labels (%)": intervals.mean_std(claims.of(scale, rows, r, "linear_own").values()),
            "encoded views": f"{next(iter(claims.of(scale, rows, r, 'encoded_views').values())):,}",
            "seconds": intervals.mean_std(claims.of(scale, rows, r, "seconds").values(), "{:.0f}"),
        }
        for r in sorted(planned, key=lambda r: (r.part, r.views))
        if claims.of(scale, rows, r)
    ]
    return (
        f"**Claim 3, with more views fewer images suffice: {intervals.verdict([q.answer for q in asked])}.** "
        f"At equal encoded views; linear accuracy on the validation split, mean and standard deviation over seeds; "
        f"100% are {scale.cfg.images.fraction:.0%} of the set's training images.\n\n"
        f"{intervals.questions_table(asked)}\n{experiments.markdown(table)}"
    )


def picture(scale: Scale, rows: list[dict], planned: list[Recipe]) -> Figure:
    """Accuracy by part of the images and K; the differences that the verdict rests on."""
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 0.8))
    kinds = sorted({r.views for r in planned})
    for i, k in enumerate(kinds):
        points = [(([100 * r.part]), claims.of(scale, rows, r).values()) for r in planned if r.views == k]
        figures.draw(left, points, apart=figures.apart(i, len(kinds)), **figures.style_of_views(k), label=f"K = {k}")
    fewest = min(r.views for r in planned)
    base = intervals.estimate(
        claims.of(scale, rows, next(r for r in planned if (r.views, r.part) == (fewest, 1))).values()
    )
    if base:
        left.axhline(base.mean, color=figures.STYLES.get(fewest, ("0.5",))[0], linewidth=1, linestyle=":")
    left.set(xlabel="part of the images (%), at equal encoded views", ylabel=figures.ACCURACY)
    figures.plain_log(left, sorted({100 * r.part for r in planned}))
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    figures.forest(right, [(q.short, q.found) for q in questions(scale, rows, planned)])
    right.set_xlabel("difference in accuracy (points), 95% interval")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

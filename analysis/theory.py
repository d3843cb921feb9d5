"""The theory behind the losses, in a case where it is known exactly: images on a ring
(harness/ring.py).

python analysis/theory.py            # twelve minutes on one CPU core

A table F [V, d] of one free vector per view (a linear model on one-hot views) is trained with each
loss on sampled batches. Three things are shown, each beside what is predicted:

1. The span of the learned F approaches that of the top eigenfunctions of the augmentation kernel
   (arXiv 2312.10725): the mean squared sine of the principal angles between them, predicted 0 for
   Barlow Twins and VICReg.
2. How the error of the K-view estimate of the kernel moves with K. The estimate, in the basis of
   the first eigenfunctions, is Barlow Twins' pooled C; its mean squared error is computed
   exactly. At equal images it falls; at equal encoded views there is a best K, the larger the
   more eigenfunctions are estimated.
3. The decorrelation weight w moves the effective rank of z: the minima of both losses are
   computed from the kernel, without assuming that dimensions have equal variances. Barlow Twins'
   depends on w d alone while w is small, VICReg's nearly so. Its learned rank is of standardised z,
   as its loss does not see the scale of a dimension.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.harness import cli, ring, runs
from analysis.harness.plots import write_picture
from analysis.harness.tables import markdown, write_csv
from analysis.harness.theory_picture import picture
from effssl import losses
from effssl.evaluation.spectrum import effective_rank
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine

SIZE, SHARPNESS = 64, 8.0  # of the ring, and of the offsets: q ~ exp(SHARPNESS cos)
SEEDS = 3
SPAN_DIM, SPAN_PRODUCT, SPAN_STEPS, SPAN_BATCH = 4, 2.0, 800, 64
ESTIMATE_COUNTS, ESTIMATE_IMAGES, ESTIMATE_DRAWS = (4, 32), 240, 400
ESTIMATE_VIEWS = (2, 3, 4, 6, 8, 12, 16)
RANK_DIMS, RANK_STEPS, RANK_BATCH, RANK_VIEWS = (8, 16, 32), 500, 512, 4
PRODUCTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # w d

Rows = list[dict[str, Any]]


def train(
    loss: Callable[[Tensor], Tensor],
    q: Tensor,
    dim: int,
    *,
    views: int,
    batch: int,
    steps: int,
    seed: int,
    every: int = 0,
) -> list[tuple[int, Tensor]]:
    """Return F [V, dim] after every `every` steps (0: only at the end) of Adam on sampled batches,
    with the steps done."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(len(q), dim, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR
    decay = schedule(optimizer, 0.1, total_steps=steps + 1, pct_start=0.1)
    kept = [(0, table.detach().clone())] if every else []
    for step in range(1, steps + 1):
        positions = ring.sample_views(q, views, batch, generator)
        z = torch.nn.functional.embedding(positions, table)  # [views, batch, dim]
        optimizer.zero_grad()
        loss(z).backward()
        optimizer.step()
        decay.step()
        if step == steps or (every and step % every == 0):
            kept.append((step, table.detach().clone()))
    return kept


def measured_error(
    q: Tensor, count: int, views: int, batch: int, draws: int, seed: int
) -> tuple[float, float]:
    """Return the mean over draws of |C~ - T|_F^2, and its standard error."""
    generator = torch.Generator().manual_seed(seed)
    waves, eigenvalues = ring.eigenfunctions(q, count)
    errors = []
    for _ in range(draws):
        f = waves[ring.sample_views(q, views, batch, generator)]  # [views, batch, count]
        total, rows = f.sum(0), f.flatten(0, 1)
        c = (total.T @ total - rows.T @ rows) / (views * (views - 1) * batch)
        errors.append((c - torch.diag(eigenvalues)).square().sum())
    e = torch.stack(errors)
    return float(e.mean()), float(e.std() / draws**0.5)


def span_rows(q: Tensor) -> Rows:
    """Measure, for every loss, K and seed, the distance of the learned span from the top
    eigenfunctions, while training."""
    waves, _ = ring.eigenfunctions(q, SPAN_DIM)
    w = SPAN_PRODUCT / SPAN_DIM
    barlow = functools.partial(losses.barlow_twins, redundancy_weight=w)
    trained: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {
        **{("Barlow Twins, all pairs", k): lambda z: barlow(z).loss for k in (2, 4, 8)},
        ("Barlow Twins, pooled", 4): lambda z: barlow(z, pairing="pooled").loss,
        ("VICReg", 4): lambda z: losses.vicreg(z, cov_weight=25 * w).loss,
        ("SimCLR", 4): lambda z: losses.simclr(z).loss,
        ("entropy-reconstruction", 4): lambda z: losses.entropy_reconstruction(z).loss,
    }
    size = {"batch": SPAN_BATCH, "steps": SPAN_STEPS, "every": SPAN_STEPS // 40}
    rows = []
    for (name, views), loss in tqdm(trained.items(), desc="1. spans", unit="loss"):
        for seed in range(SEEDS):
            for step, table in train(loss, q, SPAN_DIM, views=views, seed=seed, **size):
                row = {"loss": name, "views": views, "seed": seed, "step": step}
                rows.append(row | {"span_error": ring.span_error(table, waves)})
    return rows


def estimate_rows(q: Tensor) -> Rows:
    """Measure, for every K, the squared error of the kernel's estimate, relative to the kernel's
    own square."""
    rows = []
    settings = list(itertools.product(ESTIMATE_VIEWS, ESTIMATE_COUNTS))
    for views, count in tqdm(settings, desc="2. estimates"):
        scale = float(ring.eigenfunctions(q, count)[1].square().sum())
        fewer = 2 * ESTIMATE_IMAGES // views
        for at, batch in (("equal images", ESTIMATE_IMAGES), ("equal encoded views", fewer)):
            error, deviation = measured_error(q, count, views, batch, ESTIMATE_DRAWS, seed=views)
            row = {"at": at, "eigenfunctions": count, "views": views, "images": batch}
            row |= {"predicted": ring.estimate_error(q, count, views) / batch / scale}
            rows.append(row | {"measured": error / scale, "standard_error": deviation / scale})
    return rows


def rank_rows(q: Tensor) -> Rows:
    """Measure, for both losses, every d and w d, the effective rank of centred z over all views
    (Barlow Twins': standardised): of the minimum of the population's loss, and learned."""
    losses_of: dict[str, Callable[[Tensor, float], Tensor]] = {
        "Barlow Twins": lambda z, w: losses.barlow_twins(z, redundancy_weight=w).loss,
        "VICReg": lambda z, w: losses.vicreg(z, cov_weight=25 * w).loss,
    }
    size = {"views": RANK_VIEWS, "batch": RANK_BATCH, "steps": RANK_STEPS, "seed": 0}
    settings = list(itertools.product(losses_of.items(), RANK_DIMS))
    rows = []
    for (name, loss), dim in tqdm(settings, desc="3. ranks", unit="d"):
        for product in PRODUCTS:
            ((_, table),) = train(lambda z: loss(z, product / dim), q, dim, **size)  # noqa: B023
            predicted = ring.predicted_rank(q, name, dim, product)
            row = {"loss": name, "d": dim, "w d": product, "predicted": predicted}
            z = table - table.mean(0)
            # Barlow Twins' loss is the same for any scale of a dimension, so none is learned.
            seen = z / z.std(0) if name == "Barlow Twins" else z
            rows.append(row | {"learned": effective_rank(seen)})
    return rows


def summary(spans: pd.DataFrame, estimates: pd.DataFrame, ranks: pd.DataFrame) -> str:
    """Return the three tables, in Markdown."""
    ends = []
    for (loss, views), own in spans.groupby(["loss", "views"], sort=False):
        first, last = (own.loc[own["step"] == at, "span_error"] for at in (0, own["step"].max()))
        end = f"{last.mean():.4f} +- {last.std():.4f}"
        line = {"loss": loss, "K": views, "before training": f"{first.mean():.3f}"}
        ends.append(line | {"after": end})
    errors = [
        {
            "K": row["views"],
            "at": row["at"],
            "eigenfunctions": row["eigenfunctions"],
            "images": row["images"],
            "predicted": f"{row['predicted']:.5f}",
            "measured": f"{row['measured']:.5f} +- {row['standard_error']:.5f}",
        }
        for _, row in estimates.iterrows()
    ]
    wide = []
    for (loss, product), own in ranks.groupby(["loss", "w d"], sort=False):
        shown = {
            f"d = {row['d']}": f"{row['predicted']:.2f} / {row['learned']:.2f}"
            for _, row in own.iterrows()
        }
        wide.append({"loss": loss, "w d": product, **shown})
    return (
        f"1. Mean squared sine of the principal angles between the learned span and the top "
        f"{SPAN_DIM} eigenfunctions (predicted: 0; mean and standard deviation of {SEEDS} seeds)"
        f"\n\n{markdown(ends)}\n"
        "2. Squared error of the K-view estimate of the kernel over its square (mean of "
        f"{ESTIMATE_DRAWS} draws and standard error)\n\n{markdown(errors)}\n"
        "3. Effective rank of z (Barlow Twins: standardised), at the minimum / learned\n\n"
        f"{markdown(wide)}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    where = "where tables and picture go"
    parser.add_argument("--out", type=cli.path, default=Path("runs/theory"), help=where)
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _compute_and_report(args.out), resumes=False)


def _compute_and_report(out: Path) -> None:
    check_writable(out, f"--out {out}")
    began = time.monotonic()
    torch.set_num_threads(1)  # the matrices are small
    q = ring.offsets(SIZE, SHARPNESS)
    rows = {"spans": span_rows(q), "estimates": estimate_rows(q), "ranks": rank_rows(q)}
    for name, of_table in rows.items():
        write_csv(out / f"{name}.csv", of_table)
    spans, estimates, ranks = (pd.DataFrame(of_table) for of_table in rows.values())
    origin = runs.origin([machine(torch.device("cpu"))])
    text = f"{origin}; {time.monotonic() - began:.0f} s\n\n{summary(spans, estimates, ranks)}"
    write_text(out / "summary.md", text)
    figure = picture(spans, estimates, ranks, SPAN_BATCH)
    write_picture(out / "theory.png", figure, dpi=130)
    print(f"{text}\n{out / 'theory.png'}")


if __name__ == "__main__":
    sys.exit(main())

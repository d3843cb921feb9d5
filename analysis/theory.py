"""The theory behind the losses, in a case where it is known exactly: images on a ring (ring.py).

python analysis/theory.py            # under two minutes on two CPU cores

A table F [V, d] of one free vector per view (a linear model on one-hot views) is trained with each loss on sampled
batches. Three things are shown, each beside what is predicted:

1. The span of the learned F approaches that of the top eigenfunctions of the augmentation kernel (arXiv 2312.10725):
   the mean squared sine of the principal angles between them, predicted 0 for Barlow Twins and VICReg.
2. How the error of the K-view estimate of the kernel moves with K. The estimate, in the basis of the first
   eigenfunctions, is Barlow Twins' pooled C; its mean squared error is computed exactly. At equal images it falls; at
   equal encoded views there is a best K, the larger the more eigenfunctions are estimated.
3. The decorrelation weight w moves the effective rank of z, and does so through w d: the minima of both losses are
   computed from the kernel. That is why the best weight falls as 1/d.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker

mpl.use("Agg")
import experiments
import matplotlib.pyplot as plt
import numpy as np
import ring
import torch
from torch import Tensor
from tqdm import tqdm

from effssl.evaluation.spectrum import effective_rank
from effssl.losses import functional as losses
from effssl.run.folder import machine, write_text

SIZE, SHARPNESS = 64, 8.0  # of the ring, and of the offsets: q ~ exp(SHARPNESS cos)
SEEDS = 3
SPAN_DIM, SPAN_PRODUCT, SPAN_STEPS, SPAN_BATCH = 4, 2.0, 800, 64
ESTIMATE_COUNTS, ESTIMATE_IMAGES, ESTIMATE_DRAWS = (4, 32), 240, 400
RANK_DIMS, RANK_STEPS, RANK_BATCH, RANK_VIEWS = (8, 16, 32), 500, 512, 4
PRODUCTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # w d


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
    """F [V, dim] after every `every` steps (0: only at the end) of Adam on sampled batches, with the steps done."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(len(q), dim, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.1)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1, pct_start=0.1)
    kept = [(0, table.detach().clone())] if every else []
    for step in range(1, steps + 1):
        z = torch.nn.functional.embedding(ring.sample_views(q, views, batch, generator), table)  # [views, batch, dim]
        optimizer.zero_grad()
        loss(z).backward()
        optimizer.step()
        decay.step()
        if step == steps or (every and step % every == 0):
            kept.append((step, table.detach().clone()))
    return kept


def measured_error(q: Tensor, count: int, views: int, batch: int, draws: int, seed: int) -> tuple[float, float]:
    """Mean over draws of |C~ - T|_F^2, and its standard error."""
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


def span_rows(q: Tensor) -> list[dict[str, Any]]:
    """Of every loss, K and seed: the distance of the learned span from the top eigenfunctions, while training."""
    waves, _ = ring.eigenfunctions(q, SPAN_DIM)
    weight = SPAN_PRODUCT / SPAN_DIM
    trained: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {
        **{
            ("Barlow Twins, all pairs", k): lambda z: losses.barlow_twins(z, redundancy_weight=weight).loss
            for k in (2, 4, 8)
        },
        ("Barlow Twins, pooled", 4): lambda z: losses.barlow_twins(z, redundancy_weight=weight, pairing="pooled").loss,
        ("VICReg", 4): lambda z: losses.vicreg(z, cov_weight=25 * weight).loss,
        ("SimCLR", 4): lambda z: losses.simclr(z).loss,
        ("entropy-reconstruction", 4): lambda z: losses.entropy_reconstruction(z).loss,
    }
    rows = []
    for (name, views), loss in tqdm(trained.items(), desc="1. spans", unit="loss"):
        for seed in range(SEEDS):
            size = {"views": views, "batch": SPAN_BATCH, "steps": SPAN_STEPS}
            for step, table in train(loss, q, SPAN_DIM, **size, seed=seed, every=SPAN_STEPS // 40):
                error = ring.span_error(table, waves)
                rows.append({"loss": name, "views": views, "seed": seed, "step": step, "span_error": error})
    return rows


def estimate_rows(q: Tensor) -> list[dict[str, Any]]:
    """Of every K: the squared error of the kernel's estimate, relative to the kernel's own square."""
    rows = []
    for views, count in tqdm(list(itertools.product((2, 3, 4, 6, 8, 12, 16), ESTIMATE_COUNTS)), desc="2. estimates"):
        scale = float(ring.eigenfunctions(q, count)[1].square().sum())
        for at, batch in (("equal images", ESTIMATE_IMAGES), ("equal encoded views", 2 * ESTIMATE_IMAGES // views)):
            error, deviation = measured_error(q, count, views, batch, ESTIMATE_DRAWS, seed=views)
            predicted = ring.estimate_error(q, count, views) / batch / scale
            row = {"at": at, "eigenfunctions": count, "views": views, "images": batch, "predicted": predicted}
            rows.append(row | {"measured": error / scale, "standard_error": deviation / scale})
    return rows


def predicted_rank(q: Tensor, loss: str, dim: int, product: float) -> float:
    """Effective rank of z where `loss` is least."""
    eigenvalues = ring.eigenfunctions(q, dim)[1].numpy()
    spectrum = ring.vicreg_spectrum if loss == "VICReg" else ring.barlow_spectrum
    return ring.rank_of_shares(spectrum(eigenvalues, dim, product / dim))


def rank_rows(q: Tensor) -> list[dict[str, Any]]:
    """Of both losses, every d and w d: the effective rank of centred z over all views, of the minimum and learned."""
    of_z: dict[str, Callable[[Tensor, float], Tensor]] = {
        "Barlow Twins": lambda z, w: losses.barlow_twins(z, redundancy_weight=w).loss,
        "VICReg": lambda z, w: losses.vicreg(z, cov_weight=25 * w).loss,
    }
    rows = []
    for (name, loss), dim in tqdm(list(itertools.product(of_z.items(), RANK_DIMS)), desc="3. ranks", unit="d"):
        for product in PRODUCTS:
            size = {"views": RANK_VIEWS, "batch": RANK_BATCH, "steps": RANK_STEPS}
            ((_, table),) = train(lambda z: loss(z, product / dim), q, dim, **size, seed=0)  # noqa: B023
            learned = effective_rank(table - table.mean(0))
            predicted = predicted_rank(q, name, dim, product)
            rows.append({"loss": name, "d": dim, "w d": product, "predicted": predicted, "learned": learned})
    return rows


def summary(spans: list[dict], estimates: list[dict], ranks: list[dict]) -> str:
    """The three tables, in Markdown."""
    ends = []
    for name, views in dict.fromkeys((r["loss"], r["views"]) for r in spans):
        own = [r for r in spans if (r["loss"], r["views"]) == (name, views)]
        first, last = ([r["span_error"] for r in own if r["step"] == step] for step in (0, SPAN_STEPS))
        end = f"{np.mean(last):.4f} +- {np.std(last, ddof=1):.4f}"
        ends.append({"loss": name, "K": views, "before training": f"{np.mean(first):.3f}", "after": end})
    errors = [
        {
            "K": r["views"],
            "at": r["at"],
            "eigenfunctions": r["eigenfunctions"],
            "images": r["images"],
            "predicted": f"{r['predicted']:.5f}",
            "measured": f"{r['measured']:.5f} +- {r['standard_error']:.5f}",
        }
        for r in estimates
    ]
    wide = []
    for name in dict.fromkeys(r["loss"] for r in ranks):
        for product in PRODUCTS:
            of_d = {r["d"]: r for r in ranks if (r["loss"], r["w d"]) == (name, product)}
            shown = {f"d = {d}": f"{r['predicted']:.2f} / {r['learned']:.2f}" for d, r in of_d.items()}
            wide.append({"loss": name, "w d": product, **shown})
    return (
        f"1. Mean squared sine of the principal angles between the learned span and the top {SPAN_DIM} eigenfunctions "
        f"(predicted: 0; mean and standard deviation of {SEEDS} seeds)\n\n{experiments.markdown(ends)}\n"
        f"2. Squared error of the K-view estimate of the kernel over its square (mean of {ESTIMATE_DRAWS} draws and "
        f"standard error)\n\n{experiments.markdown(errors)}\n"
        f"3. Effective rank of z, predicted / learned\n\n{experiments.markdown(wide)}"
    )


def picture(q: Tensor, spans: list[dict], estimates: list[dict], ranks: list[dict], path: Path) -> None:
    """theory.png: predictions as lines, measurements as points."""
    figure, ((left, right), *others) = plt.subplots(2, 2, figsize=(11, 9.5))
    pairs = list(dict.fromkeys((r["loss"], r["views"]) for r in spans))
    for i, (name, views) in enumerate(pairs):
        own = [r for r in spans if (r["loss"], r["views"]) == (name, views)]
        steps = sorted({r["step"] for r in own})
        mean = [np.mean([r["span_error"] for r in own if r["step"] == step]) for step in steps]
        left.plot(steps, mean, color=f"C{i}", label=f"{name}, K = {views}")
    left.set(xlabel=f"steps of {SPAN_BATCH} images", ylabel="mean squared sine of angles", yscale="log")
    left.set_title("1. the learned span nears the top eigenfunctions (predicted: 0)", fontsize=10)
    sets = itertools.product(ESTIMATE_COUNTS, ("equal images", "equal encoded views"))
    for (count, at), colour in zip(sets, ("tab:cyan", "tab:pink", "tab:blue", "tab:red"), strict=True):
        own = [r for r in estimates if (r["eigenfunctions"], r["at"]) == (count, at)]
        k = [r["views"] for r in own]
        right.plot(k, [r["predicted"] for r in own], color=colour, label=f"{count} eigenfunctions, {at}")
        bars = [2 * r["standard_error"] for r in own]
        right.errorbar(k, [r["measured"] for r in own], bars, color=colour, fmt="o", markersize=4)
    right.set(xlabel="views K", ylabel="squared error / |T|$^2$", xscale="log", yscale="log")
    right.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
    right.set_title("2. estimate of the kernel: predicted (lines), measured (points)", fontsize=10)
    for axis, name in zip(others[0], dict.fromkeys(r["loss"] for r in ranks), strict=True):
        for dim, colour in zip(RANK_DIMS, ("tab:green", "tab:orange", "tab:purple"), strict=True):
            own = [r for r in ranks if (r["loss"], r["d"]) == (name, dim)]
            fine = np.geomspace(min(PRODUCTS), max(PRODUCTS), 60)
            axis.plot(
                fine, [predicted_rank(q, name, dim, product) for product in fine], color=colour, label=f"d = {dim}"
            )
            axis.plot([r["w d"] for r in own], [r["learned"] for r in own], "o", color=colour)
        axis.set(xlabel="w d", ylabel="effective rank of z", xscale="log")
        axis.set_xticks(PRODUCTS, [f"{product:g}" for product in PRODUCTS])
        axis.set_title(f"3. {name}: predicted (lines), learned (points)", fontsize=10)
    for axis in (left, right, *others[0]):
        axis.grid(alpha=0.3)
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2 + (axis in others[0]), frameon=False
        )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/theory"), help="where tables and picture go")
    args = parser.parse_args(argv)
    return experiments.exit_code(lambda: _compute_and_report(args.out), resumes=False)


def _compute_and_report(out: Path) -> None:
    experiments.writable(out)
    began = time.monotonic()
    torch.set_num_threads(1)  # the matrices are small
    q = ring.offsets(SIZE, SHARPNESS)
    spans, estimates, ranks = span_rows(q), estimate_rows(q), rank_rows(q)
    for name, rows in (("spans", spans), ("estimates", estimates), ("ranks", ranks)):
        experiments.write_csv(out / f"{name}.csv", rows)
    text = f"{experiments.provenance([machine(torch.device('cpu'))])}; {time.monotonic() - began:.0f} s\n\n"
    text += summary(spans, estimates, ranks)
    write_text(out / "summary.md", text)
    picture(q, spans, estimates, ranks, out / "theory.png")
    print(f"{text}\n{out / 'theory.png'}")


if __name__ == "__main__":
    sys.exit(main())

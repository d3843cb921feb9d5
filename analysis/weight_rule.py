"""How the best decorrelation weight depends on the projector's width d.

python analysis/weight_rule.py --data-dir DIR                   # CIFAR-10, two CPU cores, 44 short runs
python analysis/weight_rule.py --data-dir DIR --preset gpu

Trains VICReg and Barlow Twins at d in 64, 256, 1024, 4096 by w * d in 1/4, 1, 4, 16, 64 (VICReg: 256 too), where w is
the decorrelation weight against the invariance term: redundancy_weight for Barlow Twins, cov_weight / inv_weight for
VICReg (inv_weight = var_weight = 25). If the best w falls as 1/d (arXiv 2312.10725), the curves of all widths lie on
one another against w * d. All accuracies are of the validation split; the test split is not read. Runs that exist are
read, those stopped go on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import experiments
import matplotlib as mpl
from claims import weight_flags, weight_of
from matplotlib.figure import Figure

from effssl.run.folder import write_text

WIDTHS = (64, 256, 1024, 4096)
PRODUCTS = {"barlow_twins": (0.25, 1.0, 4.0, 16.0, 64.0), "vicreg": (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)}
METHODS = {"barlow_twins": "Barlow Twins", "vicreg": "VICReg"}
CONFIGS = Path(__file__).parent.parent / "configs"
_SHORT = ["--probe-every", "0", "--final-images", "0"]
PRESETS = {
    "cpu": ["--config", str(CONFIGS / "cifar10_cpu.yaml"), "--precision", "bf16", "--epochs", "1", "--fraction", "0.4"],
    "gpu": ["--config", str(CONFIGS / "cifar10.yaml"), "--epochs", "10"],
}


def main(argv: list[str] | None = None) -> int:
    parser = experiments.parser(__doc__, PRESETS, "runs/weight_rule", "1")
    parser.add_argument("--widths", type=experiments.count, nargs="+", default=WIDTHS, metavar="D")
    parser.add_argument(
        "--products", type=float, nargs="+", metavar="WD", help="values of w * d (default: 1/4 to 64, 256)"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = experiments.read_flags(parser, argv)
    args.runs = args.runs or Path("runs/weight_rule")
    args.out = args.out or args.runs / "summary"
    return experiments.exit_code(lambda: _train_and_report(args))


def _train_and_report(args: argparse.Namespace) -> None:
    common = [*PRESETS[args.preset], "--data-dir", args.data_dir, *_SHORT, *args.further]
    wanted = {
        f"{method}_d{dim}_wd{product:g}_s{seed}": [*common, *_flags(method, dim, product), "--seed", str(seed)]
        for seed in range(args.seeds or 1)
        for dim in args.widths
        for method in args.methods
        for product in args.products or PRODUCTS[method]
    }
    if finished := experiments.trained(args, wanted):
        report(finished, args.out, args.command)


def report(finished: list[dict], out: Path, command: str = "") -> None:
    """Write runs.csv, summary.md and weight_rule.png of runs as experiments.read gives them, and print the table."""
    rows = [_row(run) for run in finished]
    rows.sort(key=lambda r: (r["method"], r["dim"], r["product"], r["seed"]))
    text = f"{experiments.provenance([run['result'] for run in finished], command)}\n\n"
    text += experiments.markdown(_summary(rows))
    experiments.write_csv(out / "runs.csv", rows)
    experiments.write_picture(out / "weight_rule.png", _picture(rows))
    write_text(out / "summary.md", text)
    print(f"{text}\n{out / 'runs.csv'}\n{out / 'weight_rule.png'}")


def _flags(method: str, dim: int, product: float) -> list[str]:
    return ["--method", method, "--proj-dim", str(dim), *weight_flags(method, product / dim)]


def _row(run: dict) -> dict:
    s, result = run["settings"], run["result"]
    weight = weight_of(s)
    measured = ("linear", "knn", "h/effective_rank", "z/effective_rank", "h/off_diagonal", "z/off_diagonal")
    return {
        "method": s["method"],
        "dim": s["proj_dim"],
        "product": round(weight * s["proj_dim"], 6),
        "weight": weight,
        "seed": s["seed"],
        **{k: round(run[k], 5) for k in measured},
        "encoded_views": result["encoded_views"],
        "seconds": round(result["seconds"], 1),
    }


def _summary(rows: list[dict]) -> list[dict]:
    """Mean validation accuracy in % over seeds: a line for each method and width, a column for each w * d."""
    table = []
    for method in dict.fromkeys(r["method"] for r in rows):
        for dim in sorted({r["dim"] for r in rows if r["method"] == method}):
            line: dict[str, str | int] = {"method": METHODS[method], "d": dim}
            means = {p: _mean(rows, method, dim, p, "linear") for p in sorted({r["product"] for r in rows})}
            best = max((m for m in means.values() if m is not None), default=None)
            for product, mean in means.items():
                shown = "" if mean is None else f"{100 * mean:.1f}"
                line[f"w d = {product:g}"] = f"**{shown}**" if mean is not None and mean == best else shown
            table.append(line)
    return table


def _mean(rows: list[dict], method: str, dim: int, product: float, key: str) -> float | None:
    found = [r[key] for r in rows if (r["method"], r["dim"], r["product"]) == (method, dim, product)]
    return sum(found) / len(found) if found else None


def _picture(rows: list[dict]) -> Figure:
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure = Figure(figsize=(12, 3.4 * len(methods)))
    axes = figure.subplots(len(methods), 3, squeeze=False)
    colours = mpl.colormaps["viridis"]
    for line, method in zip(axes, methods, strict=True):
        dims = sorted({r["dim"] for r in rows if r["method"] == method})
        for i, dim in enumerate(dims):
            products = sorted({r["product"] for r in rows if (r["method"], r["dim"]) == (method, dim)})
            accuracy = [100 * (_mean(rows, method, dim, p, "linear") or 0) for p in products]
            rank = [(_mean(rows, method, dim, p, "z/effective_rank") or 0) for p in products]
            style = {
                "marker": "o",
                "markersize": 4,
                "color": colours(i / max(1, len(dims) - 0.8)),
                "label": f"d = {dim}",
            }
            line[0].plot([p / dim for p in products], accuracy, **style)
            line[1].plot(products, accuracy, **style)
            line[2].plot(products, rank, **style)
        weight = "cov_weight / inv_weight" if method == "vicreg" else "redundancy_weight"
        line[0].set(xlabel=f"w = {weight}", ylabel=f"{METHODS[method]}\nlinear probe, validation (%)")
        line[1].set(xlabel="w d", ylabel="linear probe, validation (%)")
        line[2].set(xlabel="w d", ylabel="effective rank of z", yscale="log")
        for axis in line:
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
        line[0].legend(fontsize=8)
    figure.suptitle("best decorrelation weight by projector width: against w (left), against w d (middle)", fontsize=11)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(main())

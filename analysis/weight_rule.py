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

import matplotlib as mpl

mpl.use("Agg")
import experiments
import matplotlib.pyplot as plt

from effssl import InputError

WIDTHS = (64, 256, 1024, 4096)
PRODUCTS = {"barlow_twins": (0.25, 1.0, 4.0, 16.0, 64.0), "vicreg": (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)}
METHODS = {"barlow_twins": "Barlow Twins", "vicreg": "VICReg"}
INV_WEIGHT = 25.0
CONFIGS = Path(__file__).parent.parent / "configs"
_SHORT = ["--probe-every", "0", "--final-images", "0"]
PRESETS = {
    "cpu": ["--config", str(CONFIGS / "cifar10_cpu.yaml"), "--precision", "bf16", "--epochs", "1", "--fraction", "0.4"],
    "gpu": ["--config", str(CONFIGS / "cifar10.yaml"), "--epochs", "10"],
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="scale of the runs")
    parser.add_argument("--data-dir", default="data", help="folder of CIFAR-10")
    parser.add_argument("--runs", type=Path, default=Path("runs/weight_rule"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/weight_rule/summary"), help="where table and picture go")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, metavar="D")
    parser.add_argument(
        "--products", type=float, nargs="+", metavar="WD", help="values of w * d (default: 1/4 to 64, 256)"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1")
    parser.add_argument("--parallel", type=int, help="runs at once (default: one per GPU, else one per core)")
    parser.add_argument("--seconds", type=float, help="stop after this long; the next call goes on")
    parser.add_argument("further", nargs=argparse.REMAINDER, help="-- and further flags of effssl.train for every run")
    args = parser.parse_args(argv)
    common = [*PRESETS[args.preset], "--data-dir", args.data_dir, *_SHORT, *[f for f in args.further if f != "--"]]
    wanted = {
        f"{method}_d{dim}_wd{product:g}_s{seed}": [*common, *_flags(method, dim, product), "--seed", str(seed)]
        for seed in range(args.seeds)
        for dim in args.widths
        for method in args.methods
        for product in args.products or PRODUCTS[method]
    }
    try:
        finished = experiments.complete(wanted, args.runs, parallel=args.parallel, seconds=args.seconds)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(f"{len(finished)} of {len(wanted)} runs are finished")
    if finished:
        report({name: experiments.read(args.runs / name) for name in finished}, args.out)
    return 0


def report(finished: dict[str, dict], out: Path) -> None:
    """Write runs.csv, summary.md and weight_rule.png of runs as experiments.read gives them, and print the table."""
    rows = [_row(run) for run in finished.values()]
    rows.sort(key=lambda r: (r["method"], r["dim"], r["product"], r["seed"]))
    experiments.write_csv(out / "runs.csv", rows)
    table = experiments.markdown(_summary(rows))
    text = f"{experiments.provenance([run['result'] for run in finished.values()])}\n\n{table}"
    (out / "summary.md").write_text(text)
    _picture(rows, out / "weight_rule.png")
    print(f"{text}\n{out / 'runs.csv'}\n{out / 'weight_rule.png'}")


def _flags(method: str, dim: int, product: float) -> list[str]:
    weight = product / dim
    if method == "vicreg":
        strengths = ["--inv-weight", str(INV_WEIGHT), "--var-weight", str(INV_WEIGHT)]
        strengths += ["--cov-weight", repr(weight * INV_WEIGHT)]
    else:
        strengths = ["--redundancy-weight", repr(weight)]
    return ["--method", method, "--proj-dim", str(dim), *strengths]


def _row(run: dict) -> dict:
    s, result = run["settings"], run["result"]
    vicreg = s["method"] == "vicreg"
    weight = s["cov_weight"] / s["inv_weight"] if vicreg else float(s["redundancy_weight"])
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


def _picture(rows: list[dict], path: Path) -> None:
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = plt.subplots(len(methods), 3, figsize=(12, 3.4 * len(methods)), squeeze=False)
    colours = plt.get_cmap("viridis")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())

"""How many images a second reach the encoder as K views: this loader beside what others do.

python analysis/throughput.py --set 32 cifar10 DIR --set 96 folder DIR --set 224 folder DIR
python analysis/throughput.py --set 32 cifar10 DIR --step     # a training step's shares too; always done on a GPU

Everyone makes K views (random resized crop; with "all augmentations" also flip, colour jitter, grayscale and
normalisation: the CIFAR-10 recipe of arXiv 2312.10725) of the same images with the same number of workers:

- effssl: .beton read once; JPEGs decoded once for K crops; the rest in one pass on the device;
- FFCV, a pipeline per view: the same .beton, K pipelines, each decoding for itself (FFCV has no grayscale);
- torchvision: a DataLoader with transforms v2 on Pillow images;
- lightly's VICReg views and solo-learn's pipeline in a DataLoader, where these packages are installed.

DataLoaders get small images of one size (which effssl stores raw) from memory, others as JPEG files of the same longest
side and quality. Every one runs in a process of its own, and only one at a time: they take turns of whole passes, so
that a machine that slows down slows them all; ratios are of the same round. Figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from loaders import COLOUR_ONLY, CONTENDERS, OURS, Case, make_ours, open_ours, some_positions
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from effssl import InputError, cli
from effssl.data import open_split
from effssl.data.ffcv_loader import batches
from effssl.models import backbones as models
from effssl.run import device as process
from effssl.run.folder import machine, write_text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--set", nargs=3, action="append", required=True, metavar=("SIZE", "NAME", "DIR"),
        help="pixels of a view, --data and --data-dir of effssl.train; may be repeated",
    )  # fmt: skip
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8], metavar="K")
    parser.add_argument("--loaders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS), metavar="NAME",
                        help=f"of {', '.join(CONTENDERS)}; default: all that are installed")  # fmt: skip
    parser.add_argument("--images", type=int, default=192, help="of 224 px in a pass; of fewer pixels, more")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=1.0, help="seconds of a turn, at least one pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N: where effssl augments")
    parser.add_argument("--step", action="store_true", help="a training step's shares, on a CPU too")
    parser.add_argument("--out", type=Path, default=Path("runs/throughput"), help="where table and picture go")
    args = parser.parse_args(argv)
    return experiments.exit_code(lambda: _measure_and_report(args), resumes=False)


def _measure_and_report(args: argparse.Namespace) -> None:
    for flag in ("images", "batch", "workers", "rounds"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: at least 1")
    device, *_ = process.where_it_runs(args.device, "fp32", "false")
    experiments.writable(args.out)
    with tempfile.TemporaryDirectory() as folder:
        sets = [one_set(one, args, Path(folder)) for one in args.set]
        rows = measure(sets, args.loaders, sorted(set(args.views)), args.rounds, args.turn_s, str(device))
        shares = [step_shares(base, device) for base in sets] if args.step or device.type == "cuda" else []
    report(rows, shares, device, args.out)


def one_set(described: list[str], args: argparse.Namespace, folder: Path) -> Case:
    """Store a set for FFCV, and the images of a pass for the DataLoaders."""
    size, name, data_dir = described
    if not size.isdigit() or int(size) < 1:
        raise InputError(f"--set {size}: the first is the side of a view in pixels")
    settings = cli.parse(["--data", name, "--data-dir", data_dir, "--workers", str(args.workers)])
    stored_split = open_split(settings.images, "train")
    assert stored_split is not None  # train is found, or it raises
    source, stored = stored_split
    num_images = min(args.images * max(1, 224 // int(size)), len(stored.labels))
    batch = min(args.batch, num_images // (2 * args.workers) or 1)  # all workers of a DataLoader have as much to do
    files = folder / (f"{size}.npy" if stored.side else size)
    total = len(stored.labels)
    case = Case(int(size), 0, False, total, num_images, batch, args.workers, stored.path, stored.side, files)
    chosen = tqdm(stored.positions[some_positions(case)], desc=f"{size} px: images", leave=False)
    if stored.side:
        np.save(files, np.stack([source.images[i] for i in chosen]))
        return case
    files.mkdir()
    longest = settings.images.max_side
    for i in chosen:
        image = Image.fromarray(source.images[i])
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        image.save(files / f"{i}.jpg", quality=settings.images.jpeg_quality)
    return case


def measure(
    sets: list[Case], loaders: list[str], views: list[int], rounds: int, turn_s: float, device: str
) -> list[dict[str, Any]]:
    """A row for each loader, set, K and kind of augmentation: median images/s, and effssl's over it."""
    context = multiprocessing.get_context("spawn")
    running = {name: _start(context, name, device) for name in dict.fromkeys([OURS, *loaders]) if _is_installed(name)}
    rows = []
    try:
        for base in sets:
            for k in [0, *views]:
                of_pass = base if k else _all_images(base)
                cases = [
                    (name, of_pass._replace(views=k, colour=colour))
                    for name in running
                    for colour in ((False, True) if k else (False,))
                    if (k or name == OURS) and (colour or name not in COLOUR_ONLY)
                ]
                what = f"{base.size} px, {k} views"
                for turn in tqdm(cases, desc=f"{what}, warm-up", leave=False):
                    _ask(running, *turn, 0.0)
                speeds: dict[tuple[str, Case], list[float]] = {turn: [] for turn in cases}
                for _ in tqdm(range(rounds), desc=what, leave=False):
                    for turn in cases:
                        speeds[turn].append(_ask(running, *turn, turn_s))
                for (name, case), each in speeds.items():
                    ours = speeds[OURS, case]
                    ratio = statistics.median(a / b for a, b in zip(ours, each, strict=True))
                    speed = statistics.median(each)
                    numbers = {
                        "images_per_s": speed,
                        "lowest": min(each),
                        "highest": max(each),
                        "effssl_over_it": ratio,
                    }
                    rows.append(
                        {
                            "size": case.size,
                            "views": k,
                            "augmentations": "all" if case.colour else "crops",
                            "loader": name,
                        }
                        | {key: float(f"{x:.3g}") for key, x in numbers.items()}
                        | {"rounds": rounds, "images": case.images, "batch": case.batch, "workers": case.workers}
                    )
    finally:
        for worker, connection in running.values():
            connection.close()  # it ends when it reads on
            worker.join(timeout=10)
            worker.kill()
    return rows


def _all_images(base: Case) -> Case:
    """For loading alone: a pass over few images stored raw is over before it has begun."""
    return base._replace(images=base.total, batch=min(256, base.total)) if base.side else base


def _start(context: Any, name: str, device: str) -> tuple[Any, Connection]:
    here, there = context.Pipe()
    worker = context.Process(target=_serve, args=(name, there, device))
    worker.start()
    there.close()
    return worker, here


def _ask(running: dict[str, tuple[Any, Connection]], name: str, case: Case, turn_s: float) -> float:
    """Images/s of one turn."""
    _, connection = running[name]
    try:
        connection.send((case, turn_s))
        answer = connection.recv()
    except (EOFError, BrokenPipeError):
        raise RuntimeError(f"{name} died at {case}") from None
    if isinstance(answer, str):
        raise RuntimeError(f"{name} failed at {case}: {answer}")
    return answer


def _serve(name: str, connection: Connection, device: str) -> None:
    """In a process of its own: whole passes for as long as each turn lasts."""
    passes: dict[Case, Callable[[int], Iterator[int]]] = {}
    epoch = 0
    while True:
        try:
            case, turn_s = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if case not in passes:
                passes = {c: p for c, p in passes.items() if c[:2] == case[:2]}
                passes[case] = CONTENDERS[name](case, device)
            began, images = time.perf_counter(), 0
            while images == 0 or time.perf_counter() - began < turn_s:
                delivered = sum(passes[case](epoch))
                if delivered != case.images * max(1, case.views):
                    raise RuntimeError(f"{delivered} views of {case.images} images")
                images, epoch = images + case.images, epoch + 1
            if device != "cpu":
                torch.cuda.synchronize()
            connection.send(images / (time.perf_counter() - began))
        except Exception as error:  # said where it is read
            connection.send(repr(error))


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec({"lightly": "lightly", "solo-learn": "solo"}.get(name, "effssl")) is not None


def step_shares(
    base: Case, device: torch.device, *, views: int = 8, batch: int = 256, seconds: float = 20
) -> dict[str, Any]:
    """Of a ResNet-50 training step on K views of a batch: the part that augmentation takes, and the part that waits
    for the loader. The views go through the encoder one after the other, as all at once would not fit at 224 px."""
    case = base._replace(views=views, colour=True, batch=min(batch, base.images))
    on_gpu = device.type == "cuda"
    backbone = models.create_backbone("resnet50", case.size, stem="auto", kwargs="{}").to(device)
    backbone = backbone.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(x: torch.Tensor) -> None:
        for view in x:
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                loss = backbone(view.contiguous(memory_format=torch.channels_last)).float().square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    loader, chosen = open_ours(case)
    order = np.resize(chosen, max(len(chosen), 4 * case.batch))  # a small set more than once
    spent, steps, epoch, warm_steps = {"wait": 0.0, "augment": 0.0, "step": 0.0}, 0, 0, 2
    while steps <= warm_steps or sum(spent.values()) < seconds:
        began = now()
        for images, positions in batches(loader, order, device, epoch=epoch):
            arrived = now()
            x = make_ours(case, images, positions, epoch)
            augmented = now()
            step(x)
            done = now()
            if steps >= warm_steps:  # compiled, allocated
                for key, s in zip(spent, (arrived - began, augmented - arrived, done - augmented), strict=True):
                    spent[key] += s
            steps, began = steps + 1, done
            if steps > warm_steps and sum(spent.values()) >= seconds:
                break
        epoch += 1
    ms = {key: 1000 * s / (steps - warm_steps) for key, s in spent.items()}
    about = {
        "size": case.size,
        "views": views,
        "batch": case.batch,
        "workers": case.workers,
        "steps": steps - warm_steps,
    }
    shares = {"augment_share": ms["augment"] / ms["step"], "wait_share": ms["wait"] / sum(ms.values())}
    return (
        about | {f"{key}_ms": float(f"{x:.3g}") for key, x in ms.items()} | {k: round(x, 4) for k, x in shares.items()}
    )


def report(rows: list[dict[str, Any]], shares: list[dict[str, Any]], device: torch.device, out: Path) -> None:
    """Write throughput.csv, steps.csv, summary.md and throughput.png, and print the summary."""
    experiments.write_csv(out / "throughput.csv", rows)
    about = machine(device)
    parts = [f"{experiments.provenance([about])}; {rows[0]['workers']} workers; {_versions()}\n"]
    for size in dict.fromkeys(r["size"] for r in rows):
        here = [r for r in rows if r["size"] == size]
        alone, most = here[0], here[-1]
        parts.append(
            f"{size} px: {alone['images']:,} images in batches of {alone['batch']} read and decoded without views: "
            f"{alone['images_per_s']:,.0f} images/s. Images/s of {most['images']:,} in batches of {most['batch']} for "
            "each K, and in brackets effssl's over it:\n"
        )
        for kind, said in {"crops": "crops alone", "all": "all augmentations"}.items():
            table = []
            for name in dict.fromkeys(r["loader"] for r in here if r["augmentations"] == kind and r["views"]):
                line = {said: name}
                for r in (r for r in here if (r["loader"], r["augmentations"]) == (name, kind) and r["views"]):
                    over = "" if name == OURS else f" ({r['effssl_over_it']:.2f})"
                    line[f"K = {r['views']}"] = f"{r['images_per_s']:,g}{over}"
                table.append(line)
            parts.append(experiments.markdown(table))
    if shares:
        experiments.write_csv(out / "steps.csv", shares)
        parts += [
            "A ResNet-50 step: augmentation over encoding, and waiting over all of it:\n",
            experiments.markdown(shares),
        ]
    text = "\n".join(parts)
    write_text(out / "summary.md", text)
    _picture(rows, out / "throughput.png")
    print(f"{text}\n{out / 'throughput.csv'}\n{out / 'throughput.png'}")


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("torchvision", "ffcv", "pillow", "lightly"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _picture(rows: list[dict[str, Any]], path: Path) -> None:
    sizes = list(dict.fromkeys(r["size"] for r in rows))
    figure = Figure(figsize=(4.2 * len(sizes), 4.2))
    for axis, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        here = [r for r in rows if r["size"] == size and r["views"]]
        views = sorted({r["views"] for r in here})
        for i, name in enumerate(CONTENDERS):
            for kind, line in {"all": "o-", "crops": "o--"}.items():
                mine = [r for r in here if (r["loader"], r["augmentations"]) == (name, kind)]
                if mine:
                    label = f"{name}{', crops alone' if kind == 'crops' else ''}"
                    speeds = [r["images_per_s"] for r in mine]
                    axis.plot([r["views"] for r in mine], speeds, line, color=f"C{i}", markersize=4, label=label)
        axis.set(xscale="log", yscale="log", title=f"{size} px", xlabel="views K", ylabel="images/s")
        axis.set_xticks(views, [str(k) for k in views])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.grid(alpha=0.3, which="both")
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())

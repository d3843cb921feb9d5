"""What training in many processes sends, and what that would take on 8 to 512 GPUs.

python analysis/scaling.py                 # minutes, with two processes on this machine's CPU
python analysis/scaling.py --quick         # less than one, to see it work

Three things, in this order.

1. Counted: the bytes that a step exchanges: gradients (DistributedDataParallel), the loss, and
BatchNorm's statistics, of a backbone and a projector d wide, with K views. The loss is this
project's, called as the first of so many processes, whose others are not there; so its count is
that of the code, not of a formula.

2. Measured: sums and gathers of 4 KiB to 64 MiB by two processes on this machine (gloo, a thread
each), to which latency and bandwidth are fitted; and the losses, with the other process and as if
with it. The difference is what the exchange took, beside what the fit says.

3. A model for GPUs: messages x latency + bytes / bandwidth, for exchanges round one ring, one after
the other, with nothing of it hidden behind computation. Latency and bandwidth are assumptions
(--latency-us, --gb-per-s), not measured: 30 us and 50 GB/s a GPU, a network of 400 Gb/s for each.
As many encoded views a GPU for all: --images-each at K = 2, so that the global batch grows."""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from analysis.harness import cli, communication, runs
from analysis.harness.communication import Link
from analysis.harness.plots import write_picture
from analysis.harness.scaling_report import picture, summary
from analysis.harness.tables import write_csv
from effssl.cli import parse
from effssl.losses import barlow_twins, redundancy_weight, vicreg
from effssl.run.files import check_writable, write_text
from effssl.run.provenance import machine
from effssl.train.parts import encoder_of

GPUS = (8, 16, 32, 64, 128, 256, 512)
MB, MS = 1e-6, 1e3
METHODS = ("vicreg", "barlow_twins")
_EXCHANGES = ("sums", "gathers")


class Recipe(NamedTuple):
    """Views and width of a step."""

    views: int
    dim: int

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"K = {self.views}, d = {self.dim}"


RECIPES = (Recipe(2, 8192), Recipe(4, 256))


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--out", type=cli.path, default=Path("runs/scaling"), help="where tables and picture go")
    add("--method", choices=METHODS, default="vicreg")
    add("--backbone", default="resnet50", help="of timm (default: resnet50, at 224 px)")
    add("--images-each", type=cli.count, default=64, metavar="N", help="a GPU, at K = 2 (64)")
    add("--latency-us", type=cli.factor, default=30.0, metavar="US", help="of an exchange (30)")
    add("--gb-per-s", type=cli.factor, default=50.0, metavar="GB", help="that a GPU sends (50)")
    add("--quick", action="store_true", help="a small backbone, small batches, few repeats")
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    args.command = shlex.join(["scaling.py", *cli.without_places(given)])
    return cli.exit_code(lambda: _study(args), resumes=False)


def loss_of(method: str, dim: int) -> Callable[[Tensor], Tensor]:
    """Return a loss as training has it, by its default weight: z [views, batch, dim] -> scalar."""
    if method == "vicreg":
        return lambda z: vicreg(z).loss
    weight = redundancy_weight(dim)
    return lambda z: barlow_twins(z, redundancy_weight=weight).loss


def _study(args: argparse.Namespace) -> None:
    check_writable(args.out, f"--out {args.out}")
    if args.quick:
        args.backbone, args.images_each = "resnet18", 8
    gpus = GPUS[:2] if args.quick else GPUS
    wide, narrow = (_scaled(recipe, args) for recipe in RECIPES)
    counted = [row for recipe in (wide, narrow) for row in count(recipe, gpus, args)]
    fits, checks = measured(args, (wide, narrow))
    write_csv(args.out / "counted.csv", counted)
    write_csv(args.out / "measured.csv", checks)
    write_picture(args.out / "scaling.png", picture(counted))
    origin = runs.origin([machine(torch.device("cpu"))], args.command)
    text = summary(args, counted, fits, checks, origin)
    write_text(args.out / "summary.md", text)
    print(f"{text}\n{args.out / 'summary.md'}")


def _scaled(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    return recipe._replace(dim=min(recipe.dim, 512)) if args.quick else recipe


def _shape(recipe: Recipe, args: argparse.Namespace) -> tuple[int, int, int]:
    """Return the shape of a process's z: as many encoded views at any K."""
    return recipe.views, args.images_each * 2 // recipe.views, recipe.dim


def count(recipe: Recipe, gpus: tuple[int, ...], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each number of GPUs: what a step sends, and what the model says it takes."""
    width = str(recipe.dim)
    flags = ["--data", "imagenet", "--backbone", args.backbone, "--proj-dim", width]
    encoder, _ = encoder_of(parse([*flags, "--proj-hidden-dim", width]), has_begun=False)
    gradients = communication.of_gradients(encoder)
    shape = _shape(recipe, args)
    link = Link(args.latency_us * 1e-6, args.gb_per_s * 1e9)
    rows = []
    for processes in gpus:
        of_loss = communication.of_loss(loss_of(args.method, recipe.dim), shape, processes)
        parts = {
            "gradients": gradients,
            "loss": of_loss,
            "batch_norm": communication.of_batch_norm(encoder, processes),
        }
        row: dict[str, Any] = {"recipe": recipe.name, "gpus": processes}
        row |= {f"{name}_mb": sent.on_the_wire(processes) * MB for name, sent in parts.items()}
        row |= {f"{name}_messages": sent.messages for name, sent in parts.items()}
        for name, sent in parts.items():
            taken = link.seconds(sent.messages, sent.on_the_wire(processes))
            row[f"{name}_ms"] = taken * MS
        rows.append(row | {"all_ms": sum(row[f"{name}_ms"] for name in parts)})
    return rows


def measured(
    args: argparse.Namespace, recipes: tuple[Recipe, ...]
) -> tuple[dict[str, Link], list[dict[str, Any]]]:
    """Time exchanges and losses in two processes. Returns a Link for sums and one for gathers, and
    a row for each recipe: what its loss's exchange took, and what the fit says."""
    with tempfile.TemporaryDirectory() as folder:
        shapes = [_shape(recipe, args) for recipe in recipes]
        mp.spawn(_in_process, (folder, args.method, shapes, args.quick), nprocs=2)
        found = json.loads((Path(folder) / "found.json").read_text())
    fits = {name: communication.fitted(*zip(*found[name], strict=True)) for name in _EXCHANGES}
    rows = []
    for recipe, shape, (with_other, alone) in zip(recipes, shapes, found["losses"], strict=True):
        sent = communication.of_loss(loss_of(args.method, recipe.dim), shape, 2)
        says = fits["sums"].seconds(sent.reductions, sent.reduced)
        says += fits["gathers"].seconds(sent.gathers, sent.gathered)
        row = {"recipe": recipe.name, "images": 2 * shape[1], "messages": sent.messages}
        row |= {"mb": (sent.reduced + sent.gathered) * MB, "loss_ms": with_other * MS}
        rows.append(row | {"exchange_ms": (with_other - alone) * MS, "fit_ms": says * MS})
    return fits, rows


def _in_process(
    rank: int, folder: str, method: str, shapes: list[tuple[int, int, int]], quick: bool
) -> None:
    """Be one of two processes; the first writes found.json: seconds by bytes, and of each loss the
    seconds with the other process and as if with it."""
    torch.set_num_threads(1)
    here: dict[str, Any] = {"init_method": f"file://{folder}/store", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", **here, timeout=datetime.timedelta(minutes=5))
    repeats = 3 if quick else 15
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*_EXCHANGES, "losses")}
    for exponent in range(12, 21 if quick else 27, 2):
        x = torch.ones(2**exponent // communication.FLOAT)
        halves = [x.clone() for _ in range(2)]
        for name, work in (
            ("sums", functools.partial(dist.all_reduce, x)),
            ("gathers", functools.partial(dist.all_gather, halves, x)),
        ):
            num_bytes = x.nbytes * (2 if name == "gathers" else 1)
            found[name].append((num_bytes, communication.median_s(work, repeats)))
    for shape in shapes:
        z, loss = torch.randn(*shape).requires_grad_(), loss_of(method, shape[2])

        def step(z: Tensor = z, loss: Callable[[Tensor], Tensor] = loss) -> None:
            loss(z).backward()

        together = communication.median_s(step, repeats)
        with communication.as_if(2):
            found["losses"].append((together, communication.median_s(step, repeats)))
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())

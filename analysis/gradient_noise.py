"""Do more views make less noise in the gradient, as the theory's estimate of the kernel says?

python analysis/gradient_noise.py --data-dir DIR            # CIFAR-10, two CPU cores
python analysis/gradient_noise.py --preset digits           # a minute, to see it work

Trains an encoder with K = 4 and stops at three times, parts of its steps (--at). There, with
weights that stay as they are, the gradient of the backbone is taken for many batches of K = 2, 4
and 8 views, of one number of images and of one number of encoded views (n images of K = 8 are as
many as 4 n of K = 2). Reported are noise over signal, the variance over batches by the squared
length of their mean, and the cosine to a reference, the mean gradient of batches 16 times as large
with the largest K: what a loss that is no mean over images is off by, as noise in C adds to it,
shows in the second alone.

Verdict, written before the runs of seeds 3 to 7: is the variance over batches of K = 4 and of K = 8
below that of K = 2 at as many encoded views, at each time? Base-2 logarithms of ratios, paired by
seed, each seed with its own training; p corrected by Holm for six questions. A first study, seeds 0
to 2 after 4, 20 and 100% of the steps, asked for the noise over signal and could not decide, as
there is no mean gradient at the end of a training; it suggested this rule, and is no part of it
(LOG.md). At as many images noise falls if views are of any use, which decides nothing and is in the
table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

import pandas as pd
from tqdm import tqdm

from analysis.harness import cli, gradients, plots, runs, support_rules, verdicts
from analysis.harness.gradient_tables import picture, table
from analysis.harness.methods import NAMES, OF_CLAIMS, RULES, weight_flags
from analysis.harness.presets import CLAIMS
from analysis.harness.tables import read_json, write_csv
from effssl import InputError
from effssl.cli import RESUME_MAY_CHANGE, parse
from effssl.config import Config, flat
from effssl.optim import set_learning_rate
from effssl.run.device import open_runtime
from effssl.run.files import check_writable, write_json, write_text
from effssl.run.provenance import machine
from effssl.train.job import Job, build_job
from effssl.train.step import leave_gradients, update

VIEWS = (2, 4, 8)
TRAINED_WITH = 4
REFERENCE = 16  # times the images of the largest K's batch
PRESETS = {
    "cpu": (*CLAIMS["scarce"].flags, "--epochs", "25"),
    "digits": (*CLAIMS["digits"].flags, "--batch-size", "64", "--epochs", "3"),
}


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__, "-- FLAGS: further flags of effssl.train")
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="cpu", help="scale of the training")
    add("--data-dir", type=cli.path, default=Path("data"), help="folder of the images")
    add("--method", choices=RULES, default=OF_CLAIMS, help="loss, with the rule's weight")
    add("--out", type=cli.path, help="where all of it goes (default: runs/gradient_noise-PRESET)")
    add("--seeds", type=cli.count, default=5, metavar="N", help="how many (default: 5)")
    add("--first-seed", type=int, default=3, metavar="N", help="the first of them (default: 3)")
    at = "times of training, in parts of its steps (default: 0.04 0.2 0.6)"
    add("--at", type=cli.part, nargs="+", default=[0.04, 0.2, 0.6], metavar="PART", help=at)
    images = "images of the smallest batch, that of K = 8 (default: 64; digits 16)"
    add("--images", type=cli.count, metavar="N", help=images)
    batches = "batches of each kind, two or more (default: 32)"
    add("--batches", type=_two_or_more, default=32, metavar="M", help=batches)
    args = cli.read_flags(parser, argv)
    return cli.exit_code(lambda: _study(args))


def _two_or_more(text: str) -> int:
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, not {text}")
    return number


def _study(args: argparse.Namespace) -> None:
    args.out = args.out or Path(f"runs/gradient_noise-{args.preset}")
    args.images = args.images or (16 if args.preset == "digits" else 64)
    flags = [*PRESETS[args.preset], "--data-dir", str(args.data_dir), *args.further]
    flags += ["--method", args.method, *weight_flags(args.method, None)]
    cfg = parse([*flags, "--views", str(TRAINED_WITH), "--proj-hidden-dim", "256"])
    check_writable(args.out, f"--out {args.out}")
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for seed in seeds:
        file, settings = args.out / f"seed{seed}.json", _settings(cfg, args)
        if file.is_file():  # measured by a call before
            was = read_json(file)["settings"]
            if names := [name for name in settings if was.get(name) != settings[name]]:
                raise InputError(f"{file} was measured with another {', '.join(names)}")
            continue
        measured = list(measure(seeded(cfg, seed), args))
        origin = machine(open_runtime(cfg.run.device, "fp32").device)
        write_json(file, {"rows": measured, "settings": settings} | origin)
    _write(args, [read_json(args.out / f"seed{seed}.json") for seed in seeds])


def _settings(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the figures of a seed, as JSON has it."""
    kept = {name: value for name, value in flat(cfg).items() if name not in RESUME_MAY_CHANGE}
    measured = {"at": args.at, "images": args.images, "batches": args.batches}
    return json.loads(json.dumps(kept | measured, default=str))


def seeded(cfg: Config, seed: int) -> Config:
    """Return the settings with a seed, which chooses split and images too."""
    run = dataclasses.replace(cfg.run, seed=seed)
    return dataclasses.replace(
        cfg, run=run, images=dataclasses.replace(cfg.images, split_seed=seed)
    )


def measure(cfg: Config, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train, and yield a row for each time, K and number of images."""
    job = build_job(cfg)
    times = {max(1, round(part * job.total_steps)): part for part in args.at}
    smallest, most = args.images, max(VIEWS)
    kinds = sorted({(k, n) for k in VIEWS for n in (smallest, smallest * most // k)})
    jobs = {kind: _of(cfg, job, *kind) for kind in kinds}
    large = _of(cfg, job, most, REFERENCE * smallest)
    with tqdm(total=job.total_steps, desc=f"seed {cfg.run.seed}", unit="step") as bar:
        for step in train(job, max(times)):
            bar.update()
            if step not in times:
                continue
            weights = {name: value.clone() for name, value in job.encoder.state_dict().items()}
            large.encoder.load_state_dict(weights)
            reference = gradients.mean_gradient(large, max(2, args.batches // REFERENCE))
            for (views, images), own in jobs.items():
                own.encoder.load_state_dict(weights)
                found = gradients.noise(gradients.gradients(own, args.batches), reference)
                place = {"seed": cfg.run.seed, "at": times[step], "step": step, "views": views}
                place |= {"images": images, "encoded_views": images * views}
                yield place | found._asdict() | {"to_signal": found.to_signal}


def train(job: Job, steps: int) -> Iterator[int]:
    """Train for so many steps, and yield how many are done after each."""
    while job.step < steps:
        with closing(job.batches(job.step // job.steps_per_epoch)) as batches:
            for batch in batches:
                job.encoder.train()
                set_learning_rate(job.optimizer, job.schedule(job.step))
                terms = leave_gradients(job, batch, print)
                update(job, terms["loss"], is_logged=False, say=print)
                job.step += 1
                yield job.step
                if job.step == steps:
                    return


def _of(cfg: Config, job: Job, views: int, images: int) -> Job:
    """Return a job with other views and batches on the same images."""
    augment = dataclasses.replace(cfg.augment, views=views)
    optim = dataclasses.replace(cfg.optim, batch_size=images)
    return build_job(dataclasses.replace(cfg, augment=augment, optim=optim), job.data)


def _write(args: argparse.Namespace, seeds: list[dict[str, Any]]) -> None:
    rows = pd.DataFrame([row for seed in seeds for row in seed["rows"]])
    write_csv(args.out / "runs.csv", rows)
    plots.write_picture(args.out / "gradient_noise.png", picture(rows))
    judged = verdicts.judge(support_rules.gradient_noise, rows)
    text = (
        f"**More views make less noise of the gradient: {judged.verdict}.**\n\n"
        f"{verdicts.parts_table(judged.parts)}\n"
        f"Noise over signal, and the cosine to the reference, means over {len(seeds)} seeds with "
        f"their deviation; {NAMES[args.method]}, {args.batches} batches each:\n\n{table(rows)}\n"
        f"{runs.origin(seeds, args.command)}\n"
    )
    write_text(args.out / "summary.md", text)
    print(f"{text}\n{args.out / 'summary.md'}")


if __name__ == "__main__":
    sys.exit(main())

"""`effssl JOB FLAGS`: read the flags, then import the job.

The jobs import torch, which takes seconds; `--help` and a typo should not.
"""

from __future__ import annotations

import importlib
import io
import os
import sys

from effssl import InputError, cli
from effssl.config import Config
from effssl.flags import did_you_mean
from effssl.image_config import Storage
from effssl.job_config import Embed, Evaluation, Export
from effssl.run.threads import keep_threads_awake

JOBS = ("train", "prepare", "evaluate", "export", "embed")


def main(argv: list[str] | None = None) -> int:
    """Do the job that argv (sys.argv when None) names, with the flags that follow it.

    Returns the exit code: the job's, or 2 for flags that cannot be used, with one line on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        settings = _settings(sys.argv[1:] if argv is None else argv)
    except (InputError, OSError, UnicodeError) as error:
        # Under torchrun the processes of a machine have the same flags and files: its first speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    keep_threads_awake()
    match settings:
        case Config():
            from effssl.train import loop

            return loop.main(settings)
        case Storage():
            from effssl.prepare import store

            return store.main(settings)
        case Evaluation():
            from effssl.evaluate import run as evaluation

            return evaluation.main(settings)
        case Export():
            from effssl.export import run as exporting

            return exporting.main(settings)
        case Embed():
            from effssl.embed import run as embedding

            return embedding.main(settings)


def _settings(argv: list[str]) -> Config | Storage | Evaluation | Export | Embed:
    match argv:
        case ["train", *flags]:
            return cli.parse(flags)
        case ["prepare", *flags]:
            return cli.parse_storage(flags)
        case ["evaluate", *flags]:
            return cli.parse_evaluation(flags)
        case ["export", *flags]:
            return cli.parse_export(flags)
        case ["embed", *flags]:
            return cli.parse_embed(flags)
        case ["-h" | "--help", *_]:
            print(_overview())
            raise SystemExit(0)
        case []:
            raise InputError(f"name a job: {', '.join(JOBS)}; effssl --help says what they do")
    raise InputError(f"unknown job {argv[0]}{did_you_mean(argv[0], JOBS)}")


def _overview() -> str:
    """Return the list of jobs, each with the first line of its package's docstring."""
    lines = ["usage: effssl JOB [FLAGS]", ""]
    for job in JOBS:
        summary, *_ = (importlib.import_module(f"effssl.{job}").__doc__ or "").splitlines()
        lines.append(f"  {job:<10}{summary}")
    return "\n".join([*lines, "", "effssl JOB --help shows the flags of a job and their defaults."])


if __name__ == "__main__":
    sys.exit(main())

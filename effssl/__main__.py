"""`effssl JOB FLAGS`: read the flags, then import the job.

The jobs import torch, which takes seconds; --help and a typo should not.
"""

from __future__ import annotations

import sys

from effssl import cli


def main(argv: list[str] | None = None) -> int:
    """Do the job that argv (sys.argv when None) names, with the flags that follow it; returns the exit code."""
    job, *flags = sys.argv[1:] if argv is None else argv
    match job:
        case "train":
            cfg = cli.parse_or_exit(lambda: cli.parse(flags))
            from effssl.train import loop

            return loop.main(cfg)
        case "prepare":
            storage = cli.parse_or_exit(lambda: cli.parse_storage(flags))
            from effssl.prepare import store

            return store.main(storage)
        case "evaluate":
            evaluation = cli.parse_or_exit(lambda: cli.parse_evaluation(flags))
            from effssl.evaluate import run as evaluate

            return evaluate.main(evaluation)
        case "export":
            export = cli.parse_or_exit(lambda: cli.parse_export(flags))
            from effssl.export import run as exporting

            return exporting.main(export)
        case "embed":
            embed = cli.parse_or_exit(lambda: cli.parse_embed(flags))
            from effssl.embed import run as embedding

            return embedding.main(embed)
    print(f"error: unknown job {job}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""Flags, one-line errors and exit codes of the commands."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from effssl.ranges import local_path
from effssl.run import signals

# Flags that say where and for how long; they are no part of what was measured.
_PLACES = ("--data-dir", "--runs", "--out", "--seconds", "--records")
_SWITCHES = ("--save-records",)


class Parser(argparse.ArgumentParser):
    """A parser that shows the script's docstring and says in one line what is wrong with flags."""

    def __init__(self, doc: str | None, epilog: str | None = None):
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(description=doc, formatter_class=plain, epilog=epilog)

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def training_parser(
    doc: str | None,
    presets: Iterable[str],
    runs: str,
    seeds: str,
    epilog: str = "",
) -> Parser:
    """Return the flags of every command that trains runs. runs, seeds: these defaults, in words."""
    parser = Parser(doc, f"{epilog}-- FLAGS: further flags of effssl.train for every run")
    add = parser.add_argument
    add("--preset", choices=list(presets), default="cpu", help="scale of the runs")
    add("--data-dir", type=path, default=Path("data"), help="folder of the images")
    add("--runs", type=path, help=f"where the runs are kept (default: {runs})")
    add("--out", type=path, help="where tables and picture go (default: in RUNS)")
    add("--seeds", type=count, metavar="N", help=f"seeds 0 to N - 1 (default: {seeds})")
    add(
        "--parallel",
        type=count,
        metavar="N",
        help="runs at once (default: one per GPU, else per core)",
    )
    add("--seconds", type=float, metavar="S", help="stop after this long; the next call goes on")
    return parser


def add_records(parser: Parser, name: str | None) -> None:
    """Add the flags of finished runs that are known; name: of their file, in words; None if none
    is read unless it is named."""
    default = f"; /dev/null for none (default: analysis/records/{name}.jsonl)" if name else ""
    own = ", of a user's own images only those of a file that is named"
    parser.add_argument(
        "--records",
        type=path,
        metavar="FILE",
        help=f"finished runs that need not be trained again{own if name else ''}{default}",
    )
    parser.add_argument(
        "--save-records", action="store_true", help="put this call's finished runs into that file"
    )


def path(text: str) -> Path:
    """Return a flag's path, with `~` as the home folder. Raises ArgumentTypeError for a URL."""
    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def count(text: str) -> int:
    """Return a flag's whole number. Raises ArgumentTypeError if it is less than 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def factor(text: str) -> float:
    """Return a flag's factor. Raises ArgumentTypeError if it is not above 0."""
    if not 0 < (number := float(text)) < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def part(text: str) -> float:
    """Return a flag's part of a whole, in (0, 1]. Raises ValueError."""
    if not 0 < (number := float(text)) <= 1:
        raise ValueError
    return number


def split_further(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the script's own flags, and those after `--`, which are effssl.train's."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    at = tokens.index("--") if "--" in tokens else len(tokens)
    return tokens[:at], tokens[at + 1 :]


def read_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the script's flags; those after `--` as `further`, and as `command` what was measured,
    without this machine's folders.

    Bad flags end the process: one line on stderr, exit code 2.
    """
    own, further = split_further(argv)
    args = parser.parse_args(own)
    args.further = further
    after = ["--", *further] if further else []
    words = ["--data-dir", "DIR", *without_places(own), *after]
    args.command = shlex.join([Path(sys.argv[0]).name, *words])
    return args


def without_places(own: Sequence[str]) -> list[str]:
    """Return a script's flags without those that say where and for how long."""
    return [
        token
        for before, token in zip(["", *own], own, strict=False)
        if not {before, token} & set(_PLACES)
        and token.partition("=")[0] not in (*_PLACES, *_SWITCHES)
    ]


def exit_code(work: Callable[[], None], *, resumes: bool = True) -> int:
    """Do the work and return the exit code, as the commands of effssl do: see signals.exit_code.

    resumes: after Ctrl-C the same command goes on where it was.
    """
    interrupted = "interrupted" + "; the same command goes on" * resumes
    return signals.exit_code(work, interrupted=interrupted)

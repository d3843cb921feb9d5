"""Rewrite the tables of README.md and docs/ from the committed results, so that they cannot drift apart.

python analysis/docs_tables.py            # rewrites the files whose tables have changed
python analysis/docs_tables.py --check    # writes nothing; exit code 1 if a file would change

A table stands between the lines `<!-- begin generated: NAME -->` and `<!-- end generated -->`. NAME
is one of BLOCKS, or points into a Markdown file of analysis/results: `wallclock/summary.md table 2`
is its second table, and `wallclock/summary.md origin` the line that says on what hardware, with
what versions and by which command it was made.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import experiments
import verdicts
from claims_table import claim_parts, claims, origin, support, tables

from effssl import InputError
from effssl.run.folder import write_text

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(
    r"(?P<begin><!-- begin generated: (?P<name>.+?) -->\n).*?(?P<end><!-- end generated -->)",
    re.DOTALL,
)


def digits(results: Path) -> str:
    """Return the demo's final table and the line that says what it took."""
    result = verdicts.read_json(results / "digits" / "result.json")
    rows = [
        {
            "": name,
            "linear, all labels": f"{100 * row['linear']:.1f}",
            "linear, 10 labels a class": f"{100 * row['few_labels']:.1f} +- {100 * row['few_labels_std']:.1f}",
            "kNN": f"{100 * row['knn']:.1f}",
        }
        for name, row in result["final"]["rows"].items()
    ]
    return f"{experiments.markdown(rows)}\n{_took(result)}\n"


def cifar10_origin(results: Path) -> str:
    """Return the line that says what the committed run on CIFAR-10 took."""
    return f"{_took(verdicts.read_json(results / 'cifar10_cpu' / 'result.json'))}\n"


def evaluation(results: Path, number: int) -> str:
    """Return a table of `effssl evaluate` on CIFAR-10, its rows named by the encoder alone."""
    table = tables(results / "cifar10_cpu" / "comparison.md")[number - 1]
    return re.sub(r"^\| \w+: ", "| ", table, flags=re.MULTILINE)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "claims": claims,
    **{f"claim {i}": functools.partial(claim_parts, number=i) for i in (1, 2, 3, 4)},
    "support": support,
    "digits": digits,
    "cifar10 origin": cifar10_origin,
    "cifar10 accuracies": functools.partial(evaluation, number=1),
    "cifar10 measures": functools.partial(evaluation, number=2),
}


def block(name: str, results: Path) -> str:
    """Return the Markdown of a block. Raises InputError for a name that means nothing."""
    if name in BLOCKS:
        return BLOCKS[name](results)
    file, _, which = name.partition(".md ")
    path = results / f"{file}.md"
    if not path.is_file():
        raise InputError(
            f"generated block {name!r}: neither one of {', '.join(BLOCKS)} nor in a file of {results}"
        )
    if which == "origin":
        return f"{origin(path)}\n"
    number = int(which.removeprefix("table ")) if re.fullmatch(r"table [1-9]\d*", which) else 0
    if not 0 < number <= len(tables(path)):
        raise InputError(f"generated block {name!r}: {path} has {len(tables(path))} tables")
    return tables(path)[number - 1]


def rewritten(text: str, results: Path) -> str:
    """Return a document with its blocks made anew. Raises InputError for a block without an end."""
    if text.count("<!-- begin generated: ") != len(_BLOCK.findall(text)):
        raise InputError("a generated block has no end")

    def renew(match: re.Match[str]) -> str:
        made = block(match["name"], results).replace(" +- ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").strip()
        return f"{match['begin']}\n{made}\n\n{match['end']}"

    return _BLOCK.sub(renew, text)


def main(argv: list[str] | None = None) -> int:
    parser = experiments.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="folder of README.md, docs/ and analysis/results/"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a file would change"
    )
    args = parser.parse_args(argv)
    try:
        changed = []
        for file in [args.root / "README.md", *sorted((args.root / "docs").glob("*.md"))]:
            was = file.read_text()
            now = rewritten(was, args.root / "analysis" / "results")
            if now != was:
                changed.append(file.relative_to(args.root))
                if not args.check:
                    write_text(file, now)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if changed:
        names = ", ".join(map(str, changed))
        print(
            f"{names}: out of date; run python analysis/docs_tables.py"
            if args.check
            else f"rewritten: {names}"
        )
    return 1 if args.check and changed else 0


def _took(result: dict[str, Any]) -> str:
    """Return the line that says what a run took, on what, and when."""
    cost = f"{result['seconds']:,.0f} s of training, {result['encoded_views']:,} encoded views, one seed"
    return f"{cost}; {experiments.provenance([result])}"


if __name__ == "__main__":
    sys.exit(main())

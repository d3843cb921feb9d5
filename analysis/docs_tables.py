"""Rewrite the tables of the READMEs and docs/ from the committed results, so that none can drift.

python analysis/docs_tables.py            # rewrites the files whose tables have changed
python analysis/docs_tables.py --check    # writes nothing; exit code 1 if a file would change

A table stands between the lines `<!-- begin generated: NAME -->` and `<!-- end generated -->`. NAME
is one of BLOCKS, or points into a Markdown file of analysis/results: `wallclock/summary.md table 2`
is its second table, and `wallclock/summary.md origin` the line that says on what hardware, with
what versions and by which command it was made.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

from analysis.harness import cli, runs
from analysis.harness.tables import markdown
from analysis.report_page.claims_table import (
    claim_parts,
    claims_table,
    support,
    verdicts_table,
)
from analysis.report_page.summaries import origin_of, tables_in
from effssl import InputError
from effssl.run.files import write_text

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"(?P<begin><!-- begin generated: (?P<name>.+?) -->\n).*?(?P<end><!-- end generated -->)",
    re.DOTALL,
)
_SPREAD = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"  # a figure and its deviation stay on one line


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    of_root = "folder of README.md, docs/ and analysis/results/"
    parser.add_argument("--root", type=cli.path, default=ROOT, help=of_root)
    only_check = "write nothing; exit code 1 if a file would change"
    parser.add_argument("--check", action="store_true", help=only_check)
    args = parser.parse_args(argv)
    changed: dict[Path, str] = {}
    code = cli.exit_code(lambda: changed.update(out_of_date(args.root)), resumes=False)
    names = ", ".join(str(file.relative_to(args.root)) for file in changed)
    if code or not changed:
        return code
    if args.check:
        print(f"{names}: out of date; run python analysis/docs_tables.py")
        return 1
    for file, text in changed.items():
        write_text(file, text)
    print(f"rewritten: {names}")
    return 0


def out_of_date(root: Path) -> dict[Path, str]:
    """Return what the documents should say that say something else.

    Raises InputError for a block that means nothing, or has no end.
    """
    of_analysis = root / "analysis" / "README.md"
    files = (root / "README.md", of_analysis, *sorted((root / "docs").glob("*.md")))
    documents = {file: file.read_text() for file in files}
    renewed = {file: renew(text, root / "analysis" / "results") for file, text in documents.items()}
    return {file: text for file, text in renewed.items() if text != documents[file]}


def renew(text: str, results: Path) -> str:
    """Return a document with its blocks made anew."""
    if text.count("<!-- begin generated: ") != len(_BLOCK.findall(text)):
        raise InputError("a generated block has no end")

    def filled(match: re.Match[str]) -> str:
        content = block(match["name"], results).replace(" +- ", _SPREAD).strip()
        return f"{match['begin']}\n{content}\n\n{match['end']}"

    return _BLOCK.sub(filled, text)


def block(name: str, results: Path) -> str:
    """Return the Markdown of a block. Raises InputError for a name that means nothing."""
    if name in BLOCKS:
        return BLOCKS[name](results)
    file, _, which = name.partition(".md ")
    path = results / f"{file}.md"
    if not path.is_file():
        known = ", ".join(BLOCKS)
        raise InputError(f"generated block {name!r}: neither one of {known}, nor in {results}")
    if which == "origin":
        return origin_of(path)
    tables = tables_in(path)
    number = int(which.removeprefix("table ")) if re.fullmatch(r"table [1-9]\d*", which) else 0
    if not 0 < number <= len(tables):
        raise InputError(f"generated block {name!r}: {path} has {len(tables)} tables")
    return tables[number - 1]


def digits(results: Path) -> str:
    """Return the demo's final table and the line that says what it took."""
    result = _result(results / "digits")
    rows = [
        {
            "": name,
            "linear, all labels": f"{100 * row['linear']:.1f}",
            "linear, 10 labels a class": _with_spread(row["few_labels"], row["few_labels_std"]),
            "kNN": f"{100 * row['knn']:.1f}",
        }
        for name, row in result["final"]["rows"].items()
    ]
    return f"{markdown(rows)}\n{_took(result)}"


def cifar10_origin(results: Path) -> str:
    """Return the line that says what the committed run on CIFAR-10 took."""
    return _took(_result(results / "cifar10_cpu"))


def evaluation(results: Path, number: int) -> str:
    """Return a table of `effssl evaluate` on CIFAR-10, its rows named by the encoder alone."""
    table = tables_in(results / "cifar10_cpu" / "comparison.md")[number - 1]
    return re.sub(r"^\| \w+: ", "| ", table, flags=re.MULTILINE)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "claims": claims_table,
    "claims in brief": functools.partial(claims_table, in_brief=True),
    "verdicts": verdicts_table,
    **{f"claim {i}": functools.partial(claim_parts, number=i) for i in (1, 2, 3, 4)},
    "support": support,
    "digits": digits,
    "cifar10 origin": cifar10_origin,
    "cifar10 accuracies": functools.partial(evaluation, number=1),
    "cifar10 measures": functools.partial(evaluation, number=2),
}


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def _with_spread(mean: float, std: float) -> str:
    return f"{100 * mean:.1f} +- {100 * std:.1f}"


def _took(result: dict[str, Any]) -> str:
    cost = f"{result['seconds']:,.0f} s of training, {result['encoded_views']:,} encoded views"
    return f"{cost}, one seed; {runs.origin([result])}"


if __name__ == "__main__":
    sys.exit(main())

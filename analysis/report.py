"""One page from the committed results: each claim with its verdict, the data and hardware, tables,
figures, commands.

python analysis/report.py                          # analysis/results -> report.html
python analysis/report.py --results DIR --to PAGE

The page is one HTML file that holds its pictures and asks no network. Verdicts are computed from
the CSVs by the rules in harness/claim_rules.py and support_rules.py, which the page quotes; of
results that are not there it says so, with the command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # the checkout: see __init__.py

from analysis.harness import cli
from analysis.report_page.page import page
from effssl import InputError
from effssl.run.files import write_text

RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    folder = "folder of the committed results"
    parser.add_argument("--results", type=cli.path, default=RESULTS, help=folder)
    parser.add_argument("--to", type=cli.path, default=Path("report.html"), help="the page")
    args = parser.parse_args(argv)
    return cli.exit_code(lambda: _write(args), resumes=False)


def _write(args: argparse.Namespace) -> None:
    if not args.results.is_dir():
        raise InputError(f"--results {args.results} is not a folder")
    write_text(args.to, page(args.results))
    print(args.to)


if __name__ == "__main__":
    sys.exit(main())

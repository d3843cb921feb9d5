"""The tables of README.md and docs/ are those of the committed results, and follow them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis import docs_tables
from analysis.report_page import claims_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "analysis" / "results"


@pytest.fixture
def checkout(tmp_path):
    """Return a copy of the documents and of what their tables are made of."""
    left_out = shutil.ignore_patterns("*.png", "*.jsonl")
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(RESULTS, tmp_path / "analysis" / "results", ignore=left_out)
    return tmp_path


def test_the_committed_documents_are_up_to_date(capsys):
    assert docs_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_a_changed_result_is_noticed_and_then_written(checkout, capsys):
    file = checkout / "analysis" / "results" / "digits" / "result.json"
    result = json.loads(file.read_text())
    result["final"]["rows"]["trained"]["linear"] = 0.1234
    file.write_text(json.dumps(result))
    root = ["--root", str(checkout)]
    before = (checkout / "README.md").read_text()
    assert docs_tables.main([*root, "--check"]) == 1
    assert (checkout / "README.md").read_text() == before
    assert "README.md, docs/measurements.md: out of date" in capsys.readouterr().out
    assert docs_tables.main(root) == 0
    assert "| trained | 12.3 |" in (checkout / "README.md").read_text()
    assert "| trained | 12.3 |" in (checkout / "docs" / "measurements.md").read_text()
    assert docs_tables.main([*root, "--check"]) == 0


def test_other_text_stays(checkout):
    file = checkout / "README.md"
    file.write_text(file.read_text().replace("# effssl\n", "# another title\n", 1))
    before = file.read_text()
    assert docs_tables.main(["--root", str(checkout)]) == 0
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!-- begin generated: digts -->\n<!-- end generated -->", "neither one of claims"),
        (
            "<!-- begin generated: digits/no.md table 1 -->\n<!-- end generated -->",
            "neither one of claims",
        ),
        (
            "<!-- begin generated: views/summary.md table 9 -->\n<!-- end generated -->",
            "has 2 tables",
        ),
        (
            "<!-- begin generated: views/summary.md picture -->\n<!-- end generated -->",
            "has 2 tables",
        ),
        (
            "<!-- begin generated: probe_cost/summary.md origin -->\n<!-- end generated -->",
            "no line that says",
        ),
        ("<!-- begin generated: digits -->\n", "has no end"),
    ],
)
def test_bad_blocks_are_one_line(checkout, capsys, text, why):
    (checkout / "README.md").write_text(text)
    assert docs_tables.main(["--root", str(checkout)]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert (checkout / "README.md").read_text() == text


def test_the_claims_table_says_what_is_open_and_what_is_a_bound():
    width, views, subset, wallclock = claims_table.claims(RESULTS).splitlines()[2:]
    assert "| **holds** |" in width
    assert "d = 256 minus d = 8192, each at the rule's weight: +1.0 (-0.1 to +2.1)" in width
    assert "| **holds in part** |" in views
    assert "after as many encoded views: -0.3 (-2.4 to +1.8), open" in views
    assert "but K = 2 has 44.2% on a quarter and 44.2% on all" in subset
    assert ">= 10.1 times sooner (8.8 to 11.7)" in wallclock
    assert "that of K = 2, d = 256: 1.3 times sooner (0.9 to 2.0), open" in wallclock
    assert all(
        line.endswith("| 3 | AMD EPYC, 2 cores |") for line in (width, views, subset, wallclock)
    )

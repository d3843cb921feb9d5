"""The tables of README.md and docs/ are those of the committed results, and follow them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
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
    (tmp_path / "analysis").mkdir()
    shutil.copy(ROOT / "analysis" / "README.md", tmp_path / "analysis")
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
    lines = claims_table.claims_table(RESULTS).splitlines()[2:]
    width, views, subset, wallclock = (line for line in lines if "| Barlow Twins |" in line)
    assert "| **holds** |" in width
    assert "d = 256 minus d = 8192, each at the rule's weight: +1.0 (-0.1 to +2.1)" in width
    assert "| **holds in part** |" in views
    assert "after as many encoded views: -0.3 (-2.4 to +1.8), open" in views
    assert "| **does not hold** |" in subset
    assert "K = 2 on all: -2.4 (-4.2 to -0.5), not decided here" in subset
    assert "a quarter minus K = 2 on all: -7.3 (-8.1 to -6.4), no" in subset
    # One of its seeds is a bound.
    assert (
        "tuned: K = 2, d = 1440: at least 2.11 times sooner (lowest seed 1.77); by step"
        in wallclock
    )
    assert "by step cost >= 1.96, which is >= 1.72 times fewer views, each 1.1 times" in wallclock
    assert all(line.endswith("| 3 | AMD EPYC, 2 cores |") for line in (width, views))
    in_brief = claims_table.claims_table(RESULTS, in_brief=True)
    assert "at least 2.11 times sooner (lowest seed 1.77) | 5 |" in in_brief
    assert "EPYC" not in in_brief


def test_a_ratio_to_a_baseline_that_is_not_tuned_is_no_verdict(checkout):
    results = checkout / "analysis" / "results"
    shutil.rmtree(results / "wallclock")
    shutil.copytree(results / "wallclock-8192", results / "wallclock")
    lines = claims_table.claims_table(results).splitlines()
    (wallclock,) = (x for x in lines if "| Together: half the time | Barlow Twins |" in x)
    assert "| **not measured yet** |" in wallclock and "tuned baseline not measured" in wallclock
    assert "untuned: K = 2, d = 8192: at least 10.12 times sooner (lowest seed 9.52)" in wallclock
    # Most of the ratio is the price of a view.
    assert "by step cost >= 11.28, which is >= 1.88 times fewer views, each 6.0 times" in wallclock
    assert "K = 2, d = 256: 1.32 times sooner (0.86 to 2.01)" in wallclock


def test_a_claim_that_was_measured_with_both_methods_has_a_row_for_each(checkout):
    results = checkout / "analysis" / "results"
    shutil.copytree(results / "views", results / "views-vicreg", dirs_exist_ok=True)
    rows = [
        line for line in claims_table.claims_table(results).splitlines() if "| More views" in line
    ]
    assert ["Barlow Twins" in rows[0], "VICReg" in rows[1]] == [True, True]
    parts = claims_table.claim_parts(results, 2)
    assert "With Barlow Twins: **" in parts and "With VICReg: **" in parts
    # What is there is shown, though most of it is not measured.
    shutil.copytree(results / "wallclock", results / "wallclock-vicreg", dirs_exist_ok=True)
    (results / "wallclock-vicreg" / "ratios.csv").unlink()
    for name in ("projector", "subset"):
        (results / f"{name}-vicreg").mkdir(exist_ok=True)
    assert claims_table.claims_table(results).count("VICReg") == 4


def test_tables_say_what_their_intervals_cover(checkout):
    results = checkout / "analysis" / "results"
    assert "All seeds share one validation split" in claims_table.claim_parts(results, 2)
    table = pd.read_csv(results / "views" / "runs.csv")
    table.assign(split_seed=table["seed"]).to_csv(results / "views" / "runs.csv", index=False)
    assert "Each seed has its own validation split" in claims_table.claim_parts(results, 2)

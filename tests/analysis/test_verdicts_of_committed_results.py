import json
import sys
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[2] / "analysis"
sys.path.insert(0, str(ANALYSIS))

import report_sections  # noqa: E402
import verdicts  # noqa: E402

EXPECTED = json.loads((Path(__file__).parent / "verdicts_of_committed_results.json").read_text())
SECTIONS = {section.title: section for section in (*report_sections.CLAIMS, *report_sections.SUPPORT)}


def test_every_section_of_the_report_has_its_verdict_here():
    assert list(SECTIONS) == list(EXPECTED)


@pytest.mark.parametrize("title", EXPECTED)
def test_the_committed_results_are_judged_as_they_were(title):
    judged = verdicts.decide(ANALYSIS / "results", SECTIONS[title].judges)
    parts = [{"says": part.says, "outcome": part.outcome, "seen": part.seen} for part in judged.parts]
    assert {"verdict": judged.verdict, "parts": parts} == EXPECTED[title]

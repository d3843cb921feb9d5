import json
from pathlib import Path

import pytest

from analysis.harness import verdicts
from analysis.report_page import sections

RESULTS = Path(__file__).parents[2] / "analysis" / "results"
EXPECTED = json.loads((Path(__file__).parent / "verdicts_of_committed_results.json").read_text())
EVERY = (*sections.measured_claims(RESULTS), *sections.SUPPORT)
SECTIONS = {section.heading: section for section in EVERY}


def test_every_section_of_the_report_has_its_verdict_here():
    assert list(SECTIONS) == list(EXPECTED)


@pytest.mark.parametrize("title", EXPECTED)
def test_the_committed_results_are_judged_as_they_were(title):
    judged = verdicts.decide(RESULTS, SECTIONS[title].rules)
    parts = [
        {"says": part.says, "outcome": part.outcome, "seen": part.seen} for part in judged.parts
    ]
    assert {"verdict": judged.verdict, "parts": parts} == EXPECTED[title]

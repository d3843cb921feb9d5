"""The page: the committed results as one HTML file that holds its pictures and asks no network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jinja2
import torch

from analysis.harness import verdicts
from analysis.harness.rules import words
from analysis.harness.verdicts import Verdict
from analysis.report_page.claims_table import about_claim
from analysis.report_page.folders import Folder, folder_of, noted_commands
from analysis.report_page.markdown import rendered
from analysis.report_page.sections import SUPPORT, Section, measured_claims
from effssl.run.provenance import machine

_HERE = Path(__file__).parent
_COLOURS = {verdicts.HOLDS: "holds", verdicts.IN_PART: "part", verdicts.DOES_NOT: "not"}
_OUTCOME_COLOURS = {"yes": "holds", "no": "not"}


class Shown(NamedTuple):
    """A section as the template takes it."""

    title: str
    claim: str
    judged: Verdict
    counts: str  # of the answers to its parts
    rules: list[str]
    folders: list[Folder]
    about: str  # what the intervals of a claim cover, and which probe it is


def page(results: Path) -> str:
    """Return the HTML page of the folder `results`. Raises InputError for results that cannot be
    read."""
    commands = noted_commands(results)
    sections = [
        _shown(section, results, commands) for section in (*measured_claims(results), *SUPPORT)
    ]
    in_sections = {folder.name for section in sections for folder in section.folders}
    others = [each.name for each in sorted(results.iterdir()) if each.is_dir()]
    readme = results / "README.md"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("template.html").render(
        style=(_HERE / "style.css").read_text(),
        colours=_COLOURS,
        outcomes=verdicts.OUTCOMES,
        outcome_colours=_OUTCOME_COLOURS,
        not_measured=verdicts.NOT_MEASURED,
        shown_p=verdicts.shown_p,
        notes_on=verdicts.notes,
        general_rule=verdicts.GENERAL_RULE,
        sections=sections,
        further=[folder_of(results, name, commands) for name in others if name not in in_sections],
        notes=rendered(readme.read_text()) if readme.is_file() else "",
        made=machine(torch.device("cpu")),
    )


def _shown(section: Section, results: Path, commands: dict[str, str]) -> Shown:
    judged = verdicts.decide(results, section.rules)
    return Shown(
        section.heading,
        section.claim,
        judged,
        verdicts.counts(judged.parts),
        [words(rule.judge) for rule in section.rules],
        [folder_of(results, name, commands) for name in section.folders],
        about_claim(results, section) if section.how else "",
    )

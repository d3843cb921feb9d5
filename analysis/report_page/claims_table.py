"""The claims as Markdown tables for README.md and docs/, as the verdict engine judges them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.harness import claims, verdicts
from analysis.harness.methods import MEASURED, OF_CLAIMS
from analysis.harness.speedups import INTERVAL
from analysis.harness.tables import Missing, markdown, read_csv
from analysis.harness.verdicts import Part, Verdict
from analysis.report_page.sections import SUPPORT, Section, claims_as, measured_claims
from analysis.report_page.summaries import origin_of


def claims_table(results: Path, in_brief: bool = False) -> str:
    """Return the table of the claims in every way that they were measured: verdict, deciding
    figures, seeds and, unless in brief, hardware."""
    figures = _IN_BRIEF if in_brief else _FIGURES
    rows = []
    for section in measured_claims(results):
        verdict, folder = verdicts.decide(results, section.rules), section.folders[0]
        figures_of, file = figures[folder.partition("-")[0]], results / folder / "summary.md"
        rows.append(
            {
                "claim": section.title,
                "method": MEASURED[section.how].name,
                "verdict": f"**{verdict.verdict}**",
                "measured (95% interval)": figures_of(verdict, results, folder),
                "n": _num_seeds(verdict, results, folder),
                "hardware": origin_of(file).partition(";")[0] if file.is_file() else "",
            }
        )
    if in_brief:
        rows = [{name: row[name] for name in row if name != "hardware"} for row in rows]
        for before, row in reversed([*itertools.pairwise(rows)]):
            row["claim"] = "" if row["claim"] == before["claim"] else row["claim"]
    return markdown(rows)


def claim_parts(results: Path, number: int) -> str:
    """Return the verdict on the number-th claim and the table of its parts, for each way in which
    it was measured."""
    title = claims_as(OF_CLAIMS)[number - 1].title
    texts = []
    for section in measured_claims(results):
        if section.title == title:
            verdict = verdicts.decide(results, section.rules)
            name, about = MEASURED[section.how].name, about_claim(results, section)
            table = markdown([_row(part) for part in verdict.parts])
            texts.append(f"With {name}: **{verdict.verdict}**.\n\n{table}\n{about}")
    return "\n\n".join(texts)


def _row(part: Part) -> dict[str, str]:
    return {
        "part": part.says,
        "answer": verdicts.OUTCOMES[part.outcome],
        "p (Holm)": verdicts.shown_p(part),
        "measured": "; ".join(text for text in (part.seen, verdicts.notes(part)) if text),
    }


def about_claim(results: Path, section: Section) -> str:
    """Return what the intervals of a claim cover; nothing if it is not measured."""
    try:
        table = read_csv(results, f"{section.folders[0]}/runs.csv", ("seed", "split_seed"))
    except Missing:
        return ""
    return claims.splits_in_words(table)


def support(results: Path) -> str:
    """Return the table of what supports the claims: verdicts, and how their parts are answered."""
    rows = []
    for section, verdict in zip(SUPPORT, _judged(SUPPORT, results), strict=True):
        rows.append(
            {
                "what": section.title,
                "verdict": f"**{verdict.verdict}**",
                "parts": verdicts.counts(verdict.parts),
            }
        )
    return markdown(rows)


def verdicts_table(results: Path) -> str:
    """Return the verdicts on all claims and studies, with links to their tables."""
    rows = []
    for section in (*measured_claims(results), *SUPPORT):
        verdict, folder = verdicts.decide(results, section.rules), section.folders[0]
        is_summed_up = (results / folder / "summary.md").is_file()
        link = f"[tables](results/{folder}/summary.md)" if is_summed_up else ""
        rows.append(
            {
                "what": section.heading,
                "verdict": f"**{verdict.verdict}**",
                "parts": verdicts.counts(verdict.parts),
                "": link,
            }
        )
    return markdown(rows)


def _judged(sections: Sequence[Section], results: Path) -> list[Verdict]:
    return [verdicts.decide(results, section.rules) for section in sections]


def _width(verdict: Verdict, results: Path, folder: str) -> str:
    """Return the figures of claim 1."""
    wide, narrow = (_difference(verdict, says) for says in ("no more than", "better at the rule"))
    return (
        f"d = 256 minus d = 8192, each at the rule's weight: {wide}; d = 64 at the rule's weight "
        f"minus at the weight of 8192: {narrow}"
    )


def _views(verdict: Verdict, results: Path, folder: str) -> str:
    """Return the figures of claim 2."""
    return (
        f"K = 8 minus K = 2, after one epoch: {_difference(verdict, 'K = 8', 'equal epochs')}; "
        f"after as many encoded views: {_difference(verdict, 'K = 8', 'equal encoded views')}; "
        f"after as many seconds: {_difference(verdict, 'K = 8', 'equal seconds')}"
    )


def _subset(verdict: Verdict, results: Path, folder: str) -> str:
    """Return the figures of claim 3."""
    return (
        f"K = 4 on half the images minus K = 2 on all: {_difference(verdict, 'K = 4', 'on all')}; "
        f"K = 8 on a quarter minus K = 2 on all: {_difference(verdict, 'K = 8', 'on all')}"
    )


def _wallclock(verdict: Verdict, results: Path, folder: str) -> str:
    """Return the figures of claim 4: of the recommended recipe against the baseline, and against
    K = 2 with the same projector."""
    (part,) = verdict.parts
    texts = ("times faster", INTERVAL, "by step cost", "fewer views", "recipe")
    try:
        ratios = read_csv(results, f"{folder}/ratios.csv", ("cheaper view",), texts)
    except Missing:
        return part.seen
    to_wide, to_narrow = ratios.iloc[0], ratios.iloc[-1]
    is_measured = part.outcome != "missing"
    return (
        f"{'' if is_measured else 'to a tuned baseline not measured; '}"
        f"{to_wide['recipe']}: {_times(to_wide)}; by step cost {to_wide['by step cost']}, which is "
        f"{to_wide['fewer views']} times fewer views, each {to_wide['cheaper view']:.1f} times "
        f"cheaper; to that of {to_narrow['recipe'].rpartition(' of ')[2]}: {_times(to_narrow)}"
    )


def _views_in_brief(verdict: Verdict, results: Path, folder: str) -> str:
    """Return the figures of claim 2, of what is open the mean alone."""
    epoch, views, seconds = (
        _difference(verdict, "K = 8", f"equal {what}", in_brief=what != "epochs")
        for what in ("epochs", "encoded views", "seconds")
    )
    return f"K = 8 minus K = 2 after one epoch: {epoch}; as many views: {views}; seconds: {seconds}"


def _wallclock_in_brief(verdict: Verdict, results: Path, folder: str) -> str:
    """Return of claim 4 the seconds of the recommended recipe against the baseline's alone."""
    figures = _wallclock(verdict, results, folder).partition("; by step cost")[0]
    return figures.replace(", to the accuracy of baseline, tuned:", " against")


_FIGURES = {"projector": _width, "views": _views, "subset": _subset, "wallclock": _wallclock}
_IN_BRIEF = _FIGURES | {"views": _views_in_brief, "wallclock": _wallclock_in_brief}


def _times(ratio: pd.Series) -> str:
    sooner, seeds = ratio["times faster"] or "?", ratio[INTERVAL] or "no interval"
    if sooner.startswith(">= "):
        sooner, seeds = f"at least {sooner[3:]}", seeds.partition(" (")[0]
        return f"{sooner} times sooner (lowest seed {seeds})"
    return f"{sooner} times sooner ({seeds})"


def _num_seeds(verdict: Verdict, results: Path, folder: str) -> int:
    """Return over how many seeds the figures are."""
    counts = [part.mean.n for part in verdict.parts if part.mean is not None]
    try:
        of_runs = read_csv(results, f"{folder}/runs.csv", ("seed",))["seed"].nunique()
    except Missing:
        return 0
    return min(counts, default=of_runs)


def _difference(verdict: Verdict, *words: str, in_brief: bool = False) -> str:
    """Return the difference in points in the part that has these words; in brief without the
    interval of one that is open."""
    parts = [part for part in verdict.parts if all(word in part.says for word in words)]
    if not parts or parts[0].mean is None:
        return "not measured"
    mean, outcome = parts[0].mean, parts[0].outcome
    shown = f"{mean.mean:+.1f}"
    if mean.n > 1 and not (in_brief and outcome == "open"):
        shown += f" ({mean.low:+.1f} to {mean.high:+.1f})"
    return shown if outcome == "yes" else f"{shown}, {verdicts.OUTCOMES[outcome]}"

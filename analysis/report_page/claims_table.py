"""The claims as Markdown tables for README.md and docs/, as the verdict engine judges them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.harness import claim_rules, verdicts
from analysis.harness.methods import RULES
from analysis.harness.speedups import Speedup, speedup
from analysis.harness.tables import markdown
from analysis.harness.verdicts import Verdict, only
from analysis.report_page.sections import CLAIMS, SUPPORT, Section
from analysis.report_page.summaries import origin_of


def claims(results: Path) -> str:
    """Return the table of the four claims: verdict, deciding figures, seeds, hardware."""
    folders = {"projector": _width, "views": _views, "subset": _subset, "wallclock": _wallclock}
    rows = []
    for verdict, section, (folder, figures) in zip(
        _judged(CLAIMS, results), CLAIMS, folders.items(), strict=True
    ):
        cell, num_seeds = figures(verdict, results)
        rows.append(
            {
                "claim": section.title,
                "verdict": f"**{verdict.verdict}**",
                "measured (95% interval)": cell,
                "n": num_seeds,
                "hardware": origin_of(results / folder / "summary.md").partition(";")[0],
            }
        )
    return markdown(rows)


def claim_parts(results: Path, number: int) -> str:
    """Return the verdict on the number-th claim and the table of its parts."""
    (verdict,) = _judged(CLAIMS[number - 1 : number], results)
    rows = [
        {"part": part.says, "answer": verdicts.OUTCOMES[part.outcome], "measured": part.seen}
        for part in verdict.parts
    ]
    return f"Verdict: **{verdict.verdict}**.\n\n{markdown(rows)}"


def support(results: Path) -> str:
    """Return the table of what supports the claims: verdicts, and how their parts are answered."""
    rows = []
    for section, verdict in zip(SUPPORT, _judged(SUPPORT, results), strict=True):
        outcomes = [part.outcome for part in verdict.parts]
        counts = [
            f"{outcomes.count(outcome)} {shown}"
            for outcome, shown in verdicts.OUTCOMES.items()
            if outcome in outcomes
        ]
        rows.append(
            {
                "what": section.title,
                "verdict": f"**{verdict.verdict}**",
                "parts": ", ".join(counts),
            }
        )
    return markdown(rows)


def _judged(sections: Sequence[Section], results: Path) -> list[Verdict]:
    return [verdicts.decide(results, section.rules) for section in sections]


def _width(verdict: Verdict, results: Path) -> tuple[str, int]:
    """Return the figures of claim 1, and over how many seeds they are."""
    rows, rule = only(claim_rules.WIDTH.read(results), method="barlow_twins"), RULES["barlow_twins"]
    at_rule = rows[(rows["weight"] * rows["dim"] - rule).abs() < 0.02 * rule]
    seconds = at_rule.groupby("dim")["seconds"].mean()
    cell = (
        f"d = 256 minus d = 8192, each at the rule's weight: "
        f"{_difference(verdict, 'no more than')}, in "
        f"{seconds[256]:.0f} s, not {seconds[8192]:.0f} s; d = 64 at the "
        f"rule's weight minus at the weight of 8192: {_difference(verdict, 'better at the rule')}"
    )
    return cell, _num_seeds(verdict)


def _views(verdict: Verdict, results: Path) -> tuple[str, int]:
    """Return the figures of claim 2, and over how many seeds they are."""
    cell = (
        f"K = 8 minus K = 2, after one epoch: {_difference(verdict, 'K = 8', 'equal epochs')}; "
        f"after as many encoded views: {_difference(verdict, 'K = 8', 'equal encoded views')}"
    )
    return cell, _num_seeds(verdict)


def _subset(verdict: Verdict, results: Path) -> tuple[str, int]:
    """Return the figures of claim 3, and over how many seeds they are."""
    two = only(claim_rules.SUBSET.read(results), views=2).groupby("part")["linear"].mean()
    cell = (
        f"K = 4 on half the images minus K = 2 on all: {_difference(verdict, 'K = 4', 'on all')}; "
        f"minus K = 2 on that half: {_difference(verdict, 'K = 4', 'better')}; "
        f"K = 8 on a quarter minus K = 2 on all: {_difference(verdict, 'K = 8', 'on all')}; "
        f"but K = 2 has {two[0.25]:.1%} on a quarter and {two[1.0]:.1%} on all"
    )
    return cell, _num_seeds(verdict)


def _wallclock(verdict: Verdict, results: Path) -> tuple[str, int]:
    """Return the figures of claim 4, and over how many seeds they are."""
    rows = claim_rules.WALLCLOCK.read(results)
    rows = rows[rows["name"].str.contains(r"_e\d+_s\d+$")]  # others have further flags
    four, two = (only(rows, views=views, dim=256) for views in (4, 2))
    lengths = four["epochs"].nunique()
    longest = only(two, epochs=two["epochs"].max())
    to_wide = speedup(four, only(rows, views=2, dim=8192), lengths=lengths)
    to_narrow = speedup(four, longest, lengths=lengths)
    cell = (
        f"K = 4, d = 256 has the accuracy of K = 2, d = 8192: {_ratio(to_wide)}; "
        f"that of K = 2, d = 256: {_ratio(to_narrow)}"
    )
    assert to_wide.log2_ratio is not None
    return cell, to_wide.log2_ratio.n


def _difference(verdict: Verdict, *words: str) -> str:
    """Return the difference in points in the part that has these words."""
    (part,) = [part for part in verdict.parts if all(word in part.says for word in words)]
    mean = part.mean
    assert mean is not None
    return f"{mean.mean:+.1f} ({mean.low:+.1f} to {mean.high:+.1f}){_unless_yes(part.outcome)}"


def _num_seeds(verdict: Verdict) -> int:
    return min(part.mean.n for part in verdict.parts if part.mean is not None)


def _ratio(faster: Speedup) -> str:
    mean, low, high = faster.ratio
    sign = {"at least": ">= ", "at most": "<= ", "about": "about ", "": ""}[faster.bound]
    outcome = _unless_yes(faster.outcome(claim_rules.FACTOR))
    return f"{sign}{mean:.1f} times sooner ({low:.1f} to {high:.1f}){outcome}"


def _unless_yes(outcome: str) -> str:
    return "" if outcome == "yes" else f", {verdicts.OUTCOMES[outcome]}"

"""One page from the committed results: each claim with its verdict, the data and hardware, tables, figures, commands.

python analysis/report.py                          # analysis/results -> report.html
python analysis/report.py --results DIR --to PAGE

The page is one HTML file that holds its pictures and asks no network. Verdicts are computed from the CSVs by the rules
in claim_rules.py and support_rules.py, which the page quotes; of results that are not there it says so, with the
command.
"""

from __future__ import annotations

import argparse
import base64
import functools
import inspect
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import experiments
import torch
import verdicts
import yaml
from report_sections import ALT, ALT_IMAGES, CLAIMS, COMMANDS, DATA, SUPPORT, Section
from verdicts import Verdict

from effssl import InputError
from effssl.run.folder import machine, write_text

HERE = Path(__file__).parent
COLOURS = {verdicts.HOLDS: "holds", verdicts.IN_PART: "part", verdicts.DOES_NOT: "not"}
OUTCOMES = {"yes": ("yes", "holds"), "no": ("no", "not"), "open": ("open", "open"), "missing": ("not measured", "open")}


def main(argv: list[str] | None = None) -> int:
    parser = experiments.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the committed results")
    parser.add_argument("--to", type=Path, default=Path("report.html"), help="the page")
    args = parser.parse_args(argv)
    try:
        if not args.results.is_dir():
            raise InputError(f"--results {args.results} is not a folder")
        write_text(args.to, page(args.results))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(args.to)
    return 0


def page(results: Path) -> str:
    """The HTML page of the folder `results`. Raises InputError for results that cannot be read."""
    noted = _noted(results)
    shown = {folder for section in (*CLAIMS, *SUPPORT) for folder in section.folders}
    claims = [(section, verdicts.decide(results, section.judges)) for section in CLAIMS]
    support = [(section, verdicts.decide(results, section.judges)) for section in SUPPORT]
    further = [each for each in sorted(results.iterdir()) if each.is_dir() and each.name not in shown]
    made = machine(torch.device("cpu"))
    body = [
        "<h1>effssl: the claims, measured</h1>",
        "<p>Self-supervised pretraining with more views of every image and a small, orthogonal projector "
        '(<a href="https://arxiv.org/abs/2312.10725">arXiv 2312.10725</a>): what of it shows, on which data and '
        "hardware, and the command that repeats it. Every verdict is computed from the runs by the rule quoted beside "
        "it; a claim that does not show at this scale is said not to.</p>",
        _overview([*claims, *support]),
        *(_section(i, *each, results, noted) for i, each in enumerate(claims, 1)),
        *(_section(i, *each, results, noted) for i, each in enumerate(support, len(claims) + 1)),
    ]
    body += [_further(each, noted) for each in further]
    if (readme := results / "README.md").is_file():
        notes = _markdown().render(readme.read_text())
        body.append(f"<section>\n<h2>About these measurements</h2>\n{notes}</section>")
    body.append(
        f'<p class="soft">Made {made["finished"]} from commit {escape(str(made["versions"]["commit"]))} '
        "by <code>python analysis/report.py</code>. Accuracies are of linear probes on the validation split, but where "
        "a table says test.</p>"
    )
    return PAGE.format(style=(HERE / "report.css").read_text(), body="\n".join(body))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>effssl: the claims, measured</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _overview(judged: Sequence[tuple[Section, Verdict]]) -> str:
    rows = [
        [f'{i}. <a href="#s{i}">{escape(section.title)}</a>', _badge(verdict.verdict), _said(verdict)]
        for i, (section, verdict) in enumerate(judged, 1)
    ]
    return _table(["claim", "verdict", "parts"], rows, "verdicts", "parts")


def _said(verdict: Verdict) -> str:
    counts = {outcome: sum(part.outcome == outcome for part in verdict.parts) for outcome in OUTCOMES}
    return ", ".join(f"{count} {OUTCOMES[outcome][0]}" for outcome, count in counts.items() if count)


def _badge(verdict: str) -> str:
    return f'<span class="verdict {COLOURS.get(verdict, "open")}">{escape(verdict)}</span>'


def _section(number: int, section: Section, verdict: Verdict, results: Path, noted: dict[str, str]) -> str:
    parts = [
        [
            escape(part.says),
            f'<span class="{OUTCOMES[part.outcome][1]}">{OUTCOMES[part.outcome][0]}</span>',
            escape(part.seen),
        ]
        for part in verdict.parts
    ]
    rules = "".join(f"<p>{escape(' '.join((inspect.getdoc(judge) or '').split()))}</p>" for judge in section.judges)
    general = escape(" ".join((inspect.getdoc(verdicts) or "").partition("\n\n")[2].split()))
    return "\n".join(
        [
            f'<section id="s{number}">',
            f"<h2>{number}. {escape(section.title)}</h2>",
            f'<p class="claim">{escape(section.claim)}</p>',
            f'<p>{_badge(verdict.verdict)} <span class="soft">({_said(verdict)})</span></p>',
            _table(["part", "answer", "seen"], parts, f"parts of claim {number}", "parts"),
            f"<details><summary>How it is judged</summary>{rules}<p>{general}</p></details>",
            *(_results(results / folder, noted) for folder in section.folders),
            "</section>",
        ]
    )


def _further(folder: Path, noted: dict[str, str]) -> str:
    return f"<section>\n<h2>Further: {escape(folder.name)}</h2>\n{_results(folder, noted)}\n</section>"


def _results(folder: Path, noted: dict[str, str]) -> str:
    """What a folder of results says and shows."""
    name = folder.name
    command = noted.get(name) or COMMANDS.get(name, "")
    repeat = f"<p>Repeat it:</p><pre><code>{escape(command)}</code></pre>" if command else ""
    heading = f"<h3>Results: {escape(name)}</h3>"
    if not folder.is_dir():
        return f"{heading}\n<p>{_badge(verdicts.NOT_MEASURED)}</p>\n{repeat}"
    origin, text = _text(folder)
    pictures = [_picture(file, name) for file in sorted(folder.glob("*.png"))]
    data = _data(folder) or DATA.get(name, "")
    about = ". ".join(escape(each) for each in (data, origin) if each)
    about = f'<p class="soft">Measured on: {about}.</p>' if about else ""
    return "\n".join([heading, about, *pictures, text, repeat])


def _data(folder: Path) -> str:
    """The image sets that a folder of results names."""
    if (folder / "config.yaml").is_file():
        return str(yaml.safe_load((folder / "config.yaml").read_text())["data"])
    try:
        rows = verdicts.read(folder.parent, f"{folder.name}/runs.csv", (), ("data",))
    except verdicts.Missing:
        return ""
    return ", ".join(sorted({row["data"] for row in rows}))


def _text(folder: Path) -> tuple[str, str]:
    """Where the measurements of a folder come from, and its tables as HTML."""
    if (folder / "result.json").is_file():
        result = verdicts.read_json(folder / "result.json")
        table, evaluated = _run_table(result), folder / "comparison.md"  # the latter of effssl.evaluate --to
        if evaluated.is_file():
            table += f"<p>All protocols, %, and measures without labels:</p>{_rendered(evaluated.read_text())}"
        return experiments.provenance([result]), table
    paragraphs = [part for file in sorted(folder.glob("*.md")) for part in file.read_text().split("\n\n")]
    origins = [part.strip() for part in paragraphs if "; torch " in part and "|" not in part]
    rest = "\n\n".join(part for part in paragraphs if part.strip() not in origins[:1])
    return " ".join(origins[:1]).replace("`", ""), _rendered(rest)


def _rendered(markdown: str) -> str:
    return _markdown().render(markdown.replace(" +- ", " ± "))


def _run_table(result: dict[str, Any]) -> str:
    final = result["final"]
    few = f"linear, {final.get('few_labels')} labels a class"
    rows = []
    for row, a in final["rows"].items():
        spread = f"{100 * a['few_labels']:.1f} ± {100 * a['few_labels_std']:.1f}"
        rows.append([escape(row), f"{100 * a['linear']:.1f}", spread, f"{100 * a['knn']:.1f}"])
    cost = f"{result['seconds']:,.0f} s of training, {result['encoded_views']:,} encoded views, one seed. "
    about = f"<p>{cost}Accuracy on the {escape(str(final['split']))} split, %:</p>"
    return about + _table(["", "linear, all labels", few, "kNN"], rows, "accuracies")


def _picture(file: Path, folder: str) -> str:
    alt = (
        ALT.get(file.name, f"{file.stem} of {folder}") if file.name != "views.png" or folder == "views" else ALT_IMAGES
    )
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(alt)}</figcaption></figure>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], label: str, kind: str = "") -> str:
    """Of cells in HTML, in a box that it scrolls in."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'{_box(label)}<table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>'


def _box(label: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'


def _noted(results: Path) -> dict[str, str]:
    """folder -> command, from the table in the README of the results."""
    file = results / "README.md"
    lines = file.read_text().splitlines() if file.is_file() else []
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].rstrip("/"): row[1] for row in rows if len(row) > 1}


@functools.cache
def _markdown():
    """Tables in boxes, headings below those of the page, no raw HTML and no pictures from elsewhere."""
    try:
        from markdown_it import MarkdownIt
    except ModuleNotFoundError:
        raise InputError("the page needs markdown-it-py: pip install -e '.[analysis]'") from None
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

    def demoted(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        token.tag = f"h{min(6, int(token.tag[1]) + 3)}"
        return self.renderToken(tokens, index, options, env)

    made.add_render_rule("heading_open", demoted)
    made.add_render_rule("heading_close", demoted)

    def cell(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        # A number with its deviation stays on one line, a sentence gets room.
        tokens[index].attrSet("class", "short" if len(tokens[index + 1].content) <= 24 else "long")
        return self.renderToken(tokens, index, options, env)

    made.add_render_rule("td_open", cell)
    made.add_render_rule("table_open", lambda *_: f"{_box('results')}<table>")
    made.add_render_rule("table_close", lambda *_: "</table></div>")
    return made


if __name__ == "__main__":
    sys.exit(main())

"""What the page shows of a folder of results: where it was measured, its pictures, tables and
command."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from analysis.harness import runs
from analysis.harness.tables import Missing, read_csv, read_json
from analysis.report_page.markdown import rendered
from analysis.report_page.sections import ALT, ALT_IMAGES, COMMANDS, DATA


class Picture(NamedTuple):
    data: str  # the .png in base64
    alt: str


class RunTable(NamedTuple):
    """The final table of a single run, and what the run cost."""

    cost: str
    split: str
    header: list[str]
    rows: list[list[str]]


class Folder(NamedTuple):
    """One folder of results. text: HTML that Markdown rendered."""

    name: str
    is_there: bool
    command: str
    about: str = ""
    pictures: tuple[Picture, ...] = ()
    run: RunTable | None = None
    text: str = ""


def folder_of(results: Path, name: str, commands: Mapping[str, str]) -> Folder:
    """Return what is shown of results/name. commands: those noted in the README of the results.
    Raises InputError for files that cannot be read."""
    folder, command = results / name, commands.get(name) or COMMANDS.get(name, "")
    if not folder.is_dir():
        return Folder(name, False, command)
    pictures = tuple(_picture(file, name) for file in sorted(folder.glob("*.png")))
    run = None
    if (folder / "result.json").is_file():
        result = read_json(folder / "result.json")
        run, origin, text = _run_table(result), runs.origin([result]), _evaluated(folder)
    else:
        origin, text = _summaries(folder)
    about = ". ".join(each for each in (_data(folder) or DATA.get(name, ""), origin) if each)
    return Folder(name, True, command, about, pictures, run, text)


def noted_commands(results: Path) -> dict[str, str]:
    """Return folder -> command, from the table in the README of the results."""
    file = results / "README.md"
    lines = file.read_text().splitlines() if file.is_file() else []
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| `")]
    cells = [[cell.strip(" `") for cell in row] for row in rows]
    return {row[0].rstrip("/"): row[1] for row in cells if len(row) > 1}


def _data(folder: Path) -> str:
    """Return the image sets that a folder of results names."""
    if (folder / "config.yaml").is_file():
        return str(yaml.safe_load((folder / "config.yaml").read_text())["data"])
    try:
        rows = read_csv(folder.parent, f"{folder.name}/runs.csv", (), ("data",))
    except Missing:
        return ""
    return ", ".join(sorted(set(rows["data"])))


def _summaries(folder: Path) -> tuple[str, str]:
    """Return where the measurements come from, and the folder's other words and tables as HTML."""
    files = sorted(folder.glob("*.md"))
    paragraphs = [part for file in files for part in file.read_text().split("\n\n")]
    origins = [p.strip() for p in paragraphs if "; torch " in p and "|" not in p][:1]
    rest = "\n\n".join(part for part in paragraphs if part.strip() not in origins)
    return " ".join(origins).replace("`", ""), _with_signs(rest)


def _evaluated(folder: Path) -> str:
    """Return the table that effssl.evaluate --to wrote beside a run, as HTML."""
    file = folder / "comparison.md"
    if not file.is_file():
        return ""
    title = "<p>All protocols, %, and measures without labels:</p>"
    return f"{title}{_with_signs(file.read_text())}"


def _with_signs(markdown: str) -> str:
    return rendered(markdown.replace(" +- ", " ± "))


def _run_table(result: dict[str, Any]) -> RunTable:
    final = result["final"]
    rows = []
    for name, row in final["rows"].items():
        few = f"{100 * row['few_labels']:.1f} ± {100 * row['few_labels_std']:.1f}"
        rows.append([name, f"{100 * row['linear']:.1f}", few, f"{100 * row['knn']:.1f}"])
    seconds, views = f"{result['seconds']:,.0f}", f"{result['encoded_views']:,}"
    cost = f"{seconds} s of training, {views} encoded views, one seed."
    few_labels = f"linear, {final.get('few_labels')} labels a class"
    header = ["", "linear, all labels", few_labels, "kNN"]
    return RunTable(cost, str(final["split"]), header, rows)


def _picture(file: Path, folder: str) -> Picture:
    is_of_images = file.name == "views.png" and folder != "views"
    alt = ALT_IMAGES if is_of_images else ALT.get(file.name, f"{file.stem} of {folder}")
    return Picture(base64.b64encode(file.read_bytes()).decode(), alt)

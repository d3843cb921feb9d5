"""The documents: links, anchors, commands and flags that are named there exist."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import get_args

import pytest

from effssl.__main__ import JOBS, main
from effssl.ranges import SetName

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *PAGES,
    *sorted((ROOT / "analysis").glob("*.md")),
    *sorted((ROOT / "analysis" / "results").glob("*.md")),
]
# Flags that no job lists: read before the others, those of torchrun, and those of analysis/
NOT_LISTED = {
    *("--config", "--resume", "--help", "--nproc-per-node", "--nnodes", "--max-restarts"),
    *("--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"),
    *("--preset", "--seconds", "--records", "--save-records"),
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as they are made of the words."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def code(text: str) -> list[str]:
    """Return the lines of code blocks, continued lines joined, and what stands in backticks."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0] for line in lines] + re.findall(r"`([^`\n]+)`", text)


@pytest.fixture(scope="module")
def flags_of():
    """Return the flags of every job, as its --help names them."""
    flags = {}
    for job in JOBS:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
            main([job, "--help"])
        flags[job] = set(re.findall(r"--[a-z0-9][a-z0-9-]*", shown.getvalue()))
    return flags


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for is_image, words, target in LINK.findall(document.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        to = document.parent / path if path else document
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target
        assert words.strip() or not is_image, f"{target} has no text for those who cannot see it"


def test_every_image_set_has_its_row():
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {*get_args(SetName)} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_are_there(document):
    for line in code(document.read_text()):
        for script in re.findall(r"python ([\w/]+\.py)\b", line):
            assert (ROOT / script).is_file(), line
        for module in re.findall(r"-m ((?:effssl|analysis)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            assert (
                path.is_dir() or path.with_suffix(".py").is_file() or path.name in ("JOB", "NAME")
            ), line
        for job in re.findall(r"^effssl (\w+)", line.strip()):
            assert job in (*JOBS, "JOB"), line
        for config in re.findall(r"\bconfigs/[\w/]+\.yaml", line):
            assert (ROOT / config).is_file(), line


@pytest.mark.parametrize("document", [ROOT / "CONTRIBUTING.md", *PAGES], ids=name_of)
def test_modules_are_there(document):
    for module in re.findall(r"`([\w/]+\.py)`", document.read_text()):
        assert (ROOT / module).is_file() or (ROOT / "effssl" / module).is_file(), module


@pytest.mark.parametrize("document", [ROOT / "README.md", *PAGES], ids=name_of)
def test_flags_are_there(document, flags_of):
    every_flag = set().union(*flags_of.values())
    for line in code(document.read_text()):
        flags = set(re.findall(r"(?<!\S)--[a-z0-9-]+", line)) - NOT_LISTED
        if job := re.search(r"^effssl (\w+) |-m effssl\.(\w+) ", line.strip()):
            assert flags <= flags_of[job[1] or job[2]], line
        elif line.startswith("--"):
            assert flags <= every_flag, line


def test_the_site_has_every_page():
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    build(config)
    page = (tmp_path / "site" / "claims.html").read_text()
    assert 'src="analysis/results/wallclock/wallclock.png"' in page
    assert (tmp_path / "site" / "analysis" / "results" / "wallclock" / "wallclock.png").is_file()
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page)
    assert loaded == []  # nothing comes from elsewhere

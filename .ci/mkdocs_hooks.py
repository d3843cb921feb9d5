"""What the site needs of files outside docs/: the committed pictures, and no links to the rest.

The pages link to the repository as it lies, such as `../analysis/results/views/views.png`, so that
they can be read there too.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pictures of analysis/results."""
    for picture in sorted((ROOT / "analysis" / "results").rglob("*.png")):
        name = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point pictures to where `on_files` puts them; keep only the words of links to other files."""
    markdown = re.sub(r"\]\(\.\./(analysis/results/[^)]+\.png)\)", r"](\1)", markdown)
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)

"""Markdown of the results -> HTML: tables in boxes, headings below those of the page, no raw HTML
and no pictures from elsewhere."""

from __future__ import annotations

import functools
from typing import Any

from markdown_it import MarkdownIt


def rendered(markdown: str) -> str:
    """Return the HTML."""
    return _renderer().render(markdown)


@functools.cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

    def demoted(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        token.tag = f"h{min(6, int(token.tag[1]) + 3)}"
        return self.renderToken(tokens, index, options, env)

    def cell(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        # A number with its deviation stays on one line, a sentence gets room.
        is_short = len(tokens[index + 1].content) <= 24
        tokens[index].attrSet("class", "short" if is_short else "long")
        return self.renderToken(tokens, index, options, env)

    box = '<div class="scroll" tabindex="0" role="region" aria-label="results">'
    renderer.add_render_rule("heading_open", demoted)
    renderer.add_render_rule("heading_close", demoted)
    renderer.add_render_rule("td_open", cell)
    renderer.add_render_rule("table_open", lambda *_: f"{box}<table>")
    renderer.add_render_rule("table_close", lambda *_: "</table></div>")
    return renderer

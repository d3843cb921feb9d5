"""Studies without their pictures, where a test is about their tables."""

from __future__ import annotations

import pytest


@pytest.fixture
def empty_pictures(monkeypatch):
    """Let studies of the claims, and the race, write empty files for pictures: a figure's texts
    take a second to draw. test_claims.py and test_race.py draw one of each."""
    from analysis import race
    from analysis.harness import claims

    for module in (claims, race):
        monkeypatch.setattr(module, "write_picture", lambda path, *_, **__: path.touch())

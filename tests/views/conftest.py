"""Pictures are drawn in full by tests/run/test_records.py, and by a run in tests/test_wheel.py."""

from __future__ import annotations

import pytest

from tests.conftest import dots_for_pictures


@pytest.fixture(scope="package", autouse=True)
def _dots():
    with dots_for_pictures():
        yield

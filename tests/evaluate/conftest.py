"""Runs and evaluations without what most of their time goes to, and hardly a test here is about.

Pictures of runs are drawn in full by tests/run/test_records.py and by a run in tests/test_wheel.py,
evaluation.png by the first test of test_run.py; tests/evaluation/test_final_table.py makes all five
draws of few labels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from effssl.evaluate import report
from effssl.evaluation import protocols
from effssl.run import pictures
from tests.conftest import dots_for_pictures


@pytest.fixture(scope="package", autouse=True)
def _dots():
    def draw(path: Path, *_: object, **__: object) -> None:
        pictures.save(Figure(figsize=(0.1, 0.1)), path)

    with dots_for_pictures(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "save_evaluation", draw)
        patch.setattr(protocols, "FEW_LABEL_DRAWS", 2)  # one has no deviation
        yield

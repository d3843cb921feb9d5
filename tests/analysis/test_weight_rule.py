import csv
import itertools
import subprocess
import sys

import pandas as pd
import pytest

from analysis import weight_rule
from tests.analysis.made_runs import trained_here

TINY = [
    *(
        "--data",
        "digits",
        "--image-size",
        "8",
        "--fraction",
        "0.2",
        "--epochs",
        "1",
        "--precision",
        "fp32",
    ),
    *(
        "--backbone-kwargs",
        "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}",
        "--probe-every",
        "0",
    ),
]


@pytest.mark.slow
def test_the_weight_rule_trains_what_is_missing_and_reads_what_is_there(digits_dir, tmp_path):
    flags = [
        "--data-dir",
        str(digits_dir),
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    flags += ["--widths", "16", "--products", "4", "--methods", "vicreg"]
    command = [sys.executable, weight_rule.__file__, *flags, "--", *TINY]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    result = tmp_path / "runs" / "vicreg_d16_wd4_s0" / "result.json"
    before = result.stat().st_mtime_ns
    with trained_here():
        assert weight_rule.main([*flags, "barlow_twins", "--", *TINY]) == 0
    assert result.stat().st_mtime_ns == before
    rows = list(csv.DictReader((tmp_path / "out" / "runs.csv").open()))
    assert [(r["method"], r["dim"], r["product"]) for r in rows] == [
        ("barlow_twins", "16", "4.0"),
        ("vicreg", "16", "4.0"),
    ]
    assert [float(r["weight"]) for r in rows] == [4 / 16, 4 / 16]
    assert (tmp_path / "out" / "weight_rule.png").stat().st_size > 10_000


def test_the_summary_marks_the_best_weight_of_every_width():
    rows = [
        {
            "method": "vicreg",
            "dim": 64,
            "product": p,
            "seed": s,
            "linear": 0.5 + 0.1 * (p == 4) + 0.01 * s,
        }
        for p, s in itertools.product((1, 4), (0, 1))
    ]
    assert weight_rule.summary(pd.DataFrame(rows)) == [
        {"method": "VICReg", "d": 64, "w d = 1": "50.5", "w d = 4": "**60.5**"}
    ]

"""Which runs of a table have the rule's decorrelation weight."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.harness.methods import RULES


def with_rule(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["method"].isin(list(RULES))]


def at_rule(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[close(rows["weight"] * rows["dim"], rows["method"].map(RULES), 0.02)]


def close(ours: pd.Series, others: pd.Series | float, relative: float) -> pd.Series:
    """Return whether two numbers differ by at most a part `relative` of the larger one."""
    return (ours - others).abs() <= relative * np.maximum(np.abs(ours), np.abs(others))

"""Where a run's numbers go beside metrics.jsonl and TensorBoard: what `--log-to` names.

Each tracker is a class of `log` and `close`, and imports its package when it is opened. Without an
account or a server both packages write into the run's folder, and wait for nothing.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from effssl import InputError
from effssl.run.files import write_text

Values = dict[str, float]


class Tracker(Protocol):
    """Something that keeps numbers by step."""

    def log(self, kind: str, values: Values, step: int) -> None:
        """Keep the numbers of a record of this kind: train or probe."""

    def close(self) -> None:
        """Finish what is on its way."""


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise InputError for a tracker whose package is not installed."""
    for name in names:
        if name != "csv" and importlib.util.find_spec(name) is None:
            raise InputError(f"--log-to {name} needs its package: pip install -e '.[{name}]'")


def open_tracker(name: str, folder: Path, settings: dict[str, Any]) -> Tracker:
    """Open the tracker of this name for a run; one that goes on goes on in it too.

    Raises whatever its package does, if that reaches no server, for example.
    """
    kinds: dict[str, Callable[[Path, dict[str, Any]], Tracker]]
    kinds = {"csv": Csv, "wandb": Wandb, "mlflow": Mlflow}
    return kinds[name](folder, settings)


class Csv:
    """train.csv and probe.csv in the run's folder, a row a record."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._folder = folder
        self._columns: dict[str, list[str]] = {}

    def log(self, kind: str, values: Values, step: int) -> None:
        file, row = self._folder / f"{kind}.csv", {"step": step} | values
        if not row.keys() <= set(self._columns.get(kind, ())):  # at first, and for a new column
            self._columns[kind] = self._rewritten(file, row)
        with file.open("a") as out:
            out.write(_line(row.get(name, "") for name in self._columns[kind]))

    def _rewritten(self, file: Path, row: dict[str, Any]) -> list[str]:
        """Write the rows of earlier steps again, with the new row's columns; returns these."""
        before = list(csv.DictReader(file.open())) if file.is_file() else []
        kept = [each for each in before if int(each["step"]) < row["step"]]
        columns = list(dict.fromkeys([*(before[0] if before else ()), *row]))
        rows = [_line(each.get(name, "") for name in columns) for each in kept]
        write_text(file, "".join([_line(columns), *rows]))
        return columns

    def close(self) -> None: ...


class Wandb:
    """Weights & Biases: offline, in RUN/wandb, unless its key or WANDB_MODE say otherwise."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        import wandb

        has_key = bool(wandb.api.api_key)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "effssl"),
            name=folder.resolve().name,
            id=_id_of(folder / "wandb-id"),
            resume="allow",
            dir=folder,
            config=settings,
            mode=os.environ.get("WANDB_MODE") or ("online" if has_key else "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, kind: str, values: Values, step: int) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow: in RUN/mlflow.db, unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        import mlflow

        where = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve()}/mlflow.db")
        self._client = mlflow.MlflowClient(where)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "effssl")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        file = folder / "mlflow-id"
        if file.is_file():
            self._id = file.read_text()
            return
        run = self._client.create_run(experiment, run_name=folder.resolve().name)
        self._id = run.info.run_id
        write_text(file, self._id)
        for key, value in settings.items():
            self._client.log_param(self._id, key, str(value)[:500])

    def log(self, kind: str, values: Values, step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, f"{kind}/{name}", value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _id_of(file: Path) -> str:
    """Return the id that a file holds, which is made at the first call."""
    if not file.is_file():
        write_text(file, uuid.uuid4().hex[:12])
    return file.read_text()


def _line(values: Any) -> str:
    return ",".join(map(str, values)) + "\n"

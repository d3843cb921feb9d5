"""Records: finished runs as lines of JSON, all that the tables need of them without their weights.

A file holds one set of runs, a line each:

    {"kind": "run", "name": ..., "config": ..., "result": ..., "metrics": [...]}

with what the run's folder has in files of these names, of its metrics the probes alone, each with
the loss of the last training step that was logged before it, and `linear_all_labels` if subset.py
measured that; and a line of kind "step_cost" for each measurement of steps by wallclock.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from effssl import InputError
from effssl.data.stored import OWN_SETS
from effssl.run.files import check_writable, write_text
from effssl.run.log import read_metrics

Record = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "records"
_ANYWHERE = {"data_dir": "data", "beton_dir": None}  # a record names no folder of its machine


def file_of(args: argparse.Namespace) -> Path:
    """Return the file of records that --records names, or that of the preset."""
    return args.records or FOLDER / f"claims-{args.preset}.jsonl"


def known(args: argparse.Namespace, file: Path) -> dict[str, Record]:
    """Return the records of `file`, which need not be there unless --records names it, nor if
    --save-records writes it; of a set of a user's own only if --records names it, as all of these
    have one name. Raises InputError for a file that cannot be read, or not written."""
    if args.save_records:
        check_writable(file.parent, f"--records {file}")
    may_be_missing = args.records is None or args.save_records
    found = {} if may_be_missing and not file.exists() else read(file)
    return {name: r for name, r in found.items() if args.records or not _of_own_set(r)}


def _of_own_set(record: Record) -> bool:
    return record.get("config", {}).get("data") in OWN_SETS


def read(file: Path) -> dict[str, Record]:
    """Return the records of a file by name. Raises InputError for one that is not there or
    damaged."""
    records = {}
    try:
        for line in file.read_text().splitlines():
            record = json.loads(line)
            records[record["name"]] = record
    except OSError as error:
        raise InputError(f"--records {file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"--records {file} does not hold a record in each line") from None
    return records


def save(file: Path, records: Iterable[Record]) -> None:
    """Put records into a file, in place of those of the same name; sorted by name, of what was
    logged between probes the last loss alone, as no table needs more. Raises InputError for what is
    not a file."""
    if file.exists() and not file.is_file():
        raise InputError(f"--records {file} is not a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        kept = read(file) if file.is_file() else {}
        kept |= {record["name"]: _short(record) for record in records}
        lines = [json.dumps(kept[name], separators=(",", ":")) for name in sorted(kept)]
        write_text(file, "".join(f"{line}\n" for line in lines))


def _short(record: Record) -> Record:
    if "metrics" not in record:
        return record
    probes: list[Record] = []
    loss: Record = {}
    for metric in record["metrics"]:
        loss = {"loss": metric["loss"]} if "loss" in metric else loss
        if metric["kind"] == "probe":
            probes.append(metric | loss)
    return record | {"metrics": probes}


def of_folder(run: Path) -> Record:
    """Return the record of a finished run."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    record: Record = {
        "kind": "run",
        "name": run.name,
        "config": config | _ANYWHERE,
        "result": json.loads((run / "result.json").read_text()),
    }
    if (file := run / "linear_all_labels.json").is_file():
        record["linear_all_labels"] = json.loads(file.read_text())
    return record | {"metrics": read_metrics(run)}

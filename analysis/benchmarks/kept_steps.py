"""Costs of a training step that are measured once and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from analysis.benchmarks import step
from analysis.harness.runs import changed
from effssl.cli import RESUME_MAY_CHANGE
from effssl.config import Config, flat
from effssl.run.files import write_json
from effssl.run.provenance import machine

# Settings that make no other step.
_IGNORED = {*RESUME_MAY_CHANGE, "epochs", "warmup_epochs", "lr", "seed", "split_seed"}
_IGNORED |= {"redundancy_weight", "cov_weight", "inv_weight", "var_weight"}


def kept_or_measured(
    configs: dict[str, Config],
    file: Path,
    record: Mapping[str, Any] | None,
    *,
    threads: int | None,
    here: bool,
) -> dict[str, Any]:
    """Return `ms`, milliseconds of the parts of a step by recipe, and with which settings, when, on
    what and with how many threads they were measured.

    Taken from `file` or from the record, if one of them is of these recipes and settings, and, if
    `here`, of this hardware and so many threads; else measured and written to `file`, which has to
    be removed to measure again."""
    asked = {
        name: {k: v for k, v in flat(cfg).items() if k not in _IGNORED}
        for name, cfg in configs.items()
    }
    found = [json.loads(file.read_text())] if file.is_file() else []
    for kept in (*found, *([record] if record else [])):
        if _fits(kept, asked) and not (here and _is_of_another(kept, _machine(threads))):
            return {name: value for name, value in kept.items() if name not in ("kind", "name")}
    measured = {"settings": asked, "ms": step.measure(configs, threads=threads)}
    measured |= _machine(threads)
    write_json(file, measured)
    return measured


def _machine(threads: int | None) -> dict[str, Any]:
    """Describe this machine, with the threads of a measurement: kept ones of before `threads` was
    noted have those of the process in their place."""
    found = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    found["hardware"]["threads"] = threads or found["hardware"]["threads"]
    return found | {"threads": threads}


def _is_of_another(kept: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    was, hardware = kept["hardware"], now["hardware"]
    same = all(was.get(name) == hardware[name] for name in ("cpu", "cpu_vectors", "gpu"))
    return not same or kept.get("threads") != now["threads"]


def _fits(kept: Mapping[str, Any], asked: dict[str, dict[str, Any]]) -> bool:
    of_recipe = kept["settings"]
    same = of_recipe.keys() == asked.keys()
    return same and not any(set(changed(of_recipe[name], asked[name])) - _IGNORED for name in asked)

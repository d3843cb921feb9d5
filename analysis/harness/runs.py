"""Finished runs, read from their folders or from records of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from analysis.harness.records import Record
from effssl import cli
from effssl.config import Config, flat

# Settings that do not tell two runs apart. What ends one early does, and what its figures are of.
MAY_DIFFER = cli.RESUME_MAY_CHANGE - {
    *("max_seconds", "stop_when_flat", "on_collapse", "probe_images", "normalize")
}


class Run(NamedTuple):
    """What the tables need of a finished run. settings: by name, without groups."""

    name: str
    settings: dict[str, Any]
    result: dict[str, Any]
    probe: dict[str, Any]  # the last of its metrics


def of_record(record: Record) -> Run:
    """Return the run; settings that were added since have their defaults."""
    probes = [each for each in record["metrics"] if each["kind"] == "probe"]
    settings = flat(Config()) | record["config"]
    return Run(record["name"], settings, record["result"], probes[-1])


def changed(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings of `now` that tell two runs apart; not where they run, nor what they
    report on the way. Those that were added since `was` have their defaults there."""
    was = flat(Config()) | was
    return [name for name in now if name not in MAY_DIFFER and was[name] != now[name]]


def finished_of(runs: Sequence, wanted: Sequence | dict) -> str:
    """Return how many of the wanted runs there are, in words."""
    return f"{len(runs)} of {len(wanted)}"


def processor_of(result: dict[str, Any]) -> str:
    """Return the processor's name, and what it computes with where that was noted."""
    hardware = result["hardware"]
    vectors = hardware.get("cpu_vectors")
    return f"{hardware['cpu']} with {vectors}" if vectors else hardware["cpu"]


def machine_of(result: dict[str, Any]) -> str:
    """Return the GPU's name, or the processor's, and how many cores there are."""
    gpu, cores = (result["hardware"][name] for name in ("gpu", "cpu_cores"))
    return f"{gpu or processor_of(result)}, {cores} cores"


def origin(results: Iterable[dict[str, Any]], command: str = "") -> str:
    """Return one line: hardware, versions, commits and dates of result.json of runs, or of
    `machine`; and the command, as a path below analysis/."""
    results = list(results)
    hardware = {machine_of(result) for result in results}
    versions = {f"torch {r['versions']['torch']}" for r in results}
    commits = {str(r["versions"]["commit"]) for r in results}
    dates = {r["finished"].split()[0] for r in results}
    facts = [
        " and ".join(sorted(hardware)),
        " ".join(sorted(versions)),
        " ".join(["commit", *sorted(commits)]),
        " ".join(sorted({min(dates), max(dates)})),
    ]
    repeat = [f"`python analysis/{command}`"] if command else []
    return "; ".join(facts + repeat)

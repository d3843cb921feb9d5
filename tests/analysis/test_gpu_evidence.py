"""Pieces of work in calls that go on: what has ended is not run again, what was stopped goes on."""

from __future__ import annotations

import argparse
import json
import sys
import time

import pytest

from analysis import gpu_evidence
from analysis.gpu_evidence import Piece

NOTES = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); print('said', sys.argv[2])"
SLOW = "import sys, time; time.sleep(600)"


def note(tmp_path, name, *more) -> Piece:
    return Piece(name, (sys.executable, "-c", NOTES, str(tmp_path / "noted"), name, *more))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run given pieces in a call of so many seconds, and return the table's lines."""
    monkeypatch.setattr(gpu_evidence, "_ENOUGH_S", 0.0)
    monkeypatch.setattr(gpu_evidence, "_TO_SAVE_S", 1.0)

    def call(*pieces, seconds=60.0, flags=()):
        monkeypatch.setattr(gpu_evidence, "pieces", lambda args: list(pieces))
        out = ["--out", str(tmp_path / "out"), "--seconds", str(seconds)]
        assert gpu_evidence.main([*out, *flags]) == 0
        said = capsys.readouterr().out
        return said, [line for line in said.splitlines() if line.startswith("| ")][2:]

    return call


def test_pieces_run_in_order_and_what_has_ended_is_not_run_again(run, tmp_path):
    pieces = [note(tmp_path, "first"), note(tmp_path, "second")]
    for _ in range(2):
        _, table = run(*pieces)
        assert [line.split(" | ")[0] for line in table] == ["| first", "| second"]
        assert all("ended after" in line and "code" not in line for line in table)
    assert (tmp_path / "noted").read_text() == "first\nsecond\n"
    assert (tmp_path / "out" / "first.log").read_text() == "said first\n"


def test_a_piece_that_takes_too_long_is_stopped_and_comes_again(run, tmp_path):
    slow = Piece("slow", (sys.executable, "-c", SLOW))
    began = time.monotonic()
    _, table = run(slow, note(tmp_path, "after"), seconds=4.0)
    assert time.monotonic() - began < 100  # not the 600 of its own
    assert "goes on" in table[0] and "not begun" in table[1]
    said, table = run(note(tmp_path, "slow"), note(tmp_path, "after"))
    assert "said slow" in said and all("ended after" in line for line in table)


def test_a_command_that_used_up_its_seconds_has_more_to_do(run, tmp_path):
    waits = "import sys, time; time.sleep(float(sys.argv[1]))"
    told = Piece("told", (sys.executable, "-c", waits, "{seconds}"))
    _, table = run(told, seconds=5.0)
    assert "goes on" in table[0]


def test_a_failed_piece_is_named_with_its_code_and_ends_nothing_else(run, tmp_path):
    fails = Piece("fails", (sys.executable, "-c", "print('why'); raise SystemExit(3)"))
    said, table = run(fails, note(tmp_path, "after"))
    assert "  why" in said and "code 3" in table[0] and "code" not in table[1]
    assert json.loads((tmp_path / "out" / "done.json").read_text())["fails"]["code"] == 3


def test_only_what_is_named_is_run(run, tmp_path):
    pieces = [note(tmp_path, "first"), note(tmp_path, "second")]
    _, table = run(*pieces, flags=["--only", "second"])
    assert len(table) == 1 and (tmp_path / "noted").read_text() == "second\n"


def test_committed_runs_are_not_trained_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_evidence.records, "FOLDER", tmp_path)
    (tmp_path / "claims-gpu.jsonl").write_text('{"name": "one"}\n')
    (tmp_path / "claims-scarce.jsonl").write_text('{"name": "two"}\n')
    records = tmp_path / "out" / "records-gpu.jsonl"
    of_scarce = tmp_path / "out" / "records-scarce.jsonl"
    run()
    assert records.read_text() == '{"name": "one"}\n'
    assert of_scarce.read_text() == '{"name": "two"}\n'
    records.write_text("more\n")
    run()  # of the same evidence: what this machine has made stays
    assert records.read_text() == "more\n"
    args = argparse.Namespace(preset="gpu", data_dir=tmp_path, out=tmp_path / "out", device="cuda")
    monkeypatch.undo()
    told = {p.name: p.command for p in gpu_evidence.pieces(args)}
    assert all(str(records) in told[claim] for claim in ("wallclock", "views", "subset"))
    assert all(str(of_scarce) in told[f"{claim}-scarce"] for claim in ("views", "subset"))

"""Flags that the commands of analysis/ share."""

from __future__ import annotations

import pytest

from analysis.harness import cli


def test_paths_of_the_commands_are_of_this_machine(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = cli.training_parser("doc", ["cpu"], "runs", "3")
    flags = ["--data-dir=~/images", "--runs=~/runs", "--out=~/out"]
    args = cli.read_flags(parser, flags)
    folders = [tmp_path / name for name in ("images", "runs", "out")]
    assert [args.data_dir, args.runs, args.out] == folders
    for flag in ("--data-dir", "--runs", "--out"):
        with pytest.raises(SystemExit) as caught:
            cli.read_flags(parser, [flag, "s3://bucket/x"])
        assert caught.value.code == 2
        line = f"error: argument {flag}: s3://bucket/x: must be a path on this machine, not a URL\n"
        assert capsys.readouterr().err == line

"""Records of runs: the committed ones make the committed tables, new ones are saved beside them."""

import json
from pathlib import Path

import pytest

from analysis import changes, projector, subset, views, wallclock
from analysis.harness import records, runs
from analysis.harness.recipes import Recipe, runs_of
from tests.analysis.made_runs import scale_of, write_runs

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "analysis" / "results"
COMMITTED = records.FOLDER / "claims-cpu.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flags", "committed"),
    [
        (views, "", "views"),
        (views, "--method vicreg --rates 1 3 9", "views-vicreg"),
        (subset, "", "subset-18000"),
        (subset, "--preset scarce", "subset"),
        (projector, "", "projector"),
        (projector, "--method vicreg --rates 0.333 1 --parallel 2", "projector-vicreg"),
        (wallclock, "--wide share --rates 1 3 9 --weights 1 --seeds 5", "wallclock"),
        (
            wallclock,
            "--method vicreg --wide share --rates 0.333 1 3 9 --weights 1 --parallel 2",
            "wallclock-vicreg",
        ),
    ],
)
@pytest.mark.usefixtures("empty_pictures")
def test_the_committed_records_make_the_committed_tables(
    command, flags, committed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--data-dir", "nowhere", "--seconds", "0", *flags.split()]) == 0
    name = command.__name__.rpartition(".")[2]
    (runs_of_scale,) = (tmp_path / "runs").iterdir()
    assert runs_of_scale.name == ("claims-scarce" if "scarce" in flags else "claims-cpu")
    out = runs_of_scale / (f"{name}-vicreg" if "vicreg" in flags else name)
    for file in sorted(out.glob("*.csv")):
        assert file.read_bytes() == (RESULTS / committed / file.name).read_bytes()
    assert {"runs.csv", "summary.md", f"{name}.png"} <= {file.name for file in out.iterdir()}


@pytest.mark.parametrize(
    ("command", "flags", "folder", "committed"),
    [
        (
            changes,
            "defaults --method vicreg --seeds 4",
            "changes-defaults-vicreg",
            "changes-defaults",
        ),
        (views, "--rates 1 3 9 --seeds 5 -- --epochs 1", "views", "views-photographs"),
    ],
)
@pytest.mark.usefixtures("empty_pictures")
def test_the_committed_records_make_the_tables_of_photographs(
    command, flags, folder, committed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    own = ["--preset", "photographs", "--data-dir", "nowhere", "--seconds", "0"]
    own += ["--records", str(records.FOLDER / "claims-photographs.jsonl")]
    assert command.main([*own, *flags.split()]) == 0
    made = tmp_path / "runs" / "claims-photographs" / folder / "runs.csv"
    assert made.read_bytes() == (RESULTS / committed / "runs.csv").read_bytes()


def test_there_is_one_record_a_line_and_all_are_of_one_kind_or_the_other():
    lines = [json.loads(line) for line in COMMITTED.read_text().splitlines()]
    assert len(records.read(COMMITTED)) == len(lines)
    assert {line["kind"] for line in lines} == {"run", "step_cost"}
    for line in lines:
        if line["kind"] == "run":
            assert {"config", "result", "metrics"} < set(line)
            assert runs.of_record(line).probe["linear"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("empty_pictures")
def test_a_finished_run_is_saved_and_then_found_without_its_folder(tmp_path, capsys):
    file = tmp_path / "records.jsonl"
    scale = scale_of("--runs", str(tmp_path / "runs"), "--seeds", "1")
    planned = views.recipes(scale, [2, 4])
    write_runs(scale, planned, lambda recipe, seed: (40.0 + recipe.views, 60.0))
    flags = ["--seeds", "1", "--views", "2", "4", "--records", str(file), "--seconds", "0"]
    known = ["--runs", str(tmp_path / "runs")]
    assert views.main([*flags, *known, "--save-records"]) == 0
    assert "the finished runs are in" in capsys.readouterr().out
    assert sorted(records.read(file)) == sorted(runs_of(scale, planned))
    assert views.main([*flags, "--runs", str(tmp_path / "none")]) == 0
    assert "3 of 3 runs are finished" in capsys.readouterr().out
    ours, theirs = (tmp_path / folder / "views" / "runs.csv" for folder in ("none", "runs"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.usefixtures("empty_pictures")
def test_a_record_with_other_settings_is_another_run(tmp_path, capsys):
    flags = ["--runs", str(tmp_path), "--seconds", "0", "--", "--lr", "0.5"]
    assert views.main(flags) == 0
    assert "0 of 18 runs are finished" in capsys.readouterr().out


def test_saving_replaces_records_of_the_same_name_and_keeps_the_others(tmp_path):
    file = tmp_path / "set.jsonl"
    records.save(file, [{"name": "b", "seen": 1}, {"name": "a", "seen": 1}])
    records.save(file, [{"name": "b", "seen": 2}])
    assert records.read(file) == {"a": {"name": "a", "seen": 1}, "b": {"name": "b", "seen": 2}}
    assert list(records.read(file)) == ["a", "b"]


@pytest.mark.parametrize("content", [None, "{", '{"kind": "run"}', "[1]"])
def test_records_that_cannot_be_read_are_one_line(content, tmp_path, capsys):
    file = tmp_path / "set.jsonl"
    if content is not None:
        file.write_text(content)
    assert views.main(["--runs", str(tmp_path / "runs"), "--records", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --records") and said.count("\n") == 1


@pytest.mark.usefixtures("empty_pictures")
def test_records_are_not_saved_into_what_is_no_file(tmp_path, capsys):
    scale = scale_of("--runs", str(tmp_path), "--seeds", "1")
    write_runs(scale, [Recipe(2, 256, 1)], lambda recipe, seed: (40.0, 60.0))
    flags = ["--runs", str(tmp_path), "--seeds", "1", "--views", "2", "--records", "/dev/null"]
    assert views.main([*flags, "--save-records"]) == 2
    assert "is not a file" in capsys.readouterr().err
    assert not Path("/dev/null").is_file()

"""The command line as a user meets it: which job, bad flags, and how soon it answers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from effssl.__main__ import JOBS, main

RUN = ["evaluate", "RUN"]
EMBED = ["embed", "RUN", "--to", "h.npz"]

BAD = [
    ([], "name a job: train, prepare, evaluate, export, embed"),
    (["trian"], "unknown job trian; did you mean train?"),
    (["--views", "4"], "unknown job --views"),
    # Flags that are no flags
    (["train", "--proj-dmi", "64"], "unknown flag --proj-dmi; did you mean --proj-dim"),
    (["train", "--veiws", "4"], "unknown flag --veiws; did you mean --views or --small-views?\n"),
    (["train", "--veiws=4"], "unknown flag --veiws; did you mean --views"),
    (["train", "--view", "4"], "unknown flag --view"),  # no abbreviations
    (["train", "stray"], "unexpected argument stray"),
    (["train", "-x"], "unexpected argument -x"),
    (["prepare", "--skip-corupt"], "unknown flag --skip-corupt; did you mean --skip-corrupt"),
    (["prepare", "--views", "4"], "unknown flag --views"),
    (["prepare", "--config", "c.yaml"], "unknown flag --config"),
    ([*RUN, "--knn-kk", "3"], "did you mean --knn-k"),
    (["export", "RUN", "--onx", "--to", "x"], "did you mean --onnx"),
    (["export", "RUN", "more", "--to", "x"], "unexpected argument more"),
    ([*EMBED, "--image", "a"], "did you mean --images"),
    # Values that lack
    (["train", "--config"], "--config: expected one argument"),
    (["train", "--views"], "--views: expected one argument"),
    (["train", "--crop-scale", "0.5"], "--crop-scale: expected 2 arguments"),
    (["train", "--skip-corrupt", "true"], "unexpected argument true"),
    (["evaluate"], "RUN is missing"),
    (["export", "RUN"], "--to is missing"),
    (["export", "--to", "x"], "RUN is missing"),
    (["embed", "RUN", "--images", "a"], "--to is missing"),
    ([*RUN, "--checkpoint"], "--checkpoint"),
    # Values of another type
    (["train", "--views", "two"], "--views two: must be a whole number"),
    (["train", "--workers", "1.5"], "--workers 1.5: must be a whole number"),
    (["train", "--lr", "fast"], "--lr fast: must be a number"),
    (["train", "--max-seconds", "long"], "--max-seconds long: must be a number"),
    (["train", "--epochs", "None"], "--epochs None: must be a whole number"),
    (["train", "--var-weight", "much"], "--var-weight much: must be a number or auto"),
    (["train", "--data", "cifar11"], "--data cifar11: must be digits, cifar10, cifar100"),
    (["train", "--projector", "other"], "--projector other: must be authors or official"),
    (["prepare", "--data", "imagenet99"], "imagenet100"),
    ([*RUN, "--data", "cifar11"], "cifar11"),
    (["evaluate", "--fine-tune", "0.1", "RUN"], "--fine-tune RUN: must be a number"),
    ([*EMBED, "--images", "a", "--split", "val"], "--split val: must be train or test"),
    # Flags that do nothing beside the others
    (["train", "--temperature", "0.1"], "--temperature does nothing without --method simclr"),
    (["train", "--method", "barlow_twins", "--inv-weight", "1"], "without --method vicreg"),
    (["train", "--small-size", "8"], "--small-size does nothing without --small-views"),
    (["train", "--grow-by", "4"], "--grow-by does nothing without --first-size"),
    (["train", "--keep-fisher", "none"], "--keep-fisher does nothing without --keep"),
    # Values out of their range
    (["train", "--views", "1"], "--views 1: must be at least 2"),
    (["train", "--proj-dim", "0"], "--proj-dim 0: must be at least 1"),
    (["train", "--fraction", "0"], "--fraction 0: must be greater than 0"),
    (["train", "--fraction", "nan"], "--fraction nan"),
    (["train", "--val-fraction", "1"], "--val-fraction 1: must be less than 1"),
    (["train", "--lr", "-1"], "--lr -1: must be greater than 0"),
    (["train", "--lr", "inf"], "--lr inf: must be finite"),
    (["train", "--proj-layers", "0"], "--proj-layers 0: must be at least 1"),
    (["train", "--redundancy-weight", "-1"], "--redundancy-weight -1: must be at least 0 or auto"),
    (["train", "--cov-weight", "nan"], "--cov-weight nan: must be at least 0 or auto"),
    (["train", "--weight-ortho", "-1"], "--weight-ortho -1: must be at least 0"),
    (["train", "--temperature", "0"], "--temperature 0: must be greater than 0"),
    (["train", "--hue", "0.6"], "--hue 0.6: must be at most 0.5"),
    (["train", "--crop-scale", "0.9", "0.1"], "--crop-scale 0.9 0.1: must be two numbers, 0 < low"),
    (["train", "--crop-scale", "0.2", "1.1"], "--crop-scale 1.1: must be at most 1"),
    (["train", "--blur-sigma", "0", "nan"], "--blur-sigma 0 nan: must be two numbers"),
    (["train", "--seed", str(2**63)], "--seed 9223372036854775808: must be less than"),
    (["prepare", "--workers", "0"], "--workers 0: must be at least 1"),
    (["prepare", "--jpeg-quality", "101"], "--jpeg-quality 101: must be at most 100"),
    (["prepare", "--max-side", "65501"], "--max-side 65501: must be at most 65500"),
    ([*RUN, "--knn-k", "0"], "--knn-k 0: must be at least 1"),
    ([*RUN, "--fraction", "2"], "--fraction 2: must be at most 1"),
    ([*RUN, "--fine-tune", "0.1", "2"], "--fine-tune 2: must be at most 1"),
    ([*EMBED, "--images", "a", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
    ([*EMBED, "--images", "a", "--workers", "0"], "--workers 0: must be at least 1"),
    # Paths that are URLs
    (
        ["train", "--out", "s3://bucket/run"],
        "--out s3://bucket/run: must be a path on this machine",
    ),
    (["train", "--data-dir=gs://bucket"], "--data-dir gs://bucket: must be a path on this machine"),
    (["train", "--beton-dir", "file:///x"], "--beton-dir file:///x: must be a path"),
    (["train", "--resume", "s3://bucket/run"], "--resume s3://bucket/run: must be a path"),
    (["train", "--config", "https://host/c.yaml"], "--config https://host/c.yaml: must be a path"),
    (["prepare", "--data-dir", "hf://set"], "--data-dir hf://set: must be a path"),
    (["evaluate", "s3://bucket/run"], "s3://bucket/run: must be a path"),
    ([*RUN, "--to", "s3://x/y"], "--to s3://x/y: must be a path"),
    ([*RUN, "--robustness-dir", "s3://x"], "--robustness-dir s3://x: must be a path"),
    ([*RUN, "--checkpoint", "a=https://x/y.pth"], "--checkpoint a=https://x/y.pth: must be a path"),
    (["export", "s3://x/run", "--to", "y"], "s3://x/run: must be a path"),
    (["export", "RUN", "--to", "s3://x"], "--to s3://x: must be a path"),
    ([*EMBED, "--images", "s3://x"], "--images s3://x: must be a path"),
    (
        ["embed", "RUN", "--images", "a", "--to", "s3://x/h.npz"],
        "--to s3://x/h.npz: must be a path",
    ),
    (["train", "--data-dir", "~nobody-of-this-name/x"], "no home folder is known of that name"),
    # Values that do not go together
    ([*RUN, "--checkpoint", "resnet18"], "--checkpoint resnet18: must be NAME=FILE"),
    ([*RUN, "--checkpoint", "a=x", "--checkpoint", "a=y"], "two rows of that name, a"),
    ([*RUN, "--checkpoint", "trained=x"], "two rows of that name, trained"),
    (EMBED, "name what to embed: --images DIR"),
    ([*EMBED, "--data", "digits", "--max-side", "65501"], "--max-side 65501: must be at most"),
    ([*EMBED, "--images", "a", "--data", "digits"], "name what to embed"),
    # Files that are not there
    (["train", "--config", "absent.yaml"], "absent.yaml: No such file"),
    (["train", "--config", "."], "Is a directory"),
    (["train", "--resume", "absent"], "--resume absent: no run there"),
    (["train", "--data", "two\nlines"], "--data two lines: must be digits"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


def test_of_the_processes_of_a_machine_one_says_what_is_wrong_with_their_flags(capsys, monkeypatch):
    for local_rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert main(["train", "--nope"]) == 2
        assert capsys.readouterr().err.count("\n") == lines


def test_help_lists_the_jobs_with_a_line_each(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for job in JOBS:
        (line,) = [line for line in lines if line.split()[:1] == [job]]
        assert line.endswith(".") and len(line) < 110


# Runs modules as `python -m` does, one after the other, and says of each what it printed, its exit
# code and which slow imports there were until then.
ASK = """
import contextlib, io, json, runpy, sys
for name, *sys.argv[1:] in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
            code = None
        except SystemExit as end:
            code = end.code or 0
    slow = sorted({"torch", "timm", "numpy", "ffcv", "matplotlib"} & set(sys.modules))
    print(json.dumps([code, out.getvalue(), err.getvalue(), slow]))
"""


@pytest.mark.parametrize("job", JOBS)
def test_help_and_a_typo_import_nothing_slow(job, tmp_path):
    cases = [
        ([module, *before, flag], code, shows)
        for module, before in (("effssl", [job]), (f"effssl.{job}", []))
        for flag, code, shows in (
            ("--help", 0, f"usage: effssl {job}"),
            ("--nope", 2, "unknown flag"),
        )
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([words for words, _, _ in cases])],
        capture_output=True, text=True, timeout=250, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr == ""
    said = [json.loads(line) for line in done.stdout.splitlines()]
    for (_, code, shows), (ended, out, err, slow) in zip(cases, said, strict=True):
        assert (ended, slow) == (code, [])
        assert shows in out + err
        assert err.count("\n") == (1 if code else 0)


def test_the_console_command_is_the_module():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert 'effssl = "effssl.__main__:main"' in project
    done = subprocess.run(
        [sys.executable, "-m", "effssl", "trian"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: unknown job trian; did you mean train?\n")


def test_the_package_of_a_job_is_light_and_embed_offers_its_functions():
    code = "import sys, effssl.embed; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)
    import effssl.embed
    from effssl.embed import embed_folder, embed_set
    from effssl.embed import run as module

    assert (embed_folder, embed_set) == (module.embed_folder, module.embed_set)
    with pytest.raises(AttributeError, match="embed_folders"):
        effssl.embed.embed_folders  # noqa: B018


def test_names_that_no_terminal_can_show_are_shown_by_their_codes(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(shown, "utf-8", errors="strict"))
    assert main(["prepare", "--data", "folder", "--data-dir", "nowhere/\udce9"]) == 2
    sys.stderr.flush()
    assert shown.getvalue() == b"error: --data-dir nowhere/\\udce9: no such folder\n"

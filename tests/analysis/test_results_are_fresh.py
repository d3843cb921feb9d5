"""Committed tables beside the code that makes them: what has changed since is warned of.

Measuring again takes hours, and most changes move no figure, so this is a warning, not a failure.
"""

from __future__ import annotations

import re
import subprocess
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "analysis" / "results"
# What the figures of a run depend on, and what those of its tables depend on beside that.
TRAINING = ("effssl/train", "effssl/views", "effssl/models", "effssl/losses", "effssl/optim.py")
PROBES = ("effssl/evaluation/probes.py", "effssl/evaluation/logistic.py")
CLAIM = (*TRAINING, *PROBES, "analysis/harness/recipes.py", "analysis/harness/presets.py")
MADE_BY = {
    "digits": (*TRAINING, "effssl/evaluation", "effssl/set_defaults.py"),
    "cifar10_cpu": (*TRAINING, "effssl/evaluation", "configs/cifar10_cpu.yaml"),
    "cifar10_gpu": (*TRAINING, *PROBES, "configs/cifar10.yaml"),
    "weight_rule": (*TRAINING, *PROBES, "analysis/weight_rule.py"),
    "orthogonality": (*TRAINING, *PROBES, "effssl/evaluation/spectrum.py"),
    "projector": (*CLAIM, "analysis/projector.py"),
    "changes": (*CLAIM, "analysis/changes.py"),
    "views": (*CLAIM, "analysis/views.py"),
    "subset": (*CLAIM, "analysis/subset.py"),
    "wallclock": (*CLAIM, "analysis/wallclock.py", "analysis/benchmarks/step.py"),
    "race": (*TRAINING, *PROBES, "analysis/race.py", "configs/cifar10_cpu.yaml"),
    "rates": (*TRAINING, *PROBES, "analysis/rates.py", "configs/cifar10_cpu.yaml"),
    "shortcut": (
        "effssl/evaluation",
        "analysis/shortcut.py",
        "analysis/harness/planted_patches.py",
    ),
    "label_free": (*TRAINING, "effssl/evaluation", "analysis/label_free.py"),
    "starting": (*TRAINING, *PROBES, "analysis/starting.py", "configs/cifar10_cpu.yaml"),
    "gradient_noise": (
        *TRAINING,
        "analysis/gradient_noise.py",
        "analysis/harness/gradients.py",
        "analysis/harness/presets.py",
    ),
    "theory": (
        *("analysis/theory.py", "analysis/harness/ring.py", "effssl/losses"),
        "effssl/evaluation/spectrum.py",
    ),
    "scaling": ("analysis/scaling.py", "analysis/harness/communication.py", "effssl/losses"),
    "losses_cost": ("analysis/benchmarks/losses.py", "effssl/losses"),
    "throughput": ("analysis/benchmarks/loading.py", "effssl/views", "effssl/data"),
    "probe_cost": ("analysis/benchmarks/probes.py", *PROBES),
}


def measured_with(folder: Path) -> set[str]:
    """Return the commits that the results of a folder name, in result.json or in a summary."""
    texts = [file.read_text() for file in (folder / "result.json", folder / "summary.md")
             if file.is_file()]  # fmt: skip
    named = [re.findall(r'"commit": "([0-9a-f]{7,40})|; commit ([0-9a-f ]{7,})', t) for t in texts]
    return {commit for found in named for pair in found for commit in "".join(pair).split()}


def changes_since(commit: str, paths: tuple[str, ...], root: Path) -> list[str] | None:
    """Return the commits since `commit` that change `paths`; None if git does not know it."""
    asked = ["git", "log", "--format=%h", f"{commit}..HEAD", "--", *paths]
    said = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False)
    return said.stdout.split() if said.returncode == 0 else None


def test_every_folder_of_results_names_what_makes_it():
    folders = {folder.name for folder in RESULTS.iterdir() if folder.is_dir()}
    assert {name.partition("-")[0] for name in folders} <= set(MADE_BY)
    for paths in MADE_BY.values():
        assert all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize("folder", sorted(f.name for f in RESULTS.iterdir() if f.is_dir()))
def test_results_are_as_new_as_what_makes_them(folder):
    commits = sorted(measured_with(RESULTS / folder))
    assert commits  # a result that names none cannot be compared with the code
    for commit in commits:
        changes = changes_since(commit, MADE_BY[folder.partition("-")[0]], ROOT)
        if changes is None:
            pytest.skip(f"git does not know {commit}")
        if changes:
            latest, count = changes[0], len(changes)
            warnings.warn(
                f"analysis/results/{folder} was measured with {commit}; what makes it has changed "
                f"in {count} commit{'s' * (count > 1)} since, last in {latest}",
                stacklevel=1,
            )


def test_a_later_change_is_found(tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    commits = []
    for name in ("code.py", "other.py", "code.py"):
        with (tmp_path / name).open("a") as file:
            file.write("x = 1\n")
        git("add", "."), git("commit", "-qm", "one")
        commits.append(git("rev-parse", "--short", "HEAD"))
    first, second, third = commits
    assert changes_since(first, ("code.py",), tmp_path) == [third]
    assert changes_since(second, ("other.py",), tmp_path) == []
    assert changes_since("0123456", ("code.py",), tmp_path) is None


def test_commits_are_read_from_results_and_summaries(tmp_path):
    (tmp_path / "summary.md").write_text("a CPU, 2 cores; torch 2; commit 0763ae9 d905e0f; 2026\n")
    assert measured_with(tmp_path) == {"0763ae9", "d905e0f"}
    (tmp_path / "result.json").write_text('{"versions": {"commit": "7b03a07-dirty"}}')
    assert measured_with(tmp_path) == {"0763ae9", "d905e0f", "7b03a07"}

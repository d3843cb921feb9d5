"""The wheel works outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import QUICK

ROOT = Path(__file__).parents[1]
JOBS = ("train", "prepare", "evaluate", "export", "embed")
pytestmark = pytest.mark.slow


def run(command: list, cwd: Path, **environment) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with effssl installed from a wheel, and nothing of the checkout."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    shutil.copytree(
        ROOT / "effssl", source / "effssl", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", root, source], root)
    (wheel,) = root.glob("effssl-*.whl")
    run([*pip, "install", "--no-deps", "--target", root / "site", wheel], root)
    return root / "site"


def effssl(installed: Path, cwd: Path, *arguments) -> str:
    command = [sys.executable, installed / "bin" / "effssl", *arguments]
    return run(command, cwd, PYTHONPATH=str(installed)).stdout


def test_it_is_imported_from_the_wheel(installed, tmp_path):
    where = run(
        [sys.executable, "-c", "import effssl; print(effssl.__file__)"],
        tmp_path,
        PYTHONPATH=str(installed),
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_helps(installed, tmp_path, job):
    assert f"effssl {job}" in effssl(installed, tmp_path, job, "--help")


def test_it_trains_digits_for_two_epochs(installed, tmp_path):
    effssl(installed, tmp_path, "train", *QUICK, "--epochs", 2, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file()
    for name in ("views.png", "curves.png"):
        assert Image.open(tmp_path / "run" / name).size[0] > 300


def test_it_has_what_is_no_code_too(installed):
    files = [file for file in (ROOT / "effssl").rglob("*") if file.is_file()]
    others = [f for f in files if f.suffix != ".py" and f.parent.name != "__pycache__"]
    assert others  # the classes of ImageNet-100, say
    for file in others:
        assert (installed / file.relative_to(ROOT)).read_bytes() == file.read_bytes()

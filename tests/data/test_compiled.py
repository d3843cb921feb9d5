"""What one process compiles the next one loads, and nothing of that can break a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import event

from effssl.data import compiled as module
from effssl.data.beton import ensure_beton
from effssl.data.compiled import compiled
from effssl.data.sources import open_source
from effssl.image_config import Augment
from effssl.run.device import open_runtime
from effssl.views.stream import ViewStream
from tests.conftest import STORE, write_class_folders


def doubled(numbers):
    out = np.empty_like(numbers)
    for i in numba.prange(len(numbers)):
        out[i] = 2 * numbers[i]
    return out


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def calls(numbers=(1, 2)) -> tuple[int, int]:
    """(hits, misses) of the cache in a call by a process that has not compiled the function."""
    function = compiled(doubled)
    assert function(np.array(numbers)).tolist() == [2 * n for n in numbers]
    stats = function.stats
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())


def test_code_is_loaded_by_types_of_arguments(folder):
    assert [calls(), calls(), calls((0.5, 1.5)), calls(), calls((0.5, 1.5))] == [
        *((0, 1), (1, 0), (0, 1), (1, 0), (1, 0))
    ]


def test_damaged_files_are_compiled_anew_and_mended(folder):
    for suffix in ("nbc", "nbi"):
        calls()
        (file,) = folder.rglob(f"*.{suffix}")
        file.write_bytes(file.read_bytes()[:50])
        assert [calls(), calls()] == [(0, 1), (1, 0)]


def test_a_folder_that_cannot_be_used_is_done_without(folder, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder / "file" / "below"))
    assert [calls(), calls()] == [(0, 1), (0, 1)]
    assert not list(Path(__file__).parent.rglob("*doubled*.nb?"))


def test_a_folder_that_is_gone_when_code_is_saved_is_done_without(folder, monkeypatch):
    function = compiled(doubled)
    monkeypatch.setattr(
        module.FunctionCache, "save_overload", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    assert function(np.arange(2)).tolist() == [0, 2]


def test_any_changed_source_has_a_folder_of_its_own(folder, monkeypatch):
    sources = folder / "sources"
    for part in ("data", "views"):
        (sources / part).mkdir(parents=True)
        (sources / part / "a.py").write_text("1")
    monkeypatch.setattr(module, "_SOURCES", sources)
    before = module._folder()
    (sources / "views" / "a.py").write_text("2")
    assert module._folder() != before == module._folder().parent / before.name


def read_all_ways(digits: Path, jpegs: Path) -> int:
    """Make views and clean views of images of one size and of varied size; returns how many
    functions numba compiled."""
    augment = Augment(views=2, image_size=10)
    with event.install_recorder("numba:compile") as compilations:
        for name, data_dir in (("digits", digits), ("folder", jpegs)):
            stored = ensure_beton(open_source(name, data_dir, "train"), data_dir, name, STORE)
            stream = ViewStream(
                stored, augment, seed=0, batch_size=4, workers=2, runtime=open_runtime("cpu")
            )
            at = np.arange(4)
            assert len(list(stream.epoch(at, 0))) == len(list(stream.clean(at))) == 1
    return sum(one.is_start for _, one in compilations.buffer)


@pytest.mark.slow
def test_a_second_process_compiles_nothing(digits_dir, tmp_path):
    write_class_folders(tmp_path / "train", classes=1, side=12)
    write_class_folders(tmp_path / "train" / "wide", classes=1, side=20)
    read_all_ways(digits_dir, tmp_path)
    script = (
        "import sys; from pathlib import Path; from tests.data.test_compiled import read_all_ways;"
        "print('compiled', read_all_ways(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(digits_dir), str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.stdout.split()[-2:] == ["compiled", "0"]

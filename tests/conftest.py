"""Small sets on disk, and the command line as a user calls it."""

from __future__ import annotations

import os

# Before torch looks: `auto` is the CPU, where runs repeat bit for bit. test_device.py is for a GPU.
if "EFFSSL_TEST_DEVICE" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from effssl.image_config import Storage

# torch and the like are imported where they are used: before any test process starts, the one that
# shares tests out reads this file.

# Started in a shell's background, this process and those it starts would ignore Ctrl-C, which some
# tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, which begin first: one that began last would keep a core busy long
# after the others are idle. Not in order of their number of tests, as xdist has it by itself.
LONGEST = [
    *("train/test_train.py", "models/test_families.py", "train/test_nodes.py"),
    *("evaluate/test_run.py", "test_properties.py", "train/test_reference.py"),
    *("train/test_faults.py", "test_without_ffcv.py", "data/test_loader.py"),
    *("analysis/test_claims_end_to_end.py", "train/test_go_on.py", "export/test_export.py"),
    *("train/test_plan.py", "analysis/test_scaling.py"),
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file, and among the others, the order stays."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


# A run of seconds: 1,295 digits, a tiny encoder.
TINY = "{channels: [8, 16, 16, 16], layers: [1, 1, 1, 1]}"
QUICK = [
    *("--backbone-kwargs", TINY),
    *(
        "--views",
        "2",
        "--proj-dim",
        "16",
        "--batch-size",
        "256",
        "--image-size",
        "8",
        "--log-every",
        "1",
        "--final-images",
        "0",
    ),
]
# For runs that are to have their table of the test split at the end.
WITH_TABLE = ("--final-images", "300")


def command(arguments: list) -> list[str]:
    return [sys.executable, "-m", "effssl.train", *map(str, arguments)]


def run_train(arguments: list, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess:
    """`python -m effssl.train ARGUMENTS` in the folder `cwd`."""
    return subprocess.run(
        command(arguments), cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def write_class_folders(
    root: Path, *, classes: int = 2, per_class: int = 6, side: int = 12, suffix: str = "png"
) -> Path:
    """root/CLASS/*.suffix of noise, each class with a shade of its own."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for c in range(classes):
        folder = root / f"class-{c}"
        folder.mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 128, (side, side, 3), dtype=np.uint8) + 60 * c
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.{suffix}")
    return root


def varied_sizes(root: Path) -> list[str]:
    """Write 40 images of varied size, which are stored as JPEG; returns the flags to train on
    them."""
    from PIL import Image

    images = write_class_folders(root / "set", per_class=20, side=20)
    for i, path in enumerate(sorted(images.rglob("*.png"))):
        Image.open(path).resize((20 + i % 7, 24)).save(path)
    return ["--data", "folder", "--data-dir", str(images), "--batch-size", "16"]


@contextlib.contextmanager
def dots_for_pictures() -> Iterator[None]:
    """Let runs draw a dot for each picture, which else is half of what so short a run takes."""
    from matplotlib.figure import Figure

    from effssl.run import pictures

    def draw(path: Path, *_: object) -> None:
        pictures.save(Figure(figsize=(0.1, 0.1)), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "save_views", draw)
        patch.setattr(pictures, "save_curves", draw)
        yield


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory) -> Path:
    """A data folder whose digits are stored once for all tests."""
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="session")
def finished(digits_dir, tmp_path_factory) -> Path:
    """A finished run of five steps."""
    from effssl import cli
    from effssl.train import loop as train

    run = tmp_path_factory.mktemp("finished") / "run"
    flags = [
        *QUICK,
        "--data-dir",
        digits_dir,
        "--out",
        run,
        "--probe-every",
        0,
        "--epochs",
        1,
        "--final-images",
        0,
    ]
    with dots_for_pictures():
        assert train.main(cli.parse([*map(str, flags)])) == 0
    return run


def write_run(
    root: Path,
    name: str = "resnet18",
    size: int | tuple[int, int] = 16,
    stem: str = "auto",
    kwargs: str = TINY,
    *,
    norm: str = "batch",
    bias: bool = False,
    seed: int = 0,
) -> Path:
    """A finished run's folder, as far as its weights go; these, and their statistics, are none that
    it begins with.
    """
    import torch

    from effssl import models
    from effssl.run import checkpoint

    torch.manual_seed(seed)
    encoder = models.Encoder(
        models.create_backbone(name, size, stem=stem, kwargs=kwargs), 12, 8, 2, norm, bias
    )
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape))
    root.mkdir(parents=True)
    spec = models.BackboneSpec(name, size, stem, kwargs, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    models.save_backbone(encoder.backbone, root / "backbone.safetensors", spec)
    checkpoint.save(root / "checkpoint.pt", {"model": encoder.state_dict()})
    (root / "config.yaml").write_text(f"backbone: {name}\n")
    (root / "result.json").write_text("{}")
    return root


def example(file: Path, containing: str) -> str:
    """Return the one Python block of a document that has these words."""
    blocks = re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return block


README = Path(__file__).parents[1] / "README.md"
WEIGHTS = README.parent / "docs" / "weights.md"
STORE = Storage()


def read_all(path, count, *, workers=2, batch_size=5, square=None):
    """Make one pass in a random order; returns (order, images, positions).

    square: side of the central squares that images of varied size are decoded to.
    """
    import numpy as np
    import torch

    from effssl.data.loader import open_loader, read_batches
    from effssl.data.pixels import WholeImageDecoder
    from effssl.views.decode_crops import CentralCropDecoder

    decoder = WholeImageDecoder() if square is None else CentralCropDecoder((square, square))
    loader = open_loader(path, batch_size, workers, decoder)
    order = np.random.default_rng(1).permutation(count)
    batches = list(read_batches(loader, order, torch.device("cpu")))
    return order, torch.cat([x for x, _ in batches]), torch.cat([p for _, p in batches])


def growth_mb(make_loader: Callable, *arguments, count: int) -> float:
    """What memory grows by in 200 passes over `count` images, after the first 20, in a process of
    its own.

    Beside other tests, what they leave to the allocator moves as much as a leak would.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_growth_mb, make_loader, arguments, count).result(timeout=300)


def _growth_mb(make_loader: Callable, arguments: tuple, count: int) -> float:
    import numpy as np
    import torch

    from effssl.data.loader import read_batches

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    loader = make_loader(*arguments)
    for epoch in range(220):
        for _images, _positions in read_batches(loader, np.arange(count), torch.device("cpu")):
            pass
        if epoch == 19:
            before = pages()
    return (pages() - before) * os.sysconf("SC_PAGE_SIZE") / 1e6

"""Both readers of a .beton: the same pixels, failures that surface, nothing that stays behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effssl import InputError
from effssl.data.beton import ensure_beton
from effssl.data.beton_file import bytes_of, open_file
from effssl.data.loader import open_loader, read_batches
from effssl.data.pixels import WholeImageDecoder
from effssl.data.sources import open_source
from effssl.image_config import Augment, Storage
from effssl.views.decode_crops import CentralCropDecoder, MultiViewDecoder
from tests.conftest import STORE, growth_mb

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
READERS = pytest.mark.parametrize("reader", ["ffcv", "threads"])


@pytest.fixture(scope="module")
def digits(digits_dir) -> Path:
    """The .beton of the digits."""
    source = open_source("digits", digits_dir, "train")
    return ensure_beton(source, digits_dir / "beton", "digits-train", STORE).path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A folder of 50 smooth images of varied size."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "train").mkdir()
    rng = np.random.default_rng(0)
    for i in range(50):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        width, height = rng.integers(40, 120, 2).tolist()
        coarse.resize((width, height)).save(root / "train" / f"{i:02}.png")
    return root


def stored(root: Path, **how) -> Path:
    return ensure_beton(open_source("folder", root, "train"), root, "x", Storage(**how)).path


def open_digits(digits: Path, workers: int, reader: str = "ffcv"):
    return open_loader(digits, 64, workers, WholeImageDecoder(), reader)


def crops() -> MultiViewDecoder:
    return MultiViewDecoder((Augment(views=3, image_size=24), Augment(views=2, image_size=16)), 3)


def pixels_of(path: Path, decoder, reader: str, *, workers: int = 2, count: int = 50) -> np.ndarray:
    loader = open_loader(path, 20, workers, decoder, reader)
    order = np.random.default_rng(1).permutation(count)
    pixels, positions = zip(*read_batches(loader, order, CPU), strict=True)
    assert torch.equal(torch.cat(positions), torch.from_numpy(order))
    return torch.cat(pixels).numpy()


@pytest.mark.parametrize("workers", [1, 3])
def test_images_of_one_size_are_the_same_bit_for_bit(digits, workers):
    by_ffcv = pixels_of(digits, WholeImageDecoder(), "ffcv", count=1000)
    by_threads = pixels_of(digits, WholeImageDecoder(), "threads", workers=workers, count=1000)
    assert np.array_equal(by_ffcv, by_threads)


@pytest.mark.parametrize("decoder", [crops, lambda: CentralCropDecoder((24, 30))])
def test_crops_of_images_stored_raw_are_the_same_bit_for_bit(photographs, decoder):
    path = stored(photographs, store="lossless")
    assert np.array_equal(*(pixels_of(path, decoder(), name) for name in ("ffcv", "threads")))


@pytest.mark.parametrize("decoder", [crops, lambda: CentralCropDecoder((24, 30))])
def test_crops_of_jpegs_differ_by_the_decoders_rounding(photographs, decoder):
    path = stored(photographs)
    by_ffcv, by_threads = (
        pixels_of(path, decoder(), name).astype(int) for name in ("ffcv", "threads")
    )
    # FFCV asks for the fast transform, which is up to 5 off and darker by 0.8 on average.
    assert np.abs(by_ffcv - by_threads).max() <= 6
    assert np.abs(by_ffcv - by_threads).mean() < 1.5
    assert np.array_equal(by_threads, pixels_of(path, decoder(), "threads", workers=1))


class _Failing(WholeImageDecoder):
    def read(self, positions, out, images, storage):
        if positions[0] >= 128:
            raise OSError("the disk is gone")
        return super().read(positions, out, images, storage)


@READERS
def test_a_failure_in_a_thread_surfaces(digits, reader):
    loader = open_loader(digits, 64, 1, _Failing(), reader)
    list(read_batches(loader, np.arange(64), CPU))
    before, began = threading.active_count(), time.monotonic()
    read = 0
    with pytest.raises(RuntimeError, match=r"reading .*\.beton failed: .*the disk is gone"):
        for images, _ in read_batches(loader, np.arange(512), CPU):
            read += len(images)
    assert read == 128
    assert time.monotonic() - began < 100  # it does not hang
    assert threading.active_count() == before


@READERS
def test_a_damaged_image_is_named(photographs, tmp_path, reader):
    from ffcv.reader import Reader

    path = stored(photographs)
    start = int(Reader(str(path)).metadata["f0"]["data_ptr"][7])
    content = bytearray(path.read_bytes())
    content[start : start + 20] = bytes(20)
    (tmp_path / "damaged.beton").write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.beton is damaged \(image 7 is not what was"):
        pixels_of(tmp_path / "damaged.beton", crops(), reader)


@READERS
@pytest.mark.parametrize("how", ["auto", "lossless"])
def test_a_bit_that_flips_in_any_image_is_noticed(photographs, tmp_path, reader, how):
    path = stored(photographs, store=how)
    content, file = path.read_bytes(), open_file(path)
    moments = random.Random(0)
    for position in moments.sample(range(50), 12):
        image = bytes_of(file.images[position], file.storage)
        at = int(file.images["data_ptr"][position]) + moments.randrange(len(image))
        damaged = bytearray(content)
        damaged[at] ^= 1 << moments.randrange(8)
        (tmp_path / "damaged.beton").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"\(image {position} is not what was stored\)"):
            pixels_of(tmp_path / "damaged.beton", crops(), reader)


@READERS
def test_a_file_without_checksums_is_read(photographs, tmp_path, reader):
    path = stored(photographs)
    older = path.read_bytes().replace(b"effssl crc32", b"nothing here")
    assert older != path.read_bytes()
    (tmp_path / "older.beton").write_bytes(older)
    assert np.array_equal(
        pixels_of(path, crops(), reader), pixels_of(tmp_path / "older.beton", crops(), reader)
    )


@READERS
def test_a_file_that_is_none_is_refused_in_one_line(photographs, tmp_path, reader):
    whole = stored(photographs).read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"no .beton at all" * 100,
        "cut": whole[:1_000],
        "short": whole[: len(whole) // 2],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises((InputError, RuntimeError)) as caught:
            pixels_of(path, crops(), reader)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not all of one size"):
        open_loader(stored(photographs), 8, 1, WholeImageDecoder(), reader)


@READERS
def test_early_stops_leave_no_thread_and_the_next_pass_is_whole(digits, reader):
    loader = open_digits(digits, 1, reader)
    list(read_batches(loader, np.arange(64), CPU))
    before = threading.active_count()
    for _ in range(5):
        for _images, _positions in read_batches(loader, np.arange(1024), CPU):
            break
    assert threading.active_count() == before
    assert sum(len(images) for images, _ in read_batches(loader, np.arange(1024), CPU)) == 1024


@READERS
def test_memory_does_not_grow_over_200_epochs(digits, reader):
    # The images of all passes kept: 25.
    assert growth_mb(open_digits, digits, 2, reader, count=640) < 4


# Each module is imported first, in a fork, which spares the seconds of torch.
IMPORT_EACH = """
import os, sys, torch
torch.set_num_threads(2)
for module in sys.argv[1:]:
    if (process := os.fork()) == 0:
        __import__(module)
        import numba
        numba.set_num_threads(1)
        print(module, torch.get_num_threads(), numba.threading_layer(), flush=True)
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
"""


def test_importing_ffcv_leaves_torchs_threads_alone_and_numba_takes_openmp_before_tbb():
    """FFCV sets the first, and has numba choose, while it is imported."""
    modules = ["effssl.data.loader", "effssl.data.beton", "effssl.evaluation.encode"]
    modules.append("effssl.train.loop")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{module} 2 omp" for module in modules]


@READERS
@pytest.mark.parametrize("workers", [1, 2])
def test_loading_leaves_torchs_threads_alone(digits, workers, reader):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    list(read_batches(open_digits(digits, workers, reader), np.arange(128), CPU))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)


def test_more_workers_than_cores_that_the_process_may_use(digits):
    script = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "import numpy, torch;"
        "from effssl.data.loader import open_loader, read_batches;"
        "from effssl.data.pixels import WholeImageDecoder;"
        "read = lambda l: [*read_batches(l, numpy.arange(100), torch.device('cpu'))];"
        "loaders = [open_loader(sys.argv[1], 64, 8, WholeImageDecoder(), reader)"
        " for reader in ('ffcv', 'threads')];"
        "print(*(sum(len(images) for images, _ in read(loader)) for loader in loaders))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(digits)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["100", "100"]


def test_two_passes_at_once_where_numbas_own_threads_are_all_there_is(digits):
    """numba ends the process if two threads are in parallel loops of that layer."""
    script = (
        "import sys, threading, numpy, torch;"
        "from effssl.data.loader import open_loader, read_batches;"
        "from effssl.data.pixels import WholeImageDecoder;"
        "open_one = lambda: open_loader(sys.argv[1], 8, 2, WholeImageDecoder(), 'threads');"
        "loaders = [open_one() for _ in range(4)];"
        "read = lambda l: [list(read_batches(l, numpy.arange(1000), torch.device('cpu')))"
        " for _ in range(3)];"
        "threads = [threading.Thread(target=read, args=(l,)) for l in loaders];"
        "[t.start() for t in threads]; [t.join() for t in threads];"
        "import numba; print(numba.threading_layer())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(digits)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_THREADING_LAYER": "workqueue"},
    )
    assert (done.returncode, done.stdout.split()) == (0, ["workqueue"]), done.stderr[-2000:]

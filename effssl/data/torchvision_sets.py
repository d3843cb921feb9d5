"""CIFAR-10, CIFAR-100 and STL-10 in torchvision's own files, downloaded if they are missing."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from effssl import InputError
from effssl.run.files import named_in_errors

SILENCE_S = 30.0  # of a server, after which a download has failed
LOCK = "lock"  # file in a temporary folder that its process holds


class TorchvisionSet(NamedTuple):
    """What torchvision calls a set, and what it makes of it."""

    kind: str  # name of the class in torchvision.datasets
    folder: str  # that it makes below the folder of the set
    side: int  # of the images, in pixels


SETS = {
    "cifar10": TorchvisionSet("CIFAR10", "cifar-10-batches-py", 32),
    "cifar100": TorchvisionSet("CIFAR100", "cifar-100-python", 32),
    "stl10": TorchvisionSet("STL10", "stl10_binary", 96),
}


class Stl10Images:
    """Images of STL-10's .bin files, one file after the other.

    The files are mapped, not read: all of them would take 3 GB of memory.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = [np.memmap(file, np.uint8, "r").reshape(-1, 3, 96, 96) for file in files]
        self.ends = np.cumsum([len(images) for images in self.files])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, position: int) -> np.ndarray:
        """Return an image, uint8 [96, 96, 3]."""
        number = int(np.searchsorted(self.ends, position, side="right"))
        from_its_end = position - self.ends[number]  # negative
        image = self.files[number][from_its_end]  # [3, column, row]
        return np.ascontiguousarray(image.transpose(2, 1, 0))


def read_split(
    name: str, data_dir: Path, split: str
) -> tuple[np.ndarray | Stl10Images, np.ndarray, list[str]]:
    """Read a split, "train" or "test", of a set in SETS from the files in `data_dir`.

    Returns (images, labels, classes): images by position, uint8 [side, side, 3]; labels int64 [n],
    -1 for those of STL-10's images that have none, which follow the others in train; the names of
    the classes. Raises InputError if the files are damaged or incomplete.
    """
    read = _read_stl10 if name == "stl10" else _read_cifar
    return read(SETS[name], data_dir, split)


def _read_cifar(
    cifar: TorchvisionSet, data_dir: Path, split: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    import torchvision

    try:
        dataset = getattr(torchvision.datasets, cifar.kind)(data_dir, train=split == "train")
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{data_dir / cifar.folder}: torchvision cannot read {cifar.kind} there ({reason})"
        ) from None
    return dataset.data, np.asarray(dataset.targets, dtype=np.int64), list(dataset.classes)


def _read_stl10(
    stl10: TorchvisionSet, data_dir: Path, split: str
) -> tuple[Stl10Images, np.ndarray, list[str]]:
    """Read the files without torchvision, which reads and sums 3 GB at every start."""
    folder = data_dir / stl10.folder
    cannot = f"{folder}: {stl10.kind} cannot be read there"
    try:
        labels = np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(np.int64) - 1
        images = labelled = Stl10Images([folder / f"{split}_X.bin"])
        if split == "train":
            images = Stl10Images([folder / "train_X.bin", folder / "unlabeled_X.bin"])
        classes = (folder / "class_names.txt").read_text().split()
    except (OSError, ValueError) as error:
        raise InputError(f"{cannot} ({error})") from None
    if len(labelled) != len(labels) or not np.isin(labels, np.arange(len(classes))).all():
        raise InputError(f"{cannot} ({split}_X.bin and {split}_y.bin do not fit)")
    return images, np.concatenate([labels, np.full(len(images) - len(labels), -1)]), classes


def download(name: str, data_dir: Path) -> None:
    """Let torchvision download a set into `data_dir`.

    It does so in a temporary folder, so that nothing half-written stays. Of processes that do so at
    once, as torchrun starts them, one downloads and the others wait. Raises InputError with the
    ways out if the folder cannot be written or the download fails.
    """
    import torchvision

    kind, folder, _ = SETS[name]
    ways_out = (
        f"put torchvision's files ({folder}/) or class folders (train/CLASS/*, test/CLASS/*) "
        "there, or name another folder with --data-dir"
    )
    patience_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)  # torchvision itself would wait for ever
    try:
        with _made(data_dir), _alone_in(data_dir), _scratch_folder(data_dir) as scratch:
            if (data_dir / folder).is_dir():  # another process was sooner
                return
            getattr(torchvision.datasets, kind)(scratch, download=True)
            for extracted in scratch.iterdir():
                if extracted.is_dir():
                    extracted.rename(data_dir / extracted.name)
    except (InputError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"no {name} images in {data_dir} and the download failed ({reason}); {ways_out}"
        ) from None
    finally:
        socket.setdefaulttimeout(patience_s)


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those that are empty after the block are removed again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with named_in_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty, or was not made
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time download into a folder; its lock does not stay there."""
    lock = folder / ".download.lock"
    try:
        with FileLock(lock):
            yield
    finally:
        with contextlib.suppress(OSError):  # another process has removed it, or holds it
            lock.unlink()


@contextlib.contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a temporary folder, which holds a lock while the process lives.

    By their locks the folders of killed processes are known; they are removed first.
    """
    for left_over in parent.glob(".download-*"):
        with contextlib.suppress(Timeout, OSError), FileLock(left_over / LOCK, timeout=0):
            shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=parent))
    try:
        with FileLock(scratch / LOCK):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

"""Where images come from: a name and a folder -> images, labels and a fingerprint of both."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from effssl import InputError
from effssl.data.image_files import ImageFiles, class_of, common_side, image_paths

DIGITS_SIDE = 16
IMAGENET100_CLASSES = Path(__file__).parents[2] / "configs" / "imagenet100_classes.txt"
# torchvision: set -> (class, folder that it makes under data_dir, side)
_TORCHVISION = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py", 32),
    "cifar100": ("CIFAR100", "cifar-100-python", 32),
    "stl10": ("STL10", "stl10_binary", 96),
}


class ImageSequence(Protocol):
    """Images by position, each uint8 [height, width, 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> np.ndarray: ...


class Source(NamedTuple):
    """One split of a set, not yet stored."""

    images: ImageSequence
    labels: np.ndarray  # int64 [images], -1 where unlabelled
    classes: list[str]
    fingerprint: str  # changes when any image or label does, and when a file is touched or moved
    identity: str  # of names, sizes and labels: stays when the files are copied elsewhere
    side: int | None  # in pixels, where all images are squares of one size; else None


class Stl10Images:
    """Images of STL-10's .bin files, one file after the other, mapped: all of them would take 3 GB of memory."""

    def __init__(self, files: Sequence[Path]):
        self.parts = [np.memmap(file, np.uint8, "r").reshape(-1, 3, 96, 96) for file in files]
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, position: int) -> np.ndarray:
        """uint8 [96, 96, 3]."""
        part = int(np.searchsorted(self.ends, position, side="right"))
        columns = self.parts[part][position - self.ends[part]]  # from that part's end: negative; [3, column, row]
        return np.ascontiguousarray(columns.transpose(2, 1, 0))


def open_source(name: str, data_dir: Path, split: str) -> Source | None:
    """Find a set's images; torchvision's sets are downloaded where they are missing.

    name: a set of `config.SetName`; split: "train" (all there is to pretrain on) or "test".
    Returns None when the set has no such split. Raises InputError with the ways out when there are no images.
    """
    if name == "digits":
        return _digits(split)
    if name in _TORCHVISION:
        kind, folder, side = _TORCHVISION[name]
        read = _stl10 if name == "stl10" else _pickled_cifar
        if (data_dir / folder).is_dir():
            return read(kind, data_dir, folder, side, split)
        if (data_dir / "train").is_dir():
            return _folder(name, data_dir, split, side)
        _download(name, kind, data_dir)
        return read(kind, data_dir, folder, side, split)
    return _folder(name, data_dir, split, None, only=_listed(IMAGENET100_CLASSES) if name == "imagenet100" else None)


def stl10_folds(data_dir: Path) -> np.ndarray:
    """STL-10's ten predefined folds of its labelled images, for the protocol of its authors: train a probe on each.

    Returns int64 [10, n] (n = 1,000 in the set itself): positions in the labelled images, which are also the first of
    train's .beton. Raises InputError where data_dir/stl10_binary/fold_indices.txt is missing or not ten such folds.
    """
    file = data_dir / _TORCHVISION["stl10"][1] / "fold_indices.txt"
    try:
        folds = np.array([[int(i) for i in line.split()] for line in file.read_text().splitlines() if line.strip()])
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except ValueError:  # not numbers, or lines of different lengths
        folds = np.zeros((0, 0), dtype=np.int64)
    if len(folds) != 10 or folds.min() < 0 or any(len(np.unique(fold)) != len(fold) for fold in folds):
        raise InputError(f"{file} is not ten lines of as many positions each, none twice in a line")
    return folds


def _digits(split: str) -> Source:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    chosen = np.sort(train if split == "train" else test)
    gray = (digits.images[chosen] * (255 / 16)).astype(np.uint8)
    small = [Image.fromarray(image).resize((DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.BICUBIC) for image in gray]
    images = np.stack([np.asarray(image.convert("RGB")) for image in small])
    labels = digits.target[chosen].astype(np.int64)
    content = _hash(images.tobytes() + labels.tobytes())
    return Source(images, labels, [str(i) for i in range(10)], content, content, DIGITS_SIDE)


def _pickled_cifar(kind: str, data_dir: Path, folder: str, side: int, split: str) -> Source:
    import torchvision

    try:
        found = getattr(torchvision.datasets, kind)(data_dir, train=split == "train")
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{data_dir / folder}: torchvision cannot read {kind} there ({reason})") from None
    labels = np.asarray(found.targets, dtype=np.int64)
    files = sorted(p for p in (data_dir / folder).iterdir() if p.is_file())
    return Source(found.data, labels, list(found.classes), *_fingerprints(files, data_dir, labels), side)


def _stl10(kind: str, data_dir: Path, folder: str, side: int, split: str) -> Source:
    """Not by torchvision, which reads and sums 3 GB at every start."""
    root = data_dir / folder
    try:
        labels = np.fromfile(root / f"{split}_y.bin", np.uint8).astype(np.int64) - 1
        labelled = Stl10Images([root / f"{split}_X.bin"])
        images = Stl10Images([root / "train_X.bin", root / "unlabeled_X.bin"]) if split == "train" else labelled
        classes = (root / "class_names.txt").read_text().split()
    except (OSError, ValueError) as error:
        raise InputError(f"{root}: {kind} cannot be read there ({error})") from None
    if len(labelled) != len(labels) or not np.isin(labels, np.arange(len(classes))).all():
        raise InputError(f"{root}: {kind} cannot be read there ({split}_X.bin and {split}_y.bin do not fit)")
    labels = np.concatenate([labels, np.full(len(images) - len(labels), -1)])
    files = sorted(p for p in root.iterdir() if p.is_file())
    return Source(images, labels, classes, *_fingerprints(files, data_dir, labels), side)


@contextlib.contextmanager
def _scratch_in(data_dir: Path) -> Iterator[Path]:
    """A temporary folder, locked. Those of killed processes are removed; a living one's is known by its lock."""
    for left_over in data_dir.glob(".download-*"):
        with contextlib.suppress(OSError), _locked(left_over):
            shutil.rmtree(left_over, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
    try:
        with _locked(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError where another process has locked it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _download(name: str, kind: str, data_dir: Path) -> None:
    """Let torchvision download the set, into a temporary folder first, so that nothing half-written stays."""
    import torchvision

    ways_out = (
        f"put torchvision's files ({_TORCHVISION[name][1]}/) or class folders (train/CLASS/*, test/CLASS/*) "
        f"there, or name another folder with --data-dir"
    )
    is_new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"no {name} images in {data_dir}, which cannot be written: {error.strerror}; {ways_out}"
        ) from None
    patience_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)  # torchvision itself would wait for ever on a silent server
    try:
        with _scratch_in(data_dir) as scratch:
            getattr(torchvision.datasets, kind)(scratch, download=True)
            for found in scratch.iterdir():
                if found.is_dir():
                    found.rename(data_dir / found.name)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"no {name} images in {data_dir} and the download failed ({reason}); {ways_out}") from None
    finally:
        socket.setdefaulttimeout(patience_s)
        if is_new and not any(data_dir.iterdir()):
            data_dir.rmdir()


def _listed(file: Path) -> frozenset[str]:
    """The class names in a file, one a line."""
    try:
        return frozenset(file.read_text().split())
    except OSError as error:
        raise InputError(f"{file}, the list of classes, is part of the source tree: {error.strerror}") from None


def _folder(
    name: str, data_dir: Path, split: str, side: int | None, *, only: frozenset[str] | None = None
) -> Source | None:
    """Class folders train/CLASS/*, or CLASS/* or loose (unlabelled) images in data_dir itself; test/ or val/ beside.
    `side`: what the set's images must measure; `only`: the classes to take, all of which must be there."""
    if not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir}: no such folder")
    held_out = [data_dir / s for s in ("test", "val") if (data_dir / s).is_dir()]
    has_train = (data_dir / "train").is_dir()
    train_root = data_dir / "train" if has_train else data_dir
    paths = image_paths(train_root, without=[] if has_train else held_out, only=only)
    classes = sorted({class_of(p, train_root) for p in paths} - {""})
    absent = sorted((only or frozenset()).difference(classes))
    if only and absent:
        raise InputError(
            f"{train_root} has no images of {len(absent)} of the {len(only)} classes of {name}: {_some(absent)}"
        )
    root = train_root
    if split == "test":
        if not held_out:
            return None
        root = held_out[0]
        paths = image_paths(root, without=[], only=only)
        unknown = sorted({class_of(p, root) for p in paths} - {"", *classes})
        if unknown and classes:
            raise InputError(f"{root} has classes that {train_root} lacks: {_some(unknown)}")
    if not paths:
        raise InputError(f"no images in {root} (looked for {name} as CLASS/*.jpg, .png, .webp, ... or loose files)")
    # One class says nothing to a probe: such images are as unlabelled as loose ones.
    classes = classes if len(classes) > 1 else []
    number = {c: i for i, c in enumerate(classes)}
    labels = np.array([number.get(class_of(p, root), -1) for p in paths], dtype=np.int64)
    if side is None and name == "folder":
        side = common_side(paths)
    return Source(ImageFiles(paths), labels, classes, *_fingerprints(paths, data_dir, labels), side)


def _some(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _fingerprints(files: Sequence[Path], root: Path, labels: np.ndarray) -> tuple[str, str]:
    """(fingerprint, identity) of a Source."""
    stats = [(str(p.relative_to(root)), _stat(p)) for p in files]
    touched = "\n".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats).encode()
    copied = "\n".join(f"{name} {s.st_size}" for name, s in stats).encode()
    return _hash(touched + labels.tobytes()), _hash(copied + labels.tobytes())


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError:  # a link to nowhere: an image that does not decode, and is named as one
        return path.lstat()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

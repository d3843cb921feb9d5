"""A set of images as training sees it: found, stored and split."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.beton import Beton, ensure_beton, is_stored, known_sides
from effssl.data.beton_file import num_bytes_in
from effssl.data.decode import Decoding
from effssl.data.fingerprints import digest
from effssl.data.headers import Sides
from effssl.data.joined import open_joined
from effssl.data.kept_listing import keep_listing, kept_listing
from effssl.data.shards import Columns
from effssl.data.sources import Source, check_is_there, open_source, part_of
from effssl.data.splits import of_all, train_and_validation
from effssl.image_config import Images, Storage
from effssl.ranges import AUTO
from effssl.run import distributed

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
OWN_SETS = ("folder", "list", "hf")  # of images of the user's own
SAMPLED = 512  # images that stand for all of a set


class Data(NamedTuple):
    """A set, stored and split; positions are int64 into the .beton of train, sorted."""

    train: Beton
    test: Beton | None
    train_positions: np.ndarray  # what probes and classifiers may be fitted on
    val_positions: np.ndarray  # what choices are made by
    pretrain_positions: np.ndarray  # the training positions, or all
    source: Source | None = None  # of train, which knows the images' names

    @property
    def known_by(self) -> str:
        """What the training images are known by, wherever they lie."""
        return f"{len(self.train.labels)} images {self.train.identity}"

    @property
    def identity(self) -> str | None:
        """What the training images are known by before any is stored: those that cannot be are
        among them."""
        return None if self.source is None else self.source.identity

    def stored(self, split: Split) -> Beton:
        """Return a split that the set has."""
        beton = self.train if split == "train" else self.test
        assert beton is not None
        return beton


def find_split(storage: Storage, split: Split) -> Source | None:
    """Find a split of the set, not stored yet; None if the set has none of it. Raises InputError as
    open_source does."""
    if storage.trust_store and (kept := _kept(storage, split)) is not None:
        return kept[0]
    known = known_sides(_folder(storage), f"{storage.data}-{split}", storage)

    def open_one(place: Path, split: str, sides: Sides) -> Source | None:
        return open_source(
            storage.data,
            place,
            split,
            labels=storage.labels,
            decoding=_decoding(storage),
            columns=Columns(storage.image_column, storage.label_column),
            sides=sides,
        )

    if not storage.more_dirs:
        return open_one(storage.data_dir, split, known)
    if storage.data not in OWN_SETS:
        raise InputError(f"--more-dirs is for --data {', '.join(OWN_SETS)}, not {storage.data}")
    places = [storage.data_dir, *storage.more_dirs]
    return open_joined(places, split, lambda place, of: open_one(place, of, None), known)


def open_split(storage: Storage, split: Split) -> tuple[Source, Beton] | None:
    """Find a split of the set, say what was found, and store it if it is not stored yet.

    Returns None if the set has no such split. Raises InputError for anything about the images that
    the user has to mend.
    """
    folder, name = _folder(storage), f"{storage.data}-{split}"
    kept = _kept(storage, split) if storage.trust_store else None
    if kept is not None and kept[0] is not None and not is_stored(kept[0], folder, name, storage):
        kept = None  # images are only ever written as they are now
    if kept is None:
        source = find_split(replace(storage, trust_store=False), split)
    else:
        (source,) = kept
    if source is not None and distributed.is_first():
        for note in source.notes:
            print(note, flush=True)
    stored = None if source is None else (source, ensure_beton(source, folder, name, storage))
    if storage.trust_store and kept is None and distributed.is_first():
        keep_listing(_listing(storage, split), source)
    return stored


def _kept(storage: Storage, split: Split) -> tuple[Source | None] | None:
    return kept_listing(_listing(storage, split), split, _decoding(storage))


def _decoding(storage: Storage) -> Decoding:
    # windows.py has made numbers of what is to be found out.
    assert storage.gray_range != "auto" and storage.channels != AUTO
    return Decoding(
        storage.gray_range, storage.max_image_gib, 2 * storage.max_side, storage.channels
    )


def _folder(storage: Storage) -> Path:
    """Return where a set's .beton files lie."""
    data_dir = storage.data_dir.parent if storage.data_dir.is_file() else storage.data_dir
    return storage.beton_dir or data_dir / "beton"


def _listing(storage: Storage, split: Split) -> Path:
    """Return the file of kept_listing.py for a split: another one for what finds other images."""
    # As they are spelled too, which is how images are named.
    places = [(str(at), str(at.resolve())) for at in (storage.data_dir, *storage.more_dirs)]
    found_by = storage.labels, storage.channels is not None
    key = digest(repr((places, found_by)).encode())[:10]
    return _folder(storage) / f"{storage.data}-{split}-{key}.listing.npz"


def reopen_data(images: Images) -> Data:
    """Do what open_data does for a run that was trained on these images, so without a download.

    Raises InputError too if they are not there.
    """
    for place in (images.data_dir, *images.more_dirs):
        check_is_there(images.data, place)
    return open_data(images)


def open_data(images: Images) -> Data:
    """Find the set, store what is not stored yet, and cut the validation split from train.

    Raises InputError for anything about the images that the user has to mend.
    """
    train_split, test_split = (open_split(images, split) for split in SPLITS)
    assert train_split is not None  # open_source finds train or raises
    source, train = train_split
    test = test_split[1] if test_split is not None else None
    return Data(train, test, *_cut(train.labels, images), source)


class Sample(NamedTuple):
    """A few stored images that stand for all of a set."""

    data: Data  # as many positions as there are images to train on, each that of one of the few
    num_images: int  # in the training split
    num_bytes: int  # that storing all of it would take


def open_sample(images: Images, folder: Path, num_images: int = 0) -> Sample:
    """Store a few training images in `folder`, and let them stand for all.

    num_images: of the training split, if it is to have another number of images than there are.
    Raises InputError as open_data does.
    """
    source = find_split(images, "train")
    assert source is not None  # it finds train or raises
    num_images = num_images or len(source.labels)
    chosen = np.linspace(0, len(source.labels) - 1, SAMPLED).astype(np.int64)
    few = np.unique(chosen)
    part = part_of(source, few)
    with contextlib.redirect_stdout(io.StringIO()):  # which file it writes matters to nobody
        beton = ensure_beton(part, folder, f"{images.data}-train", images)
    of_each = num_bytes_in(beton.path) / len(beton.labels)
    labels = np.resize(source.labels, num_images)
    fit, val, pretrain = (positions % len(beton.labels) for positions in _cut(labels, images))
    return Sample(
        Data(beton, None, fit, val, pretrain, part), num_images, round(num_images * of_each)
    )


def _cut(labels: np.ndarray, images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions to fit probes on, to validate on, and to pretrain on."""
    positions, validation = train_and_validation(
        labels, images.val_fraction, images.fraction, images.split_seed
    )
    if len(positions) == 0:
        raise InputError(
            f"--fraction {images.fraction} of {len(labels)} images leaves none to train on"
        )
    pretrain = positions
    if not images.hold_out:
        pretrain = of_all(labels, images.fraction, images.split_seed)
    return positions, validation, pretrain

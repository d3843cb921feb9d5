"""A zip or a tar with images, read in place: nothing of it is ever unpacked to disk."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from effssl import InputError
from effssl.data.fingerprints import digest
from effssl.data.folders import is_read
from effssl.data.image_files import abridged, counted, describe_labels, is_image, printable
from effssl.data.split_folders import split_of, told_apart

KINDS = (".zip", ".tar")
_LOCAL_HEADER = struct.Struct("<4s22x2H")  # of a file in a zip: signature, lengths of name and more
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1  # a bit of a zip's flags
_OF_DOS = 0  # a zip's number for the system that a file comes from


class Member(NamedTuple):
    """A file in an archive, by where its bytes lie."""

    archive: Path
    name: str  # its path in the archive
    offset: int  # of its local header in a zip, of its bytes in a tar
    stored: int  # bytes in the archive
    size: int  # bytes once decompressed
    is_zip: bool
    is_deflated: bool

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        """Read the file. Raises OSError or zlib.error if the archive is damaged there."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            if self.is_zip:
                header = file.read(_LOCAL_HEADER.size)
                signature, name, extra = _LOCAL_HEADER.unpack(header)
                if signature != b"PK\x03\x04":
                    raise OSError("the archive is damaged here")
                file.seek(name + extra, os.SEEK_CUR)
            content = file.read(self.stored)
        return zlib.decompress(content, -zlib.MAX_WBITS) if self.is_deflated else content


class Archived(NamedTuple):
    """The images of one split of an archive."""

    members: list[Member]  # in the order of their paths' parts
    labels: np.ndarray  # int64 [images], -1 if unlabelled
    classes: list[str]
    fingerprint: str  # see sources.Source
    identity: str
    notes: list[str]  # sentences about what was found, and what is not read


def is_archive(data_dir: Path) -> bool:
    """Say whether a set's folder is a file that stands for one."""
    return data_dir.suffix.lower() in KINDS and data_dir.is_file()


class _Place(NamedTuple):
    """Where a file lies in an archive, as if that were a folder."""

    split: str | None  # "train", "test" for what is held out, None for what is not read
    folder: str  # the first folder within the split; "" for a loose file


def read_archive(
    file: Path, split: str, *, labels: bool = True, arrays: bool = False
) -> Archived | None:
    """Find the images of a split, "train" or "test", as in a folder with the archive's contents;
    folders around all of it are passed through.

    labels: if folders are classes; arrays: see is_image. Returns None if there is no such split.
    Raises InputError for what is no such archive or is cut short, has no images, has splits deeper
    down, or classes in test alone.
    """
    members, others = _members(file, arrays)
    if not members:
        there = f"; there are files of other kinds: {counted(others)}" if others else ""
        raise InputError(f"no images in {file}{there}")
    places, notes = _places(file, [member.name for member in members], check=labels)
    chosen = [i for i, place in enumerate(places) if place.split == split]
    if not chosen:
        if split == "train":
            raise InputError(f"{file}: no image has the split train")
        return None
    classes = sorted({place.folder for place in places if place.split == "train"} - {""})
    classes = classes if labels and len(classes) > 1 else []
    folders = [places[i].folder for i in chosen]
    unknown = sorted({*folders} - {"", *classes}) if classes else []
    if unknown:
        raise InputError(f"{file}: test has classes that train lacks: {abridged(unknown)}")
    number = {name: i for i, name in enumerate(classes)}
    numbers = np.array([number.get(folder, -1) for folder in folders], np.int64)
    found, printed = [members[i] for i in chosen], [printable(name) for name in classes]
    said = [f"{split}: {file} has {describe_labels(numbers, printed)}"]
    if others and split == "train":
        said.append(f"not read in {file}, as not taken for images: {counted(others)}")
    sizes, state = "\n".join(f"{m.name} {m.size}" for m in found), file.stat()
    identity = digest(os.fsencode(sizes) + numbers.tobytes())
    fingerprint = digest(f"{identity} {file.name} {state.st_size} {state.st_mtime_ns}".encode())
    return Archived(
        found, numbers, printed, fingerprint, identity, said + notes * (split == "train")
    )


def _places(file: Path, names: list[str], *, check: bool) -> tuple[list[_Place], list[str]]:
    """Say where files lie, and what is not read. check: for splits deeper down."""
    every = [PurePosixPath(name).parts for name in names]
    while len({parts[0] for parts in every}) == 1 and len(every[0]) > 1:
        if split_of(every[0][0]) is not None or all(len(parts) == 2 for parts in every):
            break
        every = [parts[1:] for parts in every]
    folders = [file / name for name in sorted({parts[0] for parts in every if len(parts) > 1})]
    if len({parts[0] for parts in every}) > 1:  # else one holds all, whatever it is called
        told_apart(file, folders, folders)
    spelled = [split_of(parts[0]) if len(parts) > 1 else None for parts in every]
    has_train = "train" in spelled
    inside = [parts[1:] if s else parts for parts, s in zip(every, spelled, strict=True)]
    deeper = sorted({p for parts in inside for p in parts[:-1] if split_of(p) is not None})
    if check and deeper:
        raise InputError(
            f"{file}: folders with the names of splits ({abridged(deeper)}) lie among the images "
            "(--no-labels takes all as they are, if folders mean nothing here)"
        )
    # As in a folder, a test without class folders gives way to a val that has some.
    with_classes = {s for s, parts in zip(spelled, inside, strict=True) if len(parts) > 1}
    is_test = "test" in spelled and ("test" in with_classes or "val" not in with_classes)
    held_out = "test" if is_test else "val"
    role = {"train": "train", None: None if has_train else "train", held_out: "test"}
    places = [
        _Place(role.get(s), parts[0] if len(parts) > 1 else "")
        for s, parts in zip(spelled, inside, strict=True)
    ]
    not_read = sum(place.split is None for place in places)
    notes = [f"not read: {not_read} images beside train and {held_out}"] if not_read else []
    return places, notes


def _members(file: Path, arrays: bool) -> tuple[list[Member], Counter[str]]:
    """Return the images of an archive in the order of their paths' parts, and count what else there
    is by suffix. Of names that come again the last counts, as for whoever unpacks."""
    listing = _of_zip if file.suffix.lower() == ".zip" else _of_tar
    others: Counter[str] = Counter()
    members: dict[str, Member] = {}
    try:
        for member in listing(file):
            path = PurePosixPath(member.name)
            if not all(is_read(folder) for folder in path.parts[:-1]):
                continue
            if is_image(path.name, arrays=arrays):
                members[member.name] = member
            elif not path.name.startswith("."):
                others[path.suffix.lower()] += 1
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file} cannot be read, or is cut short: {reason}") from None
    return sorted(members.values(), key=lambda m: PurePosixPath(m.name).parts), others


def _of_zip(file: Path) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename
            if info.create_system == _OF_DOS and "/" not in name:
                name = name.replace("\\", "/")  # as unzip does: old tools of Windows wrote them
            if name.endswith("/"):
                continue
            if info.compress_type not in _READABLE or info.flag_bits & _ENCRYPTED:
                raise OSError(f"{name} is encrypted, or neither stored nor deflated")
            yield Member(
                file,
                name,
                info.header_offset,
                info.compress_size,
                info.file_size,
                is_zip=True,
                is_deflated=info.compress_type == zipfile.ZIP_DEFLATED,
            )


def _of_tar(file: Path) -> Iterator[Member]:
    length, at = file.stat().st_size, {}
    with tarfile.open(file, "r:") as archive:
        for info in archive:
            if info.isreg():
                if info.offset_data + info.size > length:
                    raise EOFError(f"{info.name} is not all there")
                at[info.name] = info.offset_data, info.size
            elif info.islnk() and info.linkname in at:  # a second name of a file before it
                at[info.name] = at[info.linkname]
            else:
                continue
            (offset, size), name = at[info.name], info.name.removeprefix("./")
            yield Member(file, name, offset, size, size, is_zip=False, is_deflated=False)

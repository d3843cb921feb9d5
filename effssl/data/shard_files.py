"""One Parquet or Arrow file with images in a column: its footer, its columns, its rows' bytes."""

from __future__ import annotations

import functools
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effssl import InputError
from effssl.data.image_files import abridged
from effssl.data.split_folders import split_of

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

KINDS = (".parquet", ".arrow")
_READING = threading.Lock()


class Row(NamedTuple):
    """An image in a shard."""

    shard: Path
    column: str
    group: int  # row group of a Parquet, batch of an Arrow file
    at: int  # in the group
    name: str

    def __str__(self) -> str:
        return f"{self.shard}, {self.name.rpartition('/')[2]}"

    @property
    def size(self) -> int:
        """Bytes of the image as it is stored; it is read for that."""
        return len(self.read_bytes())

    def read_bytes(self) -> bytes:
        """Read the encoded image. Raises OSError if the row has none."""
        with _READING:  # or each thread that comes to a new group would decompress it for itself
            images = _images_of_group(self.shard, self.column, self.group)
        value = images[self.at].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            path = value.get("path") if isinstance(value, dict) else None
            raise OSError(f"the row names a file, {path}, and has no bytes" if path else "no image")
        return content


class Shard(NamedTuple):
    """A file, and what its schema and footer say."""

    path: Path
    name: str  # below the set's folder
    split: str | None
    schema: pyarrow.Schema
    group_rows: list[int]
    group_bytes: list[int]  # once decompressed


def open_shard(file: Path, below: Path) -> Shard:
    """Read what a file says about itself.

    below: its path below the set's folder, whose folders, or else words of its name, may spell a
    split. Raises InputError if it cannot be read, or spells several.
    """
    import pyarrow

    words = re.split(r"[^A-Za-z]+", file.stem)
    in_folders = {split_of(part) for part in below.parts[:-1]} - {None}
    splits = in_folders or {split_of(word) for word in words} - {None}
    if len(splits) > 1:
        raise InputError(f"{file}: its name spells several splits; rename it")
    try:
        if file.suffix.lower() == ".arrow":
            table = _arrow_table(file)
            chunks = table.column(0).chunks if table.num_columns else []
            rows, sizes = [len(chunk) for chunk in chunks], [table.nbytes]
            schema = table.schema
        else:
            parquet = _parquet_file(file)
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
            rows, sizes = [g.num_rows for g in groups], [g.total_byte_size for g in groups]
            schema = parquet.schema_arrow
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read, or is cut short: {reason}") from None
    return Shard(file, below.as_posix(), next(iter(splits), None), schema, rows, sizes)


def class_names(schema: pyarrow.Schema, column: str) -> list[str]:
    """Return the names of a ClassLabel's numbers; none if it is no such column."""
    feature = feature_of(schema, column)
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


def feature_of(schema: pyarrow.Schema, column: str) -> dict[str, Any]:
    """Return what Hugging Face's metadata say about a column."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = noted["info"]["features"][column]
    except (ValueError, KeyError, TypeError):
        return {}
    return feature if isinstance(feature, dict) else {}


def holds_images(schema: pyarrow.Schema, column: str) -> bool:
    """Say whether a column has images: by the metadata, else by its type."""
    kind = feature_of(schema, column).get("_type")
    return kind == "Image" or (kind is None and holds_bytes(schema.field(column).type))


def holds_bytes(kind: pyarrow.DataType) -> bool:
    """Say whether values are bytes, or have `bytes`, as Hugging Face's images do."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def columns_in(schema: pyarrow.Schema) -> str:
    """List the columns."""
    return abridged(schema.names, 20) or "none"


def column_of(file: Path, column: str) -> list[Any]:
    """Read a column, of labels for example, from all rows."""
    if file.suffix.lower() == ".arrow":
        return _arrow_table(file)[column].to_pylist()
    # No threads: processes that store images are forked from this one.
    return _parquet_file(file).read([column], use_threads=False)[column].to_pylist()


def forget() -> None:
    """Open files anew from now on: they may have changed."""
    for opened in (_images_of_group, _parquet_file, _arrow_table):
        opened.cache_clear()


@functools.lru_cache(2)
def _images_of_group(file: Path, column: str, group: int) -> pyarrow.Array | pyarrow.ChunkedArray:
    """Return a column of one row group; the last two are kept, as rows are read in order."""
    if file.suffix.lower() == ".arrow":
        return _arrow_table(file)[column].chunk(group)
    return _parquet_file(file).read_row_group(group, [column], use_threads=False)[column]


@functools.lru_cache(8)
def _parquet_file(file: Path) -> pyarrow.parquet.ParquetFile:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file, pre_buffer=False)


@functools.lru_cache(64)
def _arrow_table(file: Path) -> pyarrow.Table:
    """Map a file into memory: of a stream, as Hugging Face writes it, or with a footer."""
    import pyarrow

    mapped = pyarrow.memory_map(str(file))
    try:
        return pyarrow.ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_file(mapped).read_all()

# SPDX-License-Identifier: Apache-2.0
"""The rows to score: Parquet files, split into chunks that are read one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


READ_ROWS = 4096
# Part names have five digits, and Ray Data takes about a millisecond to start each.
MOST_PARTS = 100_000


class ChunkError(ValueError):
    """A chunk that cannot be scored."""


@dataclass(frozen=True)
class Source:
    """One Parquet file, as it was when the work was planned.

    Args:
        path (`str`): its path.
        name (`str`): its path relative to the input folder.
        rows (`int`): number of rows.
        bytes (`int`): its size.
        modified_ns (`int`): last modification time.
    """

    path: str
    name: str
    rows: int
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, which become one part of the output.

    Args:
        part (`int`): its number; parts in order have the rows in order.
        path (`str`): of the file.
        start (`int`): first row, within the file.
        rows (`int`): number of rows.
    """

    part: int
    path: str
    start: int
    rows: int

    def __str__(self) -> str:
        return f"rows {self.start} to {self.start + self.rows - 1} of {self.path!r}"


def find_sources(given: str) -> tuple[list[Source], pa.Schema]:
    """Return the files of INPUT sorted by name, and the columns that all of them have. Only footers are read.

    Args:
        given (`str`): a Parquet file, or a folder with `*.parquet` at any depth; names that start with "." or "_" are
            ignored.

    Raises:
        ValueError: there is no such file, one is not Parquet or has other columns than the first, or all are empty.
    """
    root = Path(given).resolve()
    if root.is_dir():
        under = [(path.relative_to(root), path) for path in root.rglob("*.parquet")]
        named = sorted((name, path) for name, path in under if not any(part[0] in "._" for part in name.parts))
    else:
        named = [(Path(root.name), root)] if root.is_file() else []
    if not named:
        raise ValueError(f"INPUT: must be a parquet file, or a folder with *.parquet, got {given!r}.")
    sources, schema = [], None
    for name, path in named:
        try:
            with pq.ParquetFile(path) as file:
                rows, columns = file.metadata.num_rows, file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"INPUT: must hold parquet files, but {str(path)!r} is not one: {error}") from error
        schema = columns if schema is None else schema
        if not columns.equals(schema):
            raise ValueError(
                f"INPUT: all files must have the columns of {named[0][0].as_posix()!r}, {describe(schema)}, but "
                f"{name.as_posix()!r} has {describe(columns)}."
            )
        about = path.stat()
        sources.append(Source(str(path), name.as_posix(), rows, about.st_size, about.st_mtime_ns))
    if not any(source.rows for source in sources):
        raise ValueError(f"INPUT: must hold rows, got 0 in {len(sources)} files of {given!r}.")
    return sources, schema


def describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def check_unchanged(given: str, sources: Sequence[Source]) -> None:
    """Reject an INPUT whose files have changed since the work was planned.

    Args:
        given (`str`): see [`find_sources`].
        sources (`Sequence[Source]`): the files found then.

    Raises:
        ValueError: a file has changed, disappeared or appeared.
    """
    changed = sorted({each.name for each in {*find_sources(given)[0]} ^ {*sources}})
    if changed:
        raise ValueError(
            f"INPUT: must not change while it is scored, but {', '.join(changed)} did: score it again into another "
            "folder."
        )


def plan(sources: Sequence[Source], chunk_rows: int) -> list[Chunk]:
    """Return chunks of at most `chunk_rows` rows that contain every row once and in order.

    Raises:
        ValueError: there are too many of them.
    """
    places = [
        (source.path, start, min(chunk_rows, source.rows - start))
        for source in sources
        for start in range(0, source.rows, chunk_rows)
    ]
    if len(places) > MOST_PARTS:
        raise ValueError(f"--chunk-rows: must give at most {MOST_PARTS} parts, got {len(places)} from {chunk_rows}.")
    return [Chunk(part, *place) for part, place in enumerate(places)]


def row_groups(sizes: Sequence[int], start: int, rows: int) -> tuple[list[int], int]:
    """Return which row groups contain some rows of a file, and how many rows of these groups precede them.

    Args:
        sizes (`Sequence[int]`): rows of each row group.
        start (`int`): the first row.
        rows (`int`): number of rows, at least 1.
    """
    groups, before, first = [], 0, 0
    for index, size in enumerate(sizes):
        if size and before < start + rows and before + size > start:
            first = first if groups else before
            groups.append(index)
        before += size
    return groups, start - first


def read_chunk(chunk: Chunk) -> pa.Table:
    """Read the rows of a chunk with all their columns. Preceding rows of their row group are read and dropped.

    Raises:
        ChunkError: the file no longer exists, or is damaged.
    """
    try:
        with pq.ParquetFile(chunk.path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            groups, skip = row_groups(sizes, chunk.start, chunk.rows)
            left, found = chunk.rows, []
            for batch in file.iter_batches(min(READ_ROWS, chunk.rows), row_groups=groups):
                taken = batch.slice(skip, left)
                skip = max(0, skip - len(batch))
                left -= len(taken)
                if len(taken):
                    found.append(taken)
                if left == 0:
                    break
            table = pa.Table.from_batches(found, file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise ChunkError(f"{chunk} cannot be read: {error}") from error
    if len(table) != chunk.rows:
        raise ChunkError(f"{chunk} must all be there, got {len(table)}: the file has changed.")
    return table

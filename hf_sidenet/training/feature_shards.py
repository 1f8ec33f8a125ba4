# SPDX-License-Identifier: Apache-2.0
"""Folder of shards: safetensors files with some rows of a data set each, and a manifest once all are complete.

A shard is written to a temporary file and renamed, so if the process is killed, it is complete or absent.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..io.files import replacing
from ..io.locks import folder_lock
from ..models.errors import ArgumentError


FORMAT = {"format": "hf_sidenet.Features", "version": "1"}
MANIFEST = "features.json"
ROWS, LABELS = "rows", "labels"


class ShardFolder:
    """Tensors with one row per row of a data set, split into shards.

    Args:
        path (`str` or `os.PathLike`): the folder.
        fingerprint (`str`): fingerprint of everything the tensors depend on; shards with another one are ignored.
        num_rows (`int`): number of rows of the data set.
        widths (`dict[str, int]`): number of columns of every tensor, by name.
    """

    def __init__(self, path: str | os.PathLike, fingerprint: str, num_rows: int, widths: dict[str, int]):
        self.path = Path(path)
        self.identity = {**FORMAT, "fingerprint": fingerprint}
        # One entry: safetensors writes several in arbitrary order, and equal features must give equal bytes.
        self._metadata = {"about": json.dumps(self.identity)}
        self.num_rows = num_rows
        self.widths = widths

    def shard(self, number: int) -> Path:
        """Return the path of the shard with this number."""
        return self.path / f"shard-{number:05d}.safetensors"

    def shards(self) -> list[Path]:
        """Return the files in the manifest; none if it is missing or has another fingerprint."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text())
            if any(manifest[name] != value for name, value in self.identity.items()):
                return []
            return [self.path / name for name in manifest["shards"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def is_complete(self) -> bool:
        """Return whether the manifest exists and its shards contain every row once."""
        found = [self._rows_of(path) for path in self.shards()]
        whole = [rows for rows in found if rows is not None]
        if not whole or len(whole) < len(found):
            return False
        return sorted(row for rows in whole for row in rows) == list(range(self.num_rows))

    def unfinished(self, plan: list[list[int]]) -> list[int]:
        """Return the numbers of the shards that are missing, damaged, or contain other rows than planned."""
        return [number for number, rows in enumerate(plan) if self._rows_of(self.shard(number)) != rows]

    def write(self, number: int, rows: list[int], tensors: dict[str, torch.Tensor]) -> None:
        """Write one shard.

        Args:
            number (`int`): number of the shard.
            rows (`list[int]`): row indices in the data set.
            tensors (`dict[str, torch.Tensor]`):
                `(len(rows), width)` for every name in `widths`, and optionally `"labels"` of shape `(len(rows),)`.
        """
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(self.shard(number)) as temporary:
            save_file({ROWS: torch.tensor(rows), **tensors}, temporary, metadata=self._metadata)

    def finish(self, num_shards: int, about: dict[str, Any]) -> None:
        """Write the manifest, with further information about the tensors."""
        shards = [self.shard(number).name for number in range(num_shards)]
        manifest = {**self.identity, **about, "num_rows": self.num_rows, "widths": self.widths, "shards": shards}
        with replacing(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2) + "\n")

    @contextmanager
    def at_work(self, num_shards: int) -> Iterator[None]:
        """Mark the folder as being written to; if no other process writes, remove leftovers of killed runs.

        These are temporary files, and shards beyond the planned number.
        """
        with folder_lock(self.path, wait=False) as alone:
            if alone:
                keep = {self.shard(number) for number in range(num_shards)}
                for path in [*self.path.glob(".*.tmp"), *(set(self.path.glob("shard-*.safetensors")) - keep)]:
                    path.unlink(missing_ok=True)
        with folder_lock(self.path, shared=True):
            yield

    def needed(self, name: str) -> torch.Tensor:
        """Return [`~ShardFolder.column`] for a tensor that always exists."""
        column = self.column(name)
        assert column is not None  # A complete folder has every tensor in `widths`.
        return column

    def column(self, name: str) -> torch.Tensor | None:
        """Read one tensor with all rows in the order of the data set, on the CPU.

        Returns:
            `torch.Tensor`: tensor with `num_rows` rows; `None` if no shard has it.

        Raises:
            ValueError: the manifest or a shard is damaged or missing, or only some shards have the tensor.
        """
        whole, num_found, shards = None, 0, self.shards()
        if not shards:
            raise ValueError(f"{str(self.path)!r} must have a valid {MANIFEST}, but has none.")
        for path in shards:
            with _opened(path) as file:
                if name not in file.keys():  # noqa: SIM118 - not a mapping
                    continue
                part = file.get_tensor(name)
                whole = part.new_empty(self.num_rows, *part.shape[1:]) if whole is None else whole
                whole[file.get_tensor(ROWS)] = part
                num_found += len(part)
        if num_found not in (0, self.num_rows):
            raise ArgumentError(
                name,
                f"must exist for all {self.num_rows} rows or for none, but {num_found} have it",
            )
        return whole

    def num_bytes(self) -> int:
        """Return the size of the shards on disk."""
        return sum(path.stat().st_size for path in self.shards())

    def _rows_of(self, path: Path) -> list[int] | None:
        """Return the row indices in a shard; `None` if it is missing, truncated, or has unexpected tensors."""
        try:
            with _opened(path) as file:
                rows = file.get_tensor(ROWS).tolist()
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
        except ValueError:
            return None
        expected = {name: [len(rows), width] for name, width in self.widths.items()}
        shapes.pop(ROWS)
        shapes.pop(LABELS, None)
        return rows if metadata == self._metadata and shapes == expected else None


def check_space(path: Path, needed: int) -> None:
    """Check that the disk has enough space.

    Args:
        path (`Path`): an existing folder.
        needed (`int`): number of bytes.

    Raises:
        OSError: the disk has less free space.
    """
    free = shutil.disk_usage(path).free
    if needed > free:
        raise OSError(
            f"`directory` must be on a disk with room for {readable_size(needed)} of features, but {str(path)!r} has "
            f"{readable_size(free)} free. Pass fewer `candidates`, or another `directory`."
        )


def readable_size(num_bytes: int) -> str:
    """Format a number of bytes, in MB or GB if it is large."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} must be a valid shard, but cannot be read: {error}") from error

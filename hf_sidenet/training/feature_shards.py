# SPDX-License-Identifier: Apache-2.0
"""A folder of shards: safetensors files that each hold some rows of a data set, and a manifest once all are there.

A shard is written under a temporary name and renamed, so after a kill it is complete or absent.
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
    """Tensors with one row per row of a data set, cut into shards.

    Args:
        path (`str` or `os.PathLike`): the folder.
        fingerprint (`str`): of everything the tensors were computed from; a shard with another one is not read.
        num_rows (`int`): rows of the data set.
        widths (`dict[str, int]`): columns of every tensor, by its name.
    """

    def __init__(self, path: str | os.PathLike, fingerprint: str, num_rows: int, widths: dict[str, int]):
        self.path = Path(path)
        self.identity = {**FORMAT, "fingerprint": fingerprint}
        # One entry: safetensors writes several in no fixed order, and equal features must be equal bytes.
        self._metadata = {"about": json.dumps(self.identity)}
        self.num_rows = num_rows
        self.widths = widths

    def shard(self, number: int) -> Path:
        """File of the shard with this number."""
        return self.path / f"shard-{number:05d}.safetensors"

    def shards(self) -> list[Path]:
        """Files that the manifest names; none where it is not there or belongs to something else."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text())
            if any(manifest[name] != value for name, value in self.identity.items()):
                return []
            return [self.path / name for name in manifest["shards"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def is_complete(self) -> bool:
        """Whether the manifest is there and its shards hold every row once."""
        found = [self._rows_of(path) for path in self.shards()]
        whole = [rows for rows in found if rows is not None]
        if not whole or len(whole) < len(found):
            return False
        return sorted(row for rows in whole for row in rows) == list(range(self.num_rows))

    def unfinished(self, plan: list[list[int]]) -> list[int]:
        """Numbers of the shards that are missing, damaged, or hold other rows than the plan says."""
        return [number for number, rows in enumerate(plan) if self._rows_of(self.shard(number)) != rows]

    def write(self, number: int, rows: list[int], tensors: dict[str, torch.Tensor]) -> None:
        """Write one shard.

        Args:
            number (`int`): its number.
            rows (`list[int]`): row numbers in the data set.
            tensors (`dict[str, torch.Tensor]`):
                `(len(rows), width)` for every name in `widths`, and maybe `"labels"` of shape `(len(rows),)`.
        """
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with replacing(self.shard(number)) as temporary:
            save_file({ROWS: torch.tensor(rows), **tensors}, temporary, metadata=self._metadata)

    def finish(self, num_shards: int, about: dict[str, Any]) -> None:
        """Write the manifest, with what else is to be known about the tensors."""
        shards = [self.shard(number).name for number in range(num_shards)]
        manifest = {**self.identity, **about, "num_rows": self.num_rows, "widths": self.widths, "shards": shards}
        with replacing(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2) + "\n")

    @contextmanager
    def at_work(self, num_shards: int) -> Iterator[None]:
        """Let others see that somebody writes here. If nobody else does, remove what a killed run left half-written,
        and shards above the number of the plan."""
        with folder_lock(self.path, wait=False) as alone:
            if alone:
                keep = {self.shard(number) for number in range(num_shards)}
                for path in [*self.path.glob(".*.tmp"), *(set(self.path.glob("shard-*.safetensors")) - keep)]:
                    path.unlink(missing_ok=True)
        with folder_lock(self.path, shared=True):
            yield

    def needed(self, name: str) -> torch.Tensor:
        """[`~ShardFolder.column`] of a tensor that every folder has."""
        column = self.column(name)
        assert column is not None  # A folder without it has other widths, and is another folder.
        return column

    def column(self, name: str) -> torch.Tensor | None:
        """One tensor with all rows in the order of the data set, on the CPU; nothing else is read.

        Returns:
            `torch.Tensor`: with `num_rows` on the first axis; `None` where no shard has it.

        Raises:
            ValueError: the manifest or a shard is damaged or gone, or some shards lack what others have.
        """
        whole, num_found, shards = None, 0, self.shards()
        if not shards:
            raise ValueError(f"{str(self.path)!r} must have a whole {MANIFEST}, and has none.")
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
                f"must be there for all {self.num_rows} rows or for none, but {num_found} have it",
            )
        return whole

    def num_bytes(self) -> int:
        """Size of the shards on the disk."""
        return sum(path.stat().st_size for path in self.shards())

    def _rows_of(self, path: Path) -> list[int] | None:
        """Row numbers in a shard; `None` where it is missing, cut off, or holds other tensors than it must."""
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
    """Refuse to start what the disk cannot hold.

    Args:
        path (`Path`): an existing folder.
        needed (`int`): bytes.

    Raises:
        OSError: the disk has less free space.
    """
    free = shutil.disk_usage(path).free
    if needed > free:
        raise OSError(
            f"`directory` must be on a disk with room for {readable_size(needed)} of features, but {str(path)!r} has "
            f"{readable_size(free)} free. Name fewer `candidates`, or another `directory`."
        )


def readable_size(num_bytes: int) -> str:
    """A number of bytes, in MB or GB where it is large."""
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
        raise ValueError(f"{str(path)!r} must be a whole shard, but cannot be read: {error}") from error

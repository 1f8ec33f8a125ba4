# SPDX-License-Identifier: Apache-2.0
"""The actors: each holds a runner, and turns chunks of rows into parts of the output."""

import hashlib
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scoring_plan import Chunk, ChunkError, read_chunk

from hf_sidenet import SideNetRunner
from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.data import load_processor
from hf_sidenet.export import OnnxStages
from hf_sidenet.export.exported import is_exported, sha256
from hf_sidenet.inference.precision import precision_of
from hf_sidenet.io.files import replacing
from hf_sidenet.io.fingerprint import fingerprint_weights


logger = logging.getLogger(__name__)

ANSWERS = pa.schema(
    {
        "label": pa.string(),
        "label_id": pa.int32(),
        "confidence": pa.float32(),
        "exit_index": pa.int32(),
        "error": pa.string(),
    }
)


# Ray restarts a chunk whenever its actor dies; one that kills every actor must not be restarted forever.
TRIES = 4


@dataclass(frozen=True)
class Scoring:
    """How rows are answered.

    Args:
        checkpoint (`str`): folder or Hub id of a checkpoint with SideNets, or an exported ONNX folder.
        columns (`tuple[str, ...]`): the column with the text, or two for pairs.
        thresholds (`float` or `tuple[float, ...]`, *optional*): θ, by default the checkpoint's.
        batch_size (`int`, *optional*, defaults to 64): rows per batch.
        max_length (`int`, *optional*): maximum text length, in tokens.
        prefix (`str`, *optional*, defaults to `""`): prefix of every new column's name.
        num_threads (`int`, *optional*, defaults to 1): threads per actor.
        on_gpu (`bool`, *optional*, defaults to `False`): whether an actor has a GPU, or a part of one.
        num_actors (`int`, *optional*, defaults to 1): number of actors.
    """

    checkpoint: str
    columns: tuple[str, ...]
    thresholds: float | tuple[float, ...] | None = None
    batch_size: int = 64
    max_length: int | None = None
    prefix: str = ""
    num_threads: int = 1
    on_gpu: bool = False
    num_actors: int = 1

    def names(self) -> list[str]:
        """Return the names of the new columns."""
        return [self.prefix + name for name in ANSWERS.names]

    def runner(self, device: str) -> tuple[SideNetRunner, str]:
        """Build a runner, and the fingerprint of what it runs.

        Args:
            device (`str`): its device.

        Raises:
            ValueError: the checkpoint has no SideNets, is damaged or not for texts, or an argument does not fit it.
        """
        if is_exported(self.checkpoint):
            if self.on_gpu:
                raise ValueError(
                    f"--gpus-per-actor: must be 0 for an exported CHECKPOINT, which runs on the CPU, got "
                    f"{self.checkpoint!r}."
                )
            model = OnnxStages.load(self.checkpoint, num_threads=self.num_threads)
            processor = load_processor(self.checkpoint, model.modality)
            # In int8, different files may come from the same weights.
            fingerprint = " ".join(f"{name}:{value}" for name, value in sorted(model.manifest.sha256.items()))
        else:
            try:
                model, processor = load_checkpoint(self.checkpoint)
            except (ValueError, OSError) as error:
                raise ValueError(f"CHECKPOINT: {error}") from error
            fingerprint = f"{fingerprint_weights(model)} {fingerprint_processor(processor)}"
            model.to(device)
        if not model.modality.has_tokens:
            raise ValueError(f"CHECKPOINT: must be a classifier of texts, got one of images in {self.checkpoint!r}.")
        return SideNetRunner(
            model, processor, self.batch_size, thresholds=self.thresholds, max_length=self.max_length
        ), fingerprint

    def answers(self, runner: SideNetRunner, table: pa.Table) -> pa.Table:
        """Return the new columns for some rows; rows without an answer keep their place, with the error in `error`."""
        texts = list(zip(*(table[name].to_pylist() for name in self.columns), strict=True))
        whole = [row for row in texts if None not in row]
        predictions = runner.predict([row[0] if len(row) == 1 else row for row in whole])
        answers = list(self._rows(texts, predictions))
        found = pa.Table.from_pylist(answers, ANSWERS)
        return found.rename_columns(self.names())

    def _rows(self, texts: Sequence[tuple], predictions: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for row in texts:
            if None in row:
                yield {"error": f"{self.columns[row.index(None)]!r} is null"}
                continue
            found = next(predictions)
            if found.error is not None:
                # The runner counts rows within this chunk, which users cannot look up.
                yield {"error": str(found.error.__cause__ or found.error)}
            else:
                yield {name: getattr(found, name) for name in ANSWERS.names if name != "error"}


def fingerprint_processor(processor: Any) -> str:
    """Return the fingerprint of the files that a tokenizer saves."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            digest.update(f"{path.name} {sha256(path)}".encode())
    return digest.hexdigest()[:32]


def identity(runner: SideNetRunner, fingerprint: str) -> dict[str, Any]:
    """Return the part of the checkpoint that answers depend on."""
    config = runner.stages.config
    return {
        "weights": fingerprint,
        "precision": precision_of(runner.stages),
        "exit_layers": list(config.exit_layers),
        "temperatures": list(config.temperatures),
        "classes": [config.id2label[index] for index in range(config.num_labels)],
        "thresholds": list(runner.thresholds),
    }


def part_path(output: str, part: int) -> Path:
    return Path(output) / f"part-{part:05d}.parquet"


def starts_path(output: str) -> Path:
    return Path(output) / ".actors.tries"


class Score:
    """An actor of Ray Data.

    Args:
        scoring ([`Scoring`]): how rows are answered.
        output (`str`): folder for the parts.
        fingerprint (`str`): of this job's checkpoint.

    Raises:
        ValueError: this machine has a different checkpoint.
    """

    def __init__(self, scoring: Scoring, output: str, fingerprint: str):
        torch.set_num_threads(scoring.num_threads)
        self.scoring, self.output = scoring, output
        self._count_start()
        self.runner, found = scoring.runner("cuda" if scoring.on_gpu else "cpu")
        if found != fingerprint:
            raise ValueError(
                f"CHECKPOINT: must be the same on every machine, but {scoring.checkpoint!r} on {platform.node()} "
                "has other weights."
            )

    def _count_start(self) -> None:
        """Count starts: actors that die before doing anything would be restarted forever.

        Raises:
            RuntimeError: too many actors were started since the last part.
        """
        with open(starts_path(self.output), "ab") as file:
            file.write(b".")
        if os.path.getsize(starts_path(self.output)) > self.scoring.num_actors + TRIES:
            raise RuntimeError(
                f"{TRIES} processes have ended before they had done a part. Is there enough memory for "
                f"{self.scoring.num_actors} actors?"
            )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the part of one chunk, and return which worker wrote it, or the error."""
        chunk = Chunk(**{name: str(values[0]) if name == "path" else int(values[0]) for name, values in batch.items()})
        error = ""
        try:
            self.write(chunk)
        # If raised, it would reach the driver as nested traceback text.
        except Exception as caught:
            logger.exception("%s", chunk)
            error = str(caught) if isinstance(caught, ChunkError) else f"{chunk}: {type(caught).__name__}: {caught}"
        found = {"rows": chunk.rows, "worker": f"{platform.node()}:{os.getpid()}", "error": error}
        return {name: np.array([value]) for name, value in found.items()}

    def write(self, chunk: Chunk) -> None:
        """Write the part of one chunk. Writing twice is harmless: the second has the same rows and replaces the first.

        Raises:
            ChunkError: the chunk was started too often, or its file has changed or is damaged.
        """
        path = part_path(self.output, chunk.part)
        tries = path.with_name(f".{path.name}.tries")
        with open(tries, "ab") as file:
            file.write(b".")
        if os.path.getsize(tries) > TRIES:
            raise ChunkError(f"{chunk} have ended {TRIES} processes. Is there enough memory for them?")
        table = read_chunk(chunk)
        answers = self.scoring.answers(self.runner, table)
        for name in answers.column_names:
            table = table.append_column(name, answers[name])
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
        tries.unlink(missing_ok=True)
        starts_path(self.output).unlink(missing_ok=True)

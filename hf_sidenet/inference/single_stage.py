# SPDX-License-Identifier: Apache-2.0
"""Single stage of a chain, for servers that run every stage in separate processes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..models.errors import ArgumentError
from ..models.tasks import label_names
from .engine import Failed, Ran, RowError, begin, by_kind, go_on, leaving, padding_of, predictions
from .pool import Pool
from .protocols import StageChain, with_own_config
from .reading import RowReader, check_rows
from .rows import Batch, Packet, Prediction, Row, merge, pack, unpack


@dataclass(slots=True, eq=False)
class Step:
    """Result of a stage for the rows of one request.

    Args:
        answered (`list[Prediction]`): rows that exited, or were rejected when read.
        failed (`list[Prediction]`): rows on which the stage failed, or whose logits are NaN.
        staying (`list[Packet]`): remaining rows for the next stage: one packet, except for images of several sizes.
    """

    answered: list[Prediction] = field(default_factory=list)
    failed: list[Prediction] = field(default_factory=list)
    staying: list[Packet] = field(default_factory=list)


class SingleStage:
    """Runs rows of several requests together through one stage. Stateless; not thread-safe.

    Args:
        stages ([`Stages`], [`OnnxStages`] or the like): the chain; later changes to its config have no effect.
        index (`int`): index of the stage.
        batch_size (`int`, *optional*, defaults to 32): rows per batch; up to twice as many at a later stage.
        reader ([`RowReader`], *optional*): reader of raw rows, for the first stage.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(self, stages: StageChain, index: int, *, batch_size: int = 32, reader: RowReader | None = None):
        if not 0 <= index < len(stages):
            raise ArgumentError("index", f"must be between 0 and {len(stages) - 1}, got {index}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ArgumentError("batch_size", "must be an integer ≥ 1", batch_size)
        if (reader is None) == (index == 0):
            raise ArgumentError(
                "reader",
                f"must be given for stage 0 only, got {reader} for stage {index}",
            )
        self.stages = stages = with_own_config(stages)
        self.index, self.batch_size, self.reader = index, batch_size, reader
        self.is_last = index == len(stages) - 1
        self._names = label_names(stages.config)
        self._pad = padding_of(stages)

    def begin(self, requests: Sequence[tuple[Sequence[Any], tuple[float, ...]]]) -> list[Step]:
        """Run the first stage.

        Args:
            requests (`Sequence[tuple]`): for each request, its raw rows and its θ from [`RowReader.thresholds`].
        """
        for rows, _ in requests:
            check_rows(rows)
        reader = self.reader
        assert reader is not None  # The first stage has one.
        steps = [Step() for _ in requests]
        raw = [row for rows, _ in requests for row in rows]
        places = [place for rows, _ in requests for place in range(len(rows))]
        thresholds = [theta for rows, theta in requests for _ in rows]
        owners = [step for step, (rows, _) in zip(steps, requests, strict=True) for _ in rows]
        owner_of: dict[Row, Step] = {}
        for place, row, owner in zip(places, reader.read(places, raw, thresholds), owners, strict=True):
            if isinstance(row, RowError):
                owner.answered.append(Prediction(place, error=row))
            else:
                owner_of[row] = owner
        for alike in by_kind(list(owner_of)):
            ordered = sorted(alike, key=lambda row: row.length)
            parts = (ordered[i : i + self.batch_size] for i in range(0, len(ordered), self.batch_size))
            self._run((begin(self.stages, part, self._pad) for part in parts), owner_of)
        return steps

    def go_on(self, packets: Sequence[Packet]) -> list[Step]:
        """Run a later stage.

        Args:
            packets (`Sequence[Packet]`): packets of several requests from the previous stage.
        """
        steps = [Step() for _ in packets]
        pool = Pool(self.batch_size, self.batch_size, self._pad)
        owner_of: dict[Row, Step] = {}
        for packet, step in zip(packets, steps, strict=True):
            batch = unpack(packet, self.stages.device)
            owner_of.update(dict.fromkeys(batch.rows, step))
            pool.add(batch, 0.0)
        self._run((go_on(self.stages, self.index, batch) for batch in pool.take_due(math.inf)), owner_of)
        return steps

    @torch.inference_mode()
    def _run(self, batches: Iterable[tuple[Ran, Failed]], owner_of: dict[Row, Step]) -> None:
        """Run batches and regroup the remaining rows by request."""
        staying: dict[tuple[Step, tuple], list[Batch]] = {}
        for ran, failed in batches:
            for row, error in failed:
                owner_of[row].failed.append(Prediction(row.place, error=error))
            for following, answers in ran:
                for key, part in self._settle(following, answers.cpu(), owner_of).items():
                    staying.setdefault(key, []).append(part)
        for (owner, _), parts in staying.items():
            owner.staying.append(pack(merge(parts, self._pad)))

    def _settle(
        self, batch: Batch, answers: torch.Tensor, owner_of: dict[Row, Step]
    ) -> dict[tuple[Step, tuple], Batch]:
        """Answer the rows that exit; return the others by request and kind."""
        rows, logits, sure = batch.rows, answers[:, :-1], answers[:, -1]
        left = [True] * len(rows) if self.is_last else leaving(rows, self.index, sure)
        which = [i for i, gone in enumerate(left) if gone]
        answered = predictions(self.stages.task, self._names, rows, which, [self.index] * len(rows), logits, sure)
        for i, prediction in zip(which, answered, strict=True):
            owner = owner_of[rows[i]]
            (owner.answered if prediction.error is None else owner.failed).append(prediction)
        groups: dict[tuple[Step, tuple], list[int]] = {}
        for i, row in enumerate(rows):
            if not left[i]:
                groups.setdefault((owner_of[row], row.kind), []).append(i)
        return {key: batch.select(keep) for key, keep in groups.items()}

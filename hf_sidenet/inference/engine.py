# SPDX-License-Identifier: Apache-2.0
"""Rows through the stages: those that are sure leave, the others wait until the next stage has a full batch. What
fails for many rows is tried again for fewer, down to a single one."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..models.exit_rule import leaves
from ..models.tasks import Task, label_names
from .pool import Pool
from .protocols import ServedModel, StageChain
from .rows import Batch, Prediction, Row, collate


# Texts wait until there are so many full batches of them, which are then sorted by length.
SORTED = 4


Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def halved(
    items: Sequence[Item], run: Callable[[Sequence[Item]], Outcome]
) -> Iterator[tuple[Sequence[Item], Outcome | Exception]]:
    """Do something for many items at once. Where it fails it is done for each half, down to the item that stands alone
    with its error; what is too much for the memory fits then.

    Args:
        items (`Sequence`): a list or a range.
        run (`Callable[[Sequence], Any]`): takes some of the items.

    Yields:
        `tuple[Sequence, Any]`: some items, and what `run` returned for them; or one item and the exception.
    """
    waiting = [items] if len(items) else []
    while waiting:
        part = waiting.pop()
        outcome: Outcome | Exception
        try:
            outcome = run(part)
        except Exception as error:
            outcome = error
        if len(part) > 1 and isinstance(outcome, Exception):
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
            # Its frames hold the tensors of the call that failed.
            del outcome
        else:
            yield part, outcome


# Rows with x_c where the next stage starts, and their answers `(rows, num_labels + 1)`: logits and confidence.
Ran = list[tuple[Batch, torch.Tensor]]
Failed = list[tuple[Row, "RowError"]]


class RowError(ValueError):
    """One row has no answer; the message says why. Other rows are not affected."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A stage that was started, and whose answers are on their way to the host.

    Args:
        stage (`int`): which.
        batch ([`Batch`]): its rows, with x_c where the next stage starts.
        answers (`torch.Tensor` of shape `(rows, num_labels + 1)`): logits and confidence, on the host.
        arrived (`torch.cuda.Event`, *optional*): when they are there.
    """

    stage: int
    batch: Batch
    answers: torch.Tensor
    arrived: torch.cuda.Event | None


class PoolingEngine:
    """An [`Engine`] in which rows wait for a stage until it has a full batch.

    Args:
        stages ([`StageChain`]): the chain; it has no state.
        pool_size (`int`): rows of a full batch at a later stage, for which rows wait (texts for four, sorted by
            length); 1: those of a batch go on at once.
        num_in_flight (`int`, *optional*, defaults to 0): stages that are started before the answers of an earlier one
            are looked at: on a GPU it then never waits for the host.
    """

    def __init__(self, stages: StageChain, *, pool_size: int, num_in_flight: int = 0):
        self.stages = stages
        self.num_in_flight = num_in_flight
        config = stages.config
        self.names = label_names(config)
        self.pad = padding_of(stages)
        # Images need no sorting, and their x_c is large.
        wait_for = pool_size * (SORTED if stages.modality.has_tokens and pool_size > 1 else 1)
        self.pools = [Pool(pool_size, wait_for, self.pad) for _ in range(len(stages) - 1)]
        self._flying: deque[_Flight] = deque()
        self._done: list[Prediction] = []

    @property
    def waiting(self) -> int:
        """Rows that have come and are not answered."""
        flying = sum(len(flight.batch.rows) for flight in self._flying)
        return flying + sum(map(len, self.pools))

    @property
    def since(self) -> float:
        """When the row began to wait that has waited longest for a stage; infinite where none waits, and minus
        infinity where answers are on their way to the host."""
        if self._flying:
            return -math.inf
        return min((pool.since for pool in self.pools), default=math.inf)

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """Run stage 0 for some rows, and every later stage that has enough rows then.

        Returns:
            `list[Prediction]`: all answers that there are now, also of rows that came earlier.
        """
        for alike in by_kind(rows):
            self._started(0, *begin(self.stages, alike, self.pad))
            self._advance(self.num_in_flight)
        return self._take_done()

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """Run the stages for rows that have waited, without waiting for more.

        Args:
            before (`float`, *optional*): only for rows that came before this, of `time.monotonic`; by default all.
        """
        self._advance(0)
        for stage, pool in enumerate(self.pools, start=1):
            for batch in pool.take_due(before):
                self._started(stage, *go_on(self.stages, stage, batch))
            self._advance(0)
        return self._take_done()

    def _advance(self, num_in_flight: int) -> None:
        """Look at the answers of all but the last stages that were started."""
        while len(self._flying) > num_in_flight:
            self._settle(self._flying.popleft())
            for stage, pool in enumerate(self.pools, start=1):
                for batch in pool.take_full():
                    self._started(stage, *go_on(self.stages, stage, batch))

    def _started(self, stage: int, ran: Ran, failed: Failed) -> None:
        self._done += [Prediction(row.place, error=error) for row, error in failed]
        for following, answers in ran:
            arrived = None
            if answers.device.type == "cuda":
                answers = answers.to("cpu", non_blocking=True)
                arrived = torch.cuda.Event()
                arrived.record()
            self._flying.append(_Flight(stage, following, answers, arrived))

    def _settle(self, flight: _Flight) -> None:
        if flight.arrived is not None:
            flight.arrived.synchronize()
        rows, stage = flight.batch.rows, flight.stage
        logits, sure = flight.answers[:, :-1], flight.answers[:, -1]
        if stage == len(self.pools):
            self._answer(rows, range(len(rows)), stage, logits, sure)
            return
        left = leaving(rows, stage, sure)
        if any(left):
            self._answer(rows, [i for i, gone in enumerate(left) if gone], stage, logits, sure)
        stay = [i for i, gone in enumerate(left) if not gone]
        if stay:
            batch = flight.batch if len(stay) == len(rows) else flight.batch.select(stay)
            self.pools[stage].add(batch, time.monotonic())

    def _answer(
        self, rows: list[Row], which: Sequence[int], stage: int, logits: torch.Tensor, sure: torch.Tensor
    ) -> None:
        self._done += predictions(self.stages.task, self.names, rows, which, [stage] * len(rows), logits, sure)

    def _take_done(self) -> list[Prediction]:
        done, self._done = self._done, []
        return done


def begin(stages: StageChain, rows: list[Row], pad: dict[str, float]) -> tuple[Ran, Failed]:
    """Run the first stage.

    Args:
        stages ([`StageChain`]): the chain.
        rows (`list[Row]`): of one kind.
        pad (`dict[str, float]`): see [`collate`].

    Returns:
        The rows that ran, and those that could not, with the reason.
    """
    return _run_stage(stages, 0, rows, lambda keep: collate([rows[i] for i in keep], pad, stages.device))


def go_on(stages: StageChain, stage: int, batch: Batch) -> tuple[Ran, Failed]:
    """Run a later stage.

    Args:
        stages ([`StageChain`]): the chain.
        stage (`int`): which stage.
        batch ([`Batch`]): its rows.

    Returns:
        The rows that ran, and those that could not, with the reason.
    """
    count = len(batch.rows)
    return _run_stage(
        stages, stage, batch.rows, lambda keep: batch if len(keep) == count else batch.select(list(keep))
    )


def _run_stage(
    stages: StageChain, stage: int, rows: list[Row], batch_of: Callable[[Sequence[int]], Batch]
) -> tuple[Ran, Failed]:
    def run(keep: Sequence[int]) -> tuple[Batch, torch.Tensor]:
        batch = batch_of(keep)
        hidden, logits = stages(stage, batch.hidden, batch.inputs)
        logits = logits.float()
        sure = stages.task.confidence(logits, stages.config.temperatures[stage])
        following = Batch(batch.rows, batch.inputs if batch.has_tokens else _first(batch.inputs), hidden)
        return following, torch.cat([logits, sure.unsqueeze(1)], dim=1)

    ran, failed = [], []
    for keep, outcome in halved(range(len(rows)), run):
        if isinstance(outcome, Exception):
            row = rows[keep[0]]
            failed.append((row, row_error(row.place, f"failed at stage {stage}", outcome)))
        else:
            ran.append(outcome)
    return ran, failed


def row_error(place: int, what: str, cause: Exception) -> RowError:
    """The error of a row for which something failed.

    Args:
        place (`int`): number of the row in its stream.
        what (`str`): what failed.
        cause (`Exception`): of that.
    """
    failure = RowError(f"row {place} {what}: {type(cause).__name__}: {cause}")
    failure.__cause__ = cause
    return failure


def leaving(rows: list[Row], stage: int, sure: torch.Tensor) -> list[bool]:
    """Which rows leave after a stage with a SideNet.

    Args:
        rows (`list[Row]`): of a batch.
        stage (`int`): which stage.
        sure (`torch.Tensor` of shape `(rows,)`): their confidences, on the host.
    """
    first = rows[0].thresholds
    if all(row.thresholds is first for row in rows):
        return leaves(sure, first[stage]).tolist()
    return leaves(sure, torch.tensor([row.thresholds[stage] for row in rows])).tolist()


def by_kind(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that can be in one batch, together."""
    kinds: dict[tuple, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return list(kinds.values())


def not_finite(place: int, exit_index: int) -> RowError:
    """The error of a row whose confidence is NaN: the largest of such logits is no answer.

    Args:
        place (`int`): number of the row in its stream.
        exit_index (`int`): the exit whose logits they are.
    """
    return RowError(f"row {place} has no answer: the logits of exit {exit_index} are NaN or infinite.")


def predictions(
    task: Task,
    names: list[str],
    rows: Sequence[Row],
    which: Sequence[int],
    exits: Sequence[int],
    logits: torch.Tensor,
    sure: torch.Tensor,
) -> list[Prediction]:
    """Answers to some rows of a batch; where the confidence is NaN, an error.

    Args:
        task ([`Task`]): what an answer is.
        names (`list[str]`): of the classes.
        rows (`list[Row]`): of the batch.
        which (`Sequence[int]`): numbers of the rows to answer.
        exits (`Sequence[int]`): who answers each row.
        logits (`torch.Tensor` of shape `(rows, num_labels)`): on the host.
        sure (`torch.Tensor` of shape `(rows,)`): confidences.
    """
    labels: list[int] = task.answer(logits).tolist()
    confidences: list[float] = sure.tolist()
    own_logits = logits.unbind()
    found = []
    for i in which:
        place = rows[i].place
        if math.isnan(confidences[i]):
            found.append(Prediction(place, error=not_finite(place, exits[i])))
        else:
            found.append(Prediction(place, names[labels[i]], labels[i], own_logits[i], confidences[i], exits[i]))
    return found


def padding_of(stages: ServedModel) -> dict[str, float]:
    """What a padded token has, by input."""
    pad = getattr(stages.config.mainnet_config, "pad_token_id", None)
    return {"input_ids": 0 if pad is None else pad}


def _first(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # A copy, so that the other images can go.
    return {name: value[:1].clone() for name, value in inputs.items()}

# SPDX-License-Identifier: Apache-2.0
"""Run rows through the stages: confident rows exit, the others wait for a full batch at the next stage.

A call that fails for several rows is retried with fewer, down to a single one.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..models.configuration_sidenet import chain_of
from ..models.exit_rule import chained, has_weights, leaves
from ..models.tasks import Task, label_names
from .pool import Pool
from .protocols import ServedModel, StageChain
from .rows import Batch, Prediction, Row, check_tokens, collate


# Texts wait for this many full batches, to be sorted by length.
SORTED = 4


Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def halved(
    items: Sequence[Item], run: Callable[[Sequence[Item]], Outcome]
) -> Iterator[tuple[Sequence[Item], Outcome | Exception]]:
    """Run a function on many items at once; on failure retry each half, down to a single item with its error.

    This also recovers from running out of memory.

    Args:
        items (`Sequence`): a list or a range.
        run (`Callable[[Sequence], Any]`): function of some of the items.

    Yields:
        `tuple[Sequence, Any]`: some items and the result of `run`; or one item and the exception.
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
            # Its frames hold the tensors of the failed call.
            del outcome
        else:
            yield part, outcome


# Rows with x_c at the start of the next stage, and their answers `(rows, num_labels + 1)`: logits and confidence.
Ran = list[tuple[Batch, torch.Tensor]]
Failed = list[tuple[Row, "RowError"]]


class RowError(ValueError):
    """Failure to answer one row; the message says why. Other rows are not affected."""


@dataclass(slots=True, eq=False)
class _Flight:
    """Launched stage whose answers are being copied to the host.

    Args:
        stage (`int`): index of the stage.
        batch ([`Batch`]): its rows, with x_c at the start of the next stage.
        answers (`torch.Tensor` of shape `(rows, num_labels + 1)`): logits and confidence, on the host.
        arrived (`torch.cuda.Event`, *optional*): recorded after the copy.
    """

    stage: int
    batch: Batch
    answers: torch.Tensor
    arrived: torch.cuda.Event | None


class PoolingEngine:
    """[`Engine`] in which rows wait for a full batch at each stage.

    Args:
        stages ([`StageChain`]): the chain; it has no state.
        pool_size (`int`): rows of a full batch at a later stage; texts wait for four batches, sorted by length. With
            1, the rows of a batch continue immediately.
        num_in_flight (`int`, *optional*, defaults to 0): stages launched before the answers of an earlier one are
            read, so that a GPU never waits for the host.
    """

    def __init__(self, stages: StageChain, *, pool_size: int, num_in_flight: int = 0):
        self.stages = stages
        self.num_in_flight = num_in_flight
        config = stages.config
        self.names = label_names(config)
        self.pad = padding_of(stages)
        # Images need no sorting, and their x_c are large.
        wait_for = pool_size * (SORTED if stages.modality.has_tokens and pool_size > 1 else 1)
        self.pools = [Pool(pool_size, wait_for, self.pad) for _ in range(len(stages) - 1)]
        self._flying: deque[_Flight] = deque()
        self._done: list[Prediction] = []

    @property
    def waiting(self) -> int:
        """Number of rows received but not answered."""
        flying = sum(len(flight.batch.rows) for flight in self._flying)
        return flying + sum(map(len, self.pools))

    @property
    def since(self) -> float:
        """Start of the longest current wait for a stage.

        Infinity if no row waits, minus infinity if answers are being copied to the host.
        """
        if self._flying:
            return -math.inf
        return min((pool.since for pool in self.pools), default=math.inf)

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """Run stage 0 on some rows, and every later stage that then has enough rows.

        Returns:
            `list[Prediction]`: all answers available now, including those to earlier rows.
        """
        for alike in by_kind(rows):
            self._started(0, *begin(self.stages, alike, self.pad))
            self._advance(self.num_in_flight)
        return self._take_done()

    def flush(self, before: float = math.inf) -> list[Prediction]:
        """Run the stages on waiting rows, without waiting for more.

        Args:
            before (`float`, *optional*): only rows waiting since before this `time.monotonic`; by default all.
        """
        self._advance(0)
        for stage, pool in enumerate(self.pools, start=1):
            for batch in pool.take_due(before):
                self._started(stage, *go_on(self.stages, stage, batch))
            self._advance(0)
        return self._take_done()

    def _advance(self, num_in_flight: int) -> None:
        """Process the answers of all but the last `num_in_flight` launched stages."""
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
        rows (`list[Row]`): rows of one kind.
        pad (`dict[str, float]`): see [`collate`].

    Returns:
        The rows that ran, and those that failed, with the reason.
    """
    return _run_stage(stages, 0, rows, lambda keep: collate([rows[i] for i in keep], pad, stages.device))


def go_on(stages: StageChain, stage: int, batch: Batch) -> tuple[Ran, Failed]:
    """Run a later stage.

    Args:
        stages ([`StageChain`]): the chain.
        stage (`int`): index of the stage.
        batch ([`Batch`]): its rows.

    Returns:
        The rows that ran, and those that failed, with the reason.
    """
    count = len(batch.rows)
    return _run_stage(
        stages, stage, batch.rows, lambda keep: batch if len(keep) == count else batch.select(list(keep))
    )


def _run_stage(
    stages: StageChain, stage: int, rows: list[Row], batch_of: Callable[[Sequence[int]], Batch]
) -> tuple[Ran, Failed]:
    chain = [[], *chain_of(stages.config)]
    builds = has_weights(chain[stage + 1 :])

    def run(keep: Sequence[int]) -> tuple[Batch, torch.Tensor]:
        batch = batch_of(keep)
        hidden, logits = stages(stage, batch.hidden, batch.inputs)
        check_tokens(hidden, batch.width())
        own = logits.float()
        logits = chained(own, None if batch.logits is None else batch.logits.unbind(1), chain[stage])
        sure = stages.task.confidence(logits, stages.config.temperatures[stage])
        given = own.unsqueeze(1) if builds else None
        if given is not None and batch.logits is not None:
            given = torch.cat([batch.logits, given], dim=1)
        following = Batch(batch.rows, batch.inputs, hidden, given)
        if following.one_for_all:
            following.inputs = _first(batch.inputs)
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
    """Make the error of a failed row.

    Args:
        place (`int`): index of the row in its stream.
        what (`str`): what failed.
        cause (`Exception`): cause of the failure.
    """
    failure = RowError(f"row {place} {what}: {type(cause).__name__}: {cause}")
    failure.__cause__ = cause
    return failure


def leaving(rows: list[Row], stage: int, sure: torch.Tensor) -> list[bool]:
    """Return which rows exit after a stage with a SideNet.

    Args:
        rows (`list[Row]`): rows of a batch.
        stage (`int`): index of the stage.
        sure (`torch.Tensor` of shape `(rows,)`): their confidences, on the host.
    """
    first = rows[0].thresholds
    if all(row.thresholds is first for row in rows):
        return leaves(sure, first[stage]).tolist()
    return leaves(sure, torch.tensor([row.thresholds[stage] for row in rows])).tolist()


def by_kind(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the rows that can share a batch."""
    kinds: dict[tuple, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return list(kinds.values())


def not_finite(place: int, exit_index: int) -> RowError:
    """Make the error of a row whose confidence is NaN, since the largest of its logits is meaningless.

    Args:
        place (`int`): index of the row in its stream.
        exit_index (`int`): exit of the logits.
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
    """Make the predictions of some rows of a batch, or errors where the confidence is NaN.

    Args:
        task ([`Task`]): the task.
        names (`list[str]`): names of the classes.
        rows (`list[Row]`): rows of the batch.
        which (`Sequence[int]`): indices of the rows to answer.
        exits (`Sequence[int]`): exit that answers each row.
        logits (`torch.Tensor` of shape `(rows, num_labels)`): logits, on the host.
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
    """Return the padding values, by input."""
    pad = getattr(stages.config.mainnet_config, "pad_token_id", None)
    return {"input_ids": 0 if pad is None else pad}


def _first(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # A copy, so that the other images can be freed.
    return {name: value[:1].clone() for name, value in inputs.items()}

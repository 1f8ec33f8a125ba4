# SPDX-License-Identifier: Apache-2.0
"""Ways to answer batches: by one stage, with the whole batch together, and like [`SideNetRunner`]."""

from collections.abc import Callable, Sequence

import torch

from ..inference.protocols import Engine, StageChain
from ..inference.routings import engines_of, full_batch, measure_routings
from ..inference.rows import Batch, Prediction, Row
from ..inference.runner import batches_of_wait
from ..models.configuration_sidenet import chain_of
from ..models.exit_rule import chained, leaves
from ..models.modeling_base import SideNetPreTrainedModel


Answer = Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def by_first_stage(stages: StageChain) -> Answer:
    """Return a function that answers every row at stage 0: a plain classifier, or the first SideNet alone.

    Args:
        stages ([`StageChain`]): the chain.
    """

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, logits = stages(0, None, batch.inputs)
        return logits, torch.zeros(len(batch.rows), dtype=torch.long)

    return answer


def by_whole_batch(stages: StageChain) -> Answer:
    """Return a function that runs all rows of a batch until every row is confident enough, the policy of PABEE's and
    earlyon's batched inference. All rows are answered at the exit where the batch stops.

    Args:
        stages ([`StageChain`]): the chain.
    """
    temperatures, chain = stages.config.temperatures, [[], *chain_of(stages.config)]

    def answer(batch: Batch, thresholds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        thresholds = thresholds.to(stages.device)
        inputs = batch.inputs
        hidden, own = stages(0, None, inputs)
        logits = own
        stage, earlier = 0, []
        while stage < len(stages) - 1:
            sure = stages.task.confidence(logits, temperatures[stage])
            if bool(leaves(sure, thresholds[:, stage]).all()):
                break
            inputs = stages.modality.later_inputs(inputs, hidden)
            stage += 1
            earlier.append(own)
            hidden, own = stages(stage, hidden, inputs)
            logits = chained(own, earlier, chain[stage])
        return logits, torch.full((len(batch.rows),), stage)

    return answer


class AsRunner:
    """Engine in which a row waits no longer than a runner lets it.

    Args:
        engine ([`Engine`]): engine of the chosen routing.
        note (`str`): name of the routing.
        window (`int`): number of batches after which a row that has waited since the window before goes on.
    """

    def __init__(self, engine: Engine, note: str, window: int):
        self.engine = engine
        self.note = note
        self.window = window
        self._start()

    def put(self, rows: Sequence[Row]) -> list[Prediction]:
        """See [`Engine`]."""
        if self._num_batches == self.window:
            self._earlier |= self._current
            self._current, self._num_batches = set(), 0
        self._current.update(row.place for row in rows)
        self._num_batches += 1
        done = self._answered(self.engine.put(rows))
        if self._num_batches == self.window and self._earlier:
            done += self._answered(self.engine.flush())
        return done

    def flush(self) -> list[Prediction]:
        """See [`Engine`]."""
        self._start()
        return self.engine.flush()

    def _start(self) -> None:
        self._current: set[int] = set()
        self._earlier: set[int] = set()
        self._num_batches = 0

    def _answered(self, done: list[Prediction]) -> list[Prediction]:
        places = [prediction.place for prediction in done]
        self._current.difference_update(places)
        self._earlier.difference_update(places)
        return done


def as_runner(
    stages: StageChain,
    model: SideNetPreTrainedModel | None,
    num_in_flight: int,
    batch_size: int,
    batches: Sequence[Sequence[Row]],
) -> AsRunner:
    """Return an engine like a runner with `routing="auto"`: it measures its routings first, outside the timing.

    Args:
        stages ([`StageChain`]): the chain.
        model ([`SideNetPreTrainedModel`], *optional*): the model, if its own forward can be used too.
        num_in_flight (`int`): see [`PoolingEngine`].
        batch_size (`int`): rows per batch of stage 0.
        batches (`Sequence[Sequence[Row]]`): batches to measure on.
    """
    pool_size = full_batch(batch_size)
    makers = engines_of(stages, model, pool_size=pool_size, num_in_flight=num_in_flight)
    times = measure_routings(makers, batches)
    chosen = min(times, key=times.__getitem__)
    return AsRunner(makers[chosen](), f"took {chosen!r}", batches_of_wait(stages, batch_size, pool_size))

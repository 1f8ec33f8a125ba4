# SPDX-License-Identifier: Apache-2.0
"""A runner whose answers are watched."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from ..inference.engine import RowError
from ..inference.rows import Prediction
from ..inference.runner import SideNetRunner
from .shadow import ShadowMonitor


class WatchedRunner:
    """A [`SideNetRunner`] that sends a share of the rows through the MainNet as well. Answers are the runner's own,
    and do not wait for that. Rows with a θ of their own are not looked at: nothing was certified for them.

    Args:
        runner ([`SideNetRunner`]): that answers.
        monitor ([`ShadowMonitor`]): that counts.
    """

    def __init__(self, runner: SideNetRunner, monitor: ShadowMonitor):
        self.runner, self.monitor = runner, monitor
        self._shadows: set[asyncio.Task] = set()

    def predict(self, rows: Iterable[Any], **kwargs: Any) -> Iterator[Prediction]:
        """See [`SideNetRunner.predict`], with the runner's own θ. The MainNet gets its rows in batches of the runner's
        size, and the last ones at the end.

        Args:
            rows (`Iterable`): as for the runner.
            kwargs (`Any`): `on_error`, `progress`.

        Raises:
            ValueError: `thresholds` is given.
        """
        if "thresholds" in kwargs:
            raise ValueError("`thresholds` must not be given where the certified ones are watched.")
        return self._predict(rows, kwargs)

    def _predict(self, rows: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[Prediction]:
        chosen: dict[int, Any] = {}
        early: deque[tuple[Any, Prediction]] = deque()

        def remembered() -> Iterator[Any]:
            for place, row in enumerate(rows):
                if self.monitor.chooses():
                    chosen[place] = row
                yield row

        for prediction in self.runner.predict(remembered(), **kwargs):
            if prediction.place in chosen:
                row = chosen.pop(prediction.place)
                if not self._settled(row, prediction):
                    early.append((row, prediction))
            if len(early) >= self.runner.batch_size:
                self._compare(early)
            yield prediction
        self._compare(early)

    async def submit(self, row: Any, thresholds: Any = None) -> Prediction:
        """See [`SideNetRunner.submit`]."""
        chosen = thresholds is None and self.monitor.chooses()
        prediction = await self.runner.submit(row, thresholds)
        if chosen and not self._settled(row, prediction):
            # Kept here: the event loop holds tasks weakly.
            task = asyncio.create_task(self._shadow(row, prediction))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)
        return prediction

    async def drain(self) -> None:
        """Wait for the rows that are on their way through the MainNet."""
        await asyncio.gather(*self._shadows)

    def _settled(self, row: Any, prediction: Prediction) -> bool:
        """Whether there is nothing to compare: the MainNet answered, or nobody did."""
        if prediction.error is not None:
            self.monitor.add_failed()
            return True
        if prediction.exit_index < self.runner.reader.num_sidenets:
            return False
        self.monitor.add(row, prediction.label, early=False, disagrees=False)
        return True

    def _compare(self, early: deque[tuple[Any, Prediction]]) -> None:
        rows = [row for row, _ in early]
        for (row, prediction), mainnet in zip(early, self.runner.predict(rows, 1.0), strict=True):
            self._add(row, prediction, mainnet)
        early.clear()

    async def _shadow(self, row: Any, prediction: Prediction) -> None:
        try:
            mainnet = await self.runner.submit(row, 1.0)
        # The caller has its answer; a runner that is closed meanwhile answers nobody.
        except (RowError, RuntimeError):
            self.monitor.add_failed()
            return
        self._add(row, prediction, mainnet)

    def _add(self, row: Any, prediction: Prediction, mainnet: Prediction) -> None:
        if mainnet.error is not None:
            self.monitor.add_failed()
            return
        self.monitor.add(row, mainnet.label, early=True, disagrees=mainnet.label_id != prediction.label_id)

# SPDX-License-Identifier: Apache-2.0
"""A runner whose answers are watched."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, cast

from ..inference.engine import RowError
from ..inference.reading import check_rows
from ..inference.rows import Prediction
from ..inference.runner import SideNetRunner
from ..models.errors import ArgumentError
from .shadow import ShadowMonitor, Ticket


class WatchedRunner:
    """A [`SideNetRunner`] that sends a share of the rows through the MainNet as well. Answers are the runner's own;
    they do not wait for that, but share the machine with it. Rows with a θ of their own are not looked at: nothing was
    certified for them.

    Args:
        runner ([`SideNetRunner`]): that answers.
        monitor ([`ShadowMonitor`]): that counts.
    """

    def __init__(self, runner: SideNetRunner, monitor: ShadowMonitor):
        self.runner, self.monitor = runner, monitor
        self._shadows: dict[asyncio.Task, Ticket] = {}

    def predict(self, rows: Iterable[Any], **kwargs: Any) -> Iterator[Prediction]:
        """See [`SideNetRunner.predict`], with the runner's own θ. The MainNet gets its rows in batches of the runner's
        size, and the last ones at the end.

        Args:
            rows (`Iterable`): as for the runner.
            kwargs (`Any`): `on_error`, `progress`.

        Raises:
            ValueError: `thresholds` is given, or `rows` are no iterable of rows.
        """
        check_rows(rows)
        if "thresholds" in kwargs:
            raise ArgumentError("thresholds", "must not be given where the certified ones are watched")
        return self._predict(rows, kwargs)

    def _predict(self, rows: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[Prediction]:
        chosen: dict[int, tuple[Ticket, Any]] = {}
        early: list[tuple[Ticket, Any, Prediction]] = []

        def remembered() -> Iterator[Any]:
            for place, row in enumerate(rows):
                if (ticket := self.monitor.choose()) is not None:
                    chosen[place] = ticket, row
                yield row

        try:
            for prediction in self.runner.predict(remembered(), **kwargs):
                if prediction.place in chosen:
                    ticket, row = chosen.pop(prediction.place)
                    if not self._settled(ticket, row, prediction):
                        early.append((ticket, row, prediction))
                yield prediction
                if len(early) >= self.runner.batch_size:
                    self._compare(early)
        finally:
            # Also where nobody wants the rest: what was answered counts, whoever answered it.
            self._compare(early)
            for ticket, _ in chosen.values():
                self.monitor.drop(ticket)

    async def submit(self, row: Any, thresholds: Any = None) -> Prediction:
        """See [`SideNetRunner.submit`]. While as many rows are on their way through the MainNet as the runner may
        hold, more are answered, but not looked at."""
        ticket = self.monitor.choose() if thresholds is None else None
        if ticket is None:
            return await self.runner.submit(row, thresholds)
        try:
            prediction = await self.runner.submit(row, thresholds)
        except BaseException:
            self.monitor.drop(ticket)
            raise
        if not self._settled(ticket, row, prediction):
            self._start_shadow(ticket, row, prediction)
        return prediction

    async def drain(self) -> None:
        """Wait for the rows of this event loop that are on their way through the MainNet."""
        loop = asyncio.get_running_loop()
        # Those of another event loop are for its callers to wait for.
        await asyncio.gather(*(task for task in tuple(self._shadows) if task.get_loop() is loop))

    def _settled(self, ticket: Ticket, row: Any, prediction: Prediction) -> bool:
        """Whether there is nothing to compare: the MainNet answered, or nobody did."""
        if prediction.error is not None:
            self.monitor.drop(ticket)
            return True
        if cast(int, prediction.exit_index) < self.runner.reader.num_sidenets:
            return False
        self.monitor.settle(ticket, row, cast(str, prediction.label), early=False, disagrees=False)
        return True

    def _compare(self, early: list[tuple[Ticket, Any, Prediction]]) -> None:
        rows = [row for _, row, _ in early]
        for (ticket, row, prediction), mainnet in zip(early, self.runner.predict(rows, 1.0), strict=True):
            self._close(ticket, row, prediction, mainnet)
        early.clear()

    def _start_shadow(self, ticket: Ticket, row: Any, prediction: Prediction) -> None:
        if len(self._shadows) >= self.runner.max_waiting_rows:
            # Of a closed event loop none comes to its end.
            for old in [old for old in tuple(self._shadows) if old.get_loop().is_closed()]:
                self.monitor.drop(self._shadows.pop(old))
        if len(self._shadows) >= self.runner.max_waiting_rows:
            self.monitor.drop(ticket)
            return
        # Kept here: the event loop holds tasks weakly.
        task = asyncio.create_task(self._shadow(ticket, row, prediction))
        self._shadows[task] = ticket
        task.add_done_callback(lambda done: self._shadows.pop(done, None))

    async def _shadow(self, ticket: Ticket, row: Any, prediction: Prediction) -> None:
        try:
            mainnet = await self.runner.submit(row, 1.0)
        # The caller has its answer; a runner that is closed meanwhile answers nobody.
        except (RowError, RuntimeError):
            self.monitor.drop(ticket)
            return
        except BaseException:
            # An open ticket would hold up all that were chosen later.
            self.monitor.drop(ticket)
            raise
        self._close(ticket, row, prediction, mainnet)

    def _close(self, ticket: Ticket, row: Any, prediction: Prediction, mainnet: Prediction) -> None:
        if mainnet.error is not None:
            self.monitor.drop(ticket)
            return
        disagrees = mainnet.label_id != prediction.label_id
        self.monitor.settle(ticket, row, cast(str, mainnet.label), early=True, disagrees=disagrees)

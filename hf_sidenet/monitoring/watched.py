# SPDX-License-Identifier: Apache-2.0
"""Runner with monitored answers."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, cast

from ..inference.engine import RowError
from ..inference.reading import check_rows
from ..inference.rows import Prediction
from ..inference.runner import SideNetRunner
from ..models.errors import ArgumentError
from .shadow import ShadowMonitor, Ticket, check_comparable


class WatchedRunner:
    """[`SideNetRunner`] that also runs a share of the rows through the MainNet.

    Answers are the runner's own and do not wait for the MainNet, but share the machine with it. Rows with their own θ
    are not sampled, because nothing is certified for them.

    Args:
        runner ([`SideNetRunner`]): the runner.
        monitor ([`ShadowMonitor`]): the monitor.

    Raises:
        ValueError: SideNets change the MainNet's answers (`ensemble=True` of [`attach`]).
    """

    def __init__(self, runner: SideNetRunner, monitor: ShadowMonitor):
        check_comparable(runner.stages.config)
        self.runner, self.monitor = runner, monitor
        self._shadows: dict[asyncio.Task, Ticket] = {}

    def predict(self, rows: Iterable[Any], **kwargs: Any) -> Iterator[Prediction]:
        """See [`SideNetRunner.predict`], with the runner's own θ.

        The MainNet gets sampled rows in batches of the runner's size, and the last ones at the end.

        Args:
            rows (`Iterable`): as for the runner.
            kwargs (`Any`): `on_error`, `progress`.

        Raises:
            ValueError: `thresholds` is given, or `rows` is not an iterable of rows.
        """
        check_rows(rows)
        if "thresholds" in kwargs:
            raise ArgumentError("thresholds", "must not be given, because only the certified θ is monitored")
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
            # Even if the caller stops early: every answered row counts, regardless of its exit.
            self._compare(early)
            for ticket, _ in chosen.values():
                self.monitor.drop(ticket)

    async def submit(self, row: Any, thresholds: Any = None) -> Prediction:
        """See [`SideNetRunner.submit`]. Sampled rows beyond the runner's `max_waiting_rows` are dropped."""
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
        """Wait for this event loop's rows that are pending in the MainNet."""
        loop = asyncio.get_running_loop()
        # Tasks of another event loop cannot be awaited here.
        await asyncio.gather(*(task for task in tuple(self._shadows) if task.get_loop() is loop))

    def _settled(self, ticket: Ticket, row: Any, prediction: Prediction) -> bool:
        """Settle a row with nothing to compare (answered by the MainNet, or failed); return whether it was one."""
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
            # Tasks of a closed event loop never finish.
            for old in [old for old in tuple(self._shadows) if old.get_loop().is_closed()]:
                self.monitor.drop(self._shadows.pop(old))
        if len(self._shadows) >= self.runner.max_waiting_rows:
            self.monitor.drop(ticket)
            return
        # Kept because the event loop holds tasks weakly.
        task = asyncio.create_task(self._shadow(ticket, row, prediction))
        self._shadows[task] = ticket
        task.add_done_callback(lambda done: self._shadows.pop(done, None))

    async def _shadow(self, ticket: Ticket, row: Any, prediction: Prediction) -> None:
        try:
            mainnet = await self.runner.submit(row, 1.0)
        # The caller already has its answer; the runner may have been closed meanwhile.
        except (RowError, RuntimeError):
            self.monitor.drop(ticket)
            return
        except BaseException:
            # An open ticket would block all later ones.
            self.monitor.drop(ticket)
            raise
        self._close(ticket, row, prediction, mainnet)

    def _close(self, ticket: Ticket, row: Any, prediction: Prediction, mainnet: Prediction) -> None:
        if mainnet.error is not None:
            self.monitor.drop(ticket)
            return
        disagrees = mainnet.label_id != prediction.label_id
        self.monitor.settle(ticket, row, cast(str, mainnet.label), early=True, disagrees=disagrees)

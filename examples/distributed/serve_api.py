# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: reads requests, sends their rows from stage to stage, and answers."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from serve_door import DEADLINE, Door
from serve_inputs import Answer, rows_of
from serve_inputs import Request as ClassifyRequest
from serve_settings import Settings

from hf_sidenet.inference.rows import Prediction
from hf_sidenet.models.exit_rule import check_thresholds
from hf_sidenet.models.tasks import task_of
from hf_sidenet.optional import require


logger = logging.getLogger(__name__)
serve = require("ray.serve", "ray")
metrics = require("ray.serve.metrics", "ray")
ray_errors = require("ray.exceptions", "ray")
serve_errors = require("ray.serve.exceptions", "ray")

MILLISECONDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
# A replica died, or an object with it. A stage has no state, so the same rows may go through another one.
LOST = (
    ray_errors.RayActorError,
    ray_errors.ObjectLostError,
    ray_errors.OwnerDiedError,
    ray_errors.WorkerCrashedError,
    serve_errors.ReplicaUnavailableError,
)
PAUSE_S = 0.1
HEALTH_TIMEOUT_S = 5
# Pending rows for the monitor; beyond this, no more rows are monitored.
MAX_TASKS = 64
MAX_ERRORS = 3
MAX_CHARS = 100
FAILED = "the server failed; see its log."


class Api:
    """The HTTP side, as Ray Serve starts it.

    Args:
        settings ([`Settings`]): of the server.
        stages (`Sequence[DeploymentHandle]`): the stages, in order.
        watcher (`DeploymentHandle`, *optional*): counts disagreements.
    """

    def __init__(self, settings: Settings, stages: Sequence[Any], watcher: Any = None):
        self.settings, self.stages, self.watcher = settings, stages, watcher
        self.config = settings.config
        self.modality = task_of(self.config)[1]
        self.num_sidenets = len(stages) - 1
        # A plain MainNet has none.
        self.thresholds = (
            tuple(check_thresholds(settings.own_thresholds, self.num_sidenets)) if self.num_sidenets else ()
        )
        self.not_certified = None if self.config.calibration is None else settings.not_certified()
        if self.not_certified is not None:
            logger.warning("Not certified: %s.", self.not_certified)
        self._random = random.Random()
        self._tasks: set[asyncio.Task] = set()
        self._rows = metrics.Counter("sidenet_rows", "rows answered by an exit", ("exit",))
        self._times = metrics.Histogram("sidenet_request_ms", "milliseconds of a request", MILLISECONDS)

    async def classify(self, request: ClassifyRequest, deadline: float) -> list[Answer]:
        """Return answers in the order of the inputs.

        Args:
            request ([`ClassifyRequest`]): the request.
            deadline (`float`): for the answer, on the clock of `time.monotonic()`.

        Raises:
            HTTPException: with the status and the reason.
        """
        start = time.perf_counter()
        try:
            return await self._classify(request, deadline)
        finally:
            self._times.observe(1e3 * (time.perf_counter() - start))

    async def health(self) -> dict[str, Any]:
        """Check whether every stage responds."""
        pings = [handle.ready.remote() for handle in self.stages]
        try:
            await asyncio.wait_for(asyncio.gather(*pings), HEALTH_TIMEOUT_S)
        except serve_errors.BackPressureError:
            # It is up, but has more to do than it can handle.
            return {"status": "busy", "stages": len(self.stages)}
        except (asyncio.TimeoutError, *LOST) as error:
            raise HTTPException(503, "a stage does not answer.") from error
        return {"status": "ok", "stages": len(self.stages)}

    def model(self) -> dict[str, Any]:
        """Describe the served model."""
        config, evidence = self.config, self.config.calibration or {}
        return {
            "checkpoint": self.settings.name,
            "classes": [config.id2label[i] for i in range(config.num_labels)],
            "exit_layers": [] if self.settings.plain else config.exit_layers,
            "thresholds": list(self.thresholds),
            "certified": [each["target"] for each in evidence.get("targets", [])]
            if list(self.thresholds) == list(config.thresholds) and self.not_certified is None
            else [],
            "not_certified": self.not_certified,
        }

    async def watch(self) -> dict[str, Any]:
        """Return the monitor's report.

        Raises:
            HTTPException: there is no monitor.
        """
        if self.watcher is None:
            raise HTTPException(404, "there is no monitor: start the server with --watch-share.")
        try:
            return await asyncio.wait_for(self.watcher.report.remote(), HEALTH_TIMEOUT_S)
        except (asyncio.TimeoutError, *LOST) as error:
            raise HTTPException(503, "the monitor does not answer.") from error

    async def _classify(self, request: ClassifyRequest, deadline: float) -> list[Answer]:
        given = request.parameters.thresholds
        try:
            thresholds = self.thresholds if given is None else tuple(check_thresholds(given, self.num_sidenets))
            # In a thread: other requests are answered while pictures are decoded.
            rows = await asyncio.to_thread(rows_of, request, self.modality, self.settings.max_rows)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        watched = _Watched(self.watcher, self._chosen(len(rows)) if given is None else [])
        try:
            predictions = await self._in_time(rows, thresholds, deadline)
        except BaseException:
            self._give_up(watched)
            raise
        if bad := [str(each.error) for each in predictions if each.error is not None]:
            self._give_up(watched)
            raise HTTPException(422, in_few_words(bad))
        for each in predictions:
            self._rows.inc(tags={"exit": str(each.exit_index)})
        self._look_at(watched, rows, predictions)
        return [Answer(label=each.label, score=each.confidence, exit=each.exit_index) for each in predictions]

    async def _in_time(self, rows: list[Any], thresholds: tuple[float, ...], deadline: float) -> list[Prediction]:
        try:
            return await asyncio.wait_for(self._through(rows, thresholds), deadline - time.monotonic())
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"no answer in {self.settings.timeout_s} s.") from error
        except serve_errors.BackPressureError as error:
            raise HTTPException(503, "too many requests are waiting.", {"Retry-After": "1"}) from error

    async def _through(self, rows: list[Any], thresholds: tuple[float, ...]) -> list[Prediction]:
        """Send rows through the stages; rows that exit do not continue."""
        answered: list[Prediction] = []
        items: list[Any] = [(rows, thresholds)]
        for handle in self.stages:
            steps = await asyncio.gather(*(self._run(handle, item) for item in items))
            if any(step.failed for step in steps):
                raise HTTPException(500, FAILED)
            answered += [prediction for step in steps for prediction in step.answered]
            items = [packet for step in steps for packet in step.staying]
            if not items:
                break
        return sorted(answered, key=lambda prediction: prediction.place)

    async def _run(self, handle: Any, item: Any) -> Any:
        """Run one stage; retry if a replica dies, until the deadline."""
        while True:
            try:
                return await handle.run.remote(item)
            except LOST:
                await asyncio.sleep(PAUSE_S)

    def _chosen(self, count: int) -> list[int]:
        share = self.settings.watch_share
        if len(self._tasks) >= MAX_TASKS:
            return []
        return [place for place in range(count) if self._random.random() < share]

    def _look_at(self, watched: "_Watched", rows: list[Any], predictions: list[Prediction]) -> None:
        """Report the chosen rows to the monitor; no request waits for that."""
        for number, place in enumerate(watched.places):
            self._keep(self._compare(watched, number, rows[place], predictions[place]))

    async def _compare(self, watched: "_Watched", number: int, row: Any, prediction: Prediction) -> None:
        early = prediction.exit_index < self.num_sidenets
        mainnet = prediction
        if early:
            try:
                deadline = time.monotonic() + self.settings.timeout_s
                (mainnet,) = await self._in_time([row], (1.0,) * self.num_sidenets, deadline)
            except HTTPException:
                await watched.drop(number)
                return
        if mainnet.error is not None:
            await watched.drop(number)
            return
        texts = row if isinstance(row, tuple) else (row,)
        # Pictures are not kept.
        columns = dict(zip(("text", "text_pair"), texts, strict=False)) if self.modality.has_tokens else None
        await watched.settle(number, columns, mainnet.label, early, mainnet.label_id != prediction.label_id)

    def _give_up(self, watched: "_Watched") -> None:
        if watched.places:
            self._keep(watched.drop())

    def _keep(self, work: Coroutine) -> None:
        """Keep a reference: the event loop holds tasks weakly."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Watched:
    """The chosen rows of a request. Their numbers are requested before their exits are known.

    Args:
        watcher (`DeploymentHandle`, *optional*): the monitor.
        places (`list[int]`): positions of the rows in their request.
    """

    def __init__(self, watcher: Any, places: list[int]):
        self.watcher, self.places = watcher, places
        self._numbers = asyncio.ensure_future(self._ask()) if places else None

    async def settle(self, index: int, *what: Any) -> None:
        """Report the outcome of one row."""
        try:
            if numbers := await self._numbers:
                await self.watcher.settle.remote(numbers[index], *what)
        # The monitor restarted, and does not know these rows.
        except (*LOST, serve_errors.BackPressureError):
            return

    async def drop(self, index: int | None = None) -> None:
        """Report that one row, or all, cannot be monitored."""
        try:
            if numbers := await self._numbers:
                await self.watcher.drop.remote(numbers if index is None else [numbers[index]])
        except (*LOST, serve_errors.BackPressureError):
            return

    async def _ask(self) -> list[int]:
        try:
            return await self.watcher.choose.remote(len(self.places))
        except (*LOST, serve_errors.BackPressureError):
            return []


def in_few_words(errors: Sequence[str]) -> str:
    """Return the first errors, each truncated, and the number of the others."""
    shown = [each if len(each) <= MAX_CHARS else f"{each[:MAX_CHARS]}..." for each in errors[:MAX_ERRORS]]
    if len(errors) > MAX_ERRORS:
        shown.append(f"and {len(errors) - MAX_ERRORS} more")
    return "; ".join(shown)


def build_app(make: Callable[[], Api], settings: Settings) -> FastAPI:
    """Build the HTTP application.

    Args:
        make (`Callable[[], Api]`): called at startup.
        settings ([`Settings`]): of the server.
    """
    holder: dict[str, Api] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        holder["api"] = make()
        yield

    about = "Early-exit classification, one deployment per stage."
    app = FastAPI(title="hf_sidenet", description=about, lifespan=lifespan)
    app.add_middleware(Door, settings=settings)

    @app.post("/classify")
    async def classify(request: ClassifyRequest, http: Request) -> list[Answer]:
        return await holder["api"].classify(request, http.scope[DEADLINE])

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return await holder["api"].health()

    @app.get("/model")
    async def model() -> dict[str, Any]:
        return holder["api"].model()

    @app.get("/watch")
    async def watch() -> dict[str, Any]:
        return await holder["api"].watch()

    @app.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        # The input is not echoed: it may be large, or not valid text. So may a field's name.
        shown = [
            {"where": [in_few_words([part]) if isinstance(part, str) else part for part in each["loc"]],
             "rule": each["msg"]}
            for each in error.errors()[:MAX_ERRORS]
        ]  # fmt: skip
        return JSONResponse({"detail": shown}, 422)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        # Internal errors go to the log only.
        return JSONResponse({"detail": FAILED}, 500)

    return app

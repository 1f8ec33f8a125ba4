# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: reads requests, sends their rows from stage to stage, and answers."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from serve_inputs import Answer, rows_of
from serve_inputs import Request as ClassifyRequest
from serve_settings import Settings

from hf_sidenet.inference.rows import Prediction
from hf_sidenet.models.exit_rule import check_thresholds
from hf_sidenet.optional import require


serve = require("ray.serve", "ray")
metrics = require("ray.serve.metrics", "ray")
ray_errors = require("ray.exceptions", "ray")
serve_errors = require("ray.serve.exceptions", "ray")

MILLISECONDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
# A replica died, or an object with it. A stage has no state, so that the same rows may go through another one.
LOST = (
    ray_errors.RayActorError,
    ray_errors.ObjectLostError,
    ray_errors.OwnerDiedError,
    ray_errors.WorkerCrashedError,
    serve_errors.ReplicaUnavailableError,
)
PAUSE_S = 0.1
HEALTH_TIMEOUT_S = 5
# Rows on their way through the MainNet for the monitor; more are not looked at.
MAX_SHADOWS = 64


class LimitBody:
    """Refuses a request that is too large, before all of it has come.

    Args:
        app (`Callable`): an ASGI application.
        max_bytes (`int`): of a request.
    """

    def __init__(self, app: Callable, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """See ASGI."""
        size = 0

        async def limited() -> dict[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise HTTPException(413, f"a request must have at most {self.max_bytes} bytes.")
            return message

        await self.app(scope, limited, send)


class Api:
    """What Ray Serve starts for the HTTP side.

    Args:
        settings ([`Settings`]): of the server.
        stages (`Sequence[DeploymentHandle]`): in their order.
        watcher (`DeploymentHandle`, *optional*): that counts disagreements.
    """

    def __init__(self, settings: Settings, stages: Sequence[Any], watcher: Any = None):
        self.settings, self.stages, self.watcher = settings, stages, watcher
        self.config = settings.config
        self.is_text = self.config.input_size is None
        self.num_sidenets = len(stages) - 1
        own = settings.thresholds if settings.thresholds is not None else self.config.thresholds
        # The MainNet alone has none.
        self.thresholds = tuple(check_thresholds(own, self.num_sidenets)) if self.num_sidenets else ()
        self._random = random.Random()
        self._shadows: set[asyncio.Task] = set()
        self._rows = metrics.Counter("sidenet_rows", "rows that an exit has answered", ("exit",))
        self._requests = metrics.Counter("sidenet_requests", "requests by HTTP status", ("status",))
        self._times = metrics.Histogram("sidenet_request_ms", "milliseconds of a request", MILLISECONDS)

    async def classify(self, request: ClassifyRequest) -> list[Answer]:
        """Answers in the order of the inputs.

        Raises:
            HTTPException: with the status and the reason.
        """
        start = time.perf_counter()
        status = 500
        try:
            answers = await self._classify(request)
            status = 200
            return answers
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self._requests.inc(tags={"status": str(status)})
            self._times.observe(1e3 * (time.perf_counter() - start))

    async def health(self) -> dict[str, Any]:
        """Whether every stage answers."""
        pings = [handle.ready.remote() for handle in self.stages]
        try:
            await asyncio.wait_for(asyncio.gather(*pings), HEALTH_TIMEOUT_S)
        except (asyncio.TimeoutError, *LOST) as error:
            raise HTTPException(503, "a stage does not answer.") from error
        return {"status": "ok", "stages": len(self.stages)}

    def model(self) -> dict[str, Any]:
        """What is served."""
        config, evidence = self.config, self.config.calibration or {}
        return {
            "checkpoint": self.settings.checkpoint,
            "classes": [config.id2label[i] for i in range(config.num_labels)],
            "exit_layers": [] if self.settings.plain else config.exit_layers,
            "thresholds": list(self.thresholds),
            "certified": [each["target"] for each in evidence.get("targets", [])]
            if list(self.thresholds) == list(config.thresholds)
            else [],
        }

    async def watch(self) -> dict[str, Any]:
        """What the monitor has seen.

        Raises:
            HTTPException: nobody watches.
        """
        if self.watcher is None:
            raise HTTPException(404, "nobody watches: start the server with --watch-share.")
        return await self.watcher.report.remote()

    async def _classify(self, request: ClassifyRequest) -> list[Answer]:
        given = request.parameters.thresholds
        try:
            thresholds = self.thresholds if given is None else tuple(check_thresholds(given, self.num_sidenets))
            rows = rows_of(request, self.is_text, self.settings.max_rows)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        # Before anybody knows who answers them.
        chosen = self._chosen(len(rows)) if given is None else []
        predictions = await self._in_time(rows, thresholds)
        if bad := [str(each.error) for each in predictions if each.error is not None]:
            raise HTTPException(422, "; ".join(bad))
        for each in predictions:
            self._rows.inc(tags={"exit": str(each.exit_index)})
        for place in chosen:
            self._look_at(rows[place], predictions[place])
        return [Answer(label=each.label, score=each.confidence, exit=each.exit_index) for each in predictions]

    async def _in_time(self, rows: list[Any], thresholds: tuple[float, ...]) -> list[Prediction]:
        try:
            return await asyncio.wait_for(self._through(rows, thresholds), self.settings.timeout_s)
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"no answer in {self.settings.timeout_s} s.") from error
        except serve_errors.BackPressureError as error:
            raise HTTPException(503, "too many requests are waiting.", {"Retry-After": "1"}) from error

    async def _through(self, rows: list[Any], thresholds: tuple[float, ...]) -> list[Prediction]:
        """Rows through the stages; those that leave do not go on."""
        answered: list[Prediction] = []
        items: list[Any] = [(rows, thresholds)]
        for handle in self.stages:
            steps = await asyncio.gather(*(self._run(handle, item) for item in items))
            answered += [prediction for step in steps for prediction in step.answered]
            items = [packet for step in steps for packet in step.staying]
            if not items:
                break
        return sorted(answered, key=lambda prediction: prediction.place)

    async def _run(self, handle: Any, item: Any) -> Any:
        """One stage; again where a replica died over it, until the time is up."""
        while True:
            try:
                return await handle.run.remote(item)
            except LOST:
                await asyncio.sleep(PAUSE_S)

    def _chosen(self, count: int) -> list[int]:
        share = self.settings.watch_share
        return [place for place in range(count) if self._random.random() < share]

    def _look_at(self, row: Any, prediction: Prediction) -> None:
        """Tell the monitor of a row; nobody waits for that."""
        if len(self._shadows) >= MAX_SHADOWS:
            task: Awaitable = _done(self.watcher.add_failed.remote())
        else:
            task = self._shadow(row, prediction)
        # Kept here: the event loop holds tasks weakly.
        held = asyncio.ensure_future(task)
        self._shadows.add(held)
        held.add_done_callback(self._shadows.discard)

    async def _shadow(self, row: Any, prediction: Prediction) -> None:
        early = prediction.exit_index < self.num_sidenets
        mainnet = prediction
        if early:
            try:
                (mainnet,) = await self._in_time([row], (1.0,) * self.num_sidenets)
            except HTTPException:
                await self.watcher.add_failed.remote()
                return
        if mainnet.error is not None:
            await self.watcher.add_failed.remote()
            return
        disagrees = mainnet.label_id != prediction.label_id
        texts = row if isinstance(row, tuple) else (row,)
        # Pictures are not kept.
        columns = dict(zip(("text", "text_pair"), texts, strict=False)) if self.is_text else None
        await self.watcher.add.remote(columns, mainnet.label, early, disagrees)


async def _done(response: Any) -> None:
    await response


def build_app(make: Callable[[], Api], settings: Settings) -> FastAPI:
    """The HTTP application.

    Args:
        make (`Callable[[], Api]`): called when it starts.
        settings ([`Settings`]): of the server.
    """
    holder: dict[str, Api] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        holder["api"] = make()
        yield

    app = FastAPI(title="hf_sidenet", description="Early-exit classification, one deployment per stage.",
                  lifespan=lifespan)  # fmt: skip
    app.add_middleware(LimitBody, max_bytes=settings.max_bytes)

    @app.post("/classify")
    async def classify(request: ClassifyRequest) -> list[Answer]:
        return await holder["api"].classify(request)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return await holder["api"].health()

    @app.get("/model")
    async def model() -> dict[str, Any]:
        return holder["api"].model()

    @app.get("/watch")
    async def watch() -> dict[str, Any]:
        return await holder["api"].watch()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        # What went wrong inside is for the log, which has it.
        return JSONResponse({"detail": "the server failed; its log says why."}, 500)

    return app

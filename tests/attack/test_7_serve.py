# SPDX-License-Identifier: Apache-2.0
"""A server that strangers reach: unfinished bodies, what errors and `/model` tell, and who reads what was sent."""

import asyncio
import os
import time

import httpx
import pytest

from ..examples.ray_folder import module
from ..examples.serve_app import build, save_checkpoint


NUM_BODIES = 1050
# Only what is broken takes so long.
HANGS_S = 60


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("attacked") / "text")


def asked(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


def unfinished(app, statuses, gone):
    """A request whose body stops after one byte; in the end its caller is gone."""
    sent = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if sent:
            return sent.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/classify", "raw_path": b"/classify", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
    }  # fmt: skip
    return asyncio.ensure_future(app(scope, receive, send))


def test_unfinished_bodies_stop_nobody(checkpoint):
    app = build(checkpoint, timeout_s=600, max_bodies=100)

    async def attack():
        statuses, gone = [], asyncio.Event()
        async with app.router.lifespan_context(app), asked(app) as client:
            held = [unfinished(app, statuses, gone) for _ in range(NUM_BODIES)]
            end = time.monotonic() + HANGS_S
            while len(statuses) < NUM_BODIES - 100 and time.monotonic() < end:
                await asyncio.sleep(0.01)
            health = await client.get("/health")
            refused = await client.post("/classify", json={"inputs": "a"})
            refusals = statuses.count(503)
            gone.set()
            await asyncio.wait(held)
            after = await client.post("/classify", json={"inputs": "a"})
        return refusals, health.json(), refused, after.status_code

    refusals, health, refused, after = asyncio.run(attack())
    assert health == {"status": "ok", "stages": 3}
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert (refusals, after) == (NUM_BODIES - 100, 200)


def test_nothing_is_told_that_need_not_be(checkpoint):
    app = build(checkpoint)

    async def ask():
        async with app.router.lifespan_context(app), asked(app) as client:
            model = await client.get("/model")
            many = {"inputs": "a", "parameters": {"thresholds": [0.5] * 100_000}}
            few = {"inputs": "a", "parameters": {"thresholds": [0.5] * 200}}
            named = {"inputs": "a", "x" * 100_000: 1}
            return model, [await client.post("/classify", json=body) for body in (many, few, named)]

    model, refused = asyncio.run(ask())
    assert model.json()["checkpoint"] == "text"
    assert str(checkpoint) not in model.text
    for answer in refused:
        assert (answer.status_code, len(answer.content) < 1000) == (422, True), answer.text[:2000]


def test_only_its_owner_reads_the_watch_file(checkpoint, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    rows.chmod(0o644)
    settings = module("serve_settings").Settings(
        checkpoint, watch_share=1.0, watch_limit=0.5, watch_file=str(rows), timeout_s=1
    )

    async def watch():
        watcher = module("serve_watcher").Watcher(settings)
        modes = [os.stat(rows).st_mode & 0o777]
        (number,) = await watcher.choose(1)
        await watcher.settle(number, {"text": "a"}, "good", True, False)
        end = time.monotonic() + HANGS_S
        while not rows.read_text() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        return [*modes, os.stat(rows).st_mode & 0o777]

    assert asyncio.run(watch()) == [0o600, 0o600]
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_the_token_of_a_ray_that_is_started_here(monkeypatch):
    local_ray = module("local_ray")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        # Also takes back what is set below.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    local_ray.choose_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "mine")
    local_ray.choose_token()
    assert "RAY_AUTH_TOKEN" not in os.environ

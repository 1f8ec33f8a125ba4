# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of the server over stages in this process."""

import asyncio
import socket
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import uvicorn

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.inference import SingleStage, Stages
from hf_sidenet.inference.reading import RowReader

from ..benchmark.checkpoints import save_text_checkpoint
from .ray_folder import module


class Handle:
    """A stage in this process, called as Ray Serve's handles are; `before` may fail in its place."""

    def __init__(self, stage, before=None):
        work = stage.go_on if stage.index else stage.begin
        self.calls = 0

        async def run(item):
            self.calls += 1
            if before is not None:
                await before(self.calls)
            return work([item])[0]

        async def ready():
            if before is not None:
                await before(0)
            return True

        self.run, self.ready = SimpleNamespace(remote=run), SimpleNamespace(remote=ready)


def handles(checkpoint, **before):
    model, processor = load_checkpoint(checkpoint)
    stages = Stages(model)
    readers = [RowReader(stages, processor), *[None] * (len(stages) - 1)]
    return [Handle(SingleStage(stages, i, reader=r), before.get(f"stage_{i}")) for i, r in enumerate(readers)]


def build(checkpoint, watcher=None, before=None, **kwargs):
    """The application; `kwargs` are settings."""
    settings = module("serve_settings").Settings(checkpoint, **kwargs)
    api = module("serve_api")
    return api.build_app(partial(api.Api, settings, handles(checkpoint, **(before or {})), watcher), settings)


@asynccontextmanager
async def listening(app):
    """The application behind the HTTP server that Ray Serve puts before it, on a port of loopback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.ensure_future(server.serve(sockets=[taken]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield taken.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def save_checkpoint(folder):
    save_text_checkpoint(folder)
    return str(folder)

# SPDX-License-Identifier: Apache-2.0
import asyncio

import httpx
import pytest
from gradio_client import Client

from hf_sidenet.demo import build_demo, launch
from hf_sidenet.demo.batch_files import TOO_MUCH, UploadLimit


async def writes(scope, receive, send):
    """Puts what it is sent into a file, as far as it comes."""
    with open(scope["state"], "wb") as file:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RuntimeError("the visitor has gone")
            file.write(message.get("body", b""))
            if not message.get("more_body"):
                break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"kept"})


def upload(app, path, chunks, where="/gradio_api/upload"):
    """Status and body of the answer."""
    left, sent = [*chunks], []

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": "http", "path": where, "state": path}, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_the_sum_of_all_files_is_bounded(tmp_path):
    app = UploadLimit(writes, tmp_path, most=100)
    assert upload(app, tmp_path / "a", [b"x" * 30, b"x" * 30]) == (200, b"kept")
    assert upload(app, tmp_path / "b", [b"x" * 30, b"x" * 30]) == (507, TOO_MUCH)
    assert upload(app, tmp_path / "c", [b"x" * 200], where="/gradio_api/call/answer") == (200, b"kept")
    assert app.coming == 0
    for name in "bc":
        (tmp_path / name).unlink()
    assert upload(app, tmp_path / "d", [b"x" * 30]) == (200, b"kept")


def test_files_on_their_way_count_too(tmp_path):
    app = UploadLimit(writes, tmp_path, most=100)
    app.coming = 90
    assert upload(app, tmp_path / "a", [b"x" * 20]) == (507, TOO_MUCH)
    assert app.coming == 90


def test_errors_of_the_page_stay_its_own(tmp_path):
    async def broken(scope, receive, send):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        upload(UploadLimit(broken, tmp_path, most=100), tmp_path / "a", [b"x"])


def test_the_page_has_the_limit(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("hf_sidenet.demo.page.MAX_TOTAL_BYTES", 1000)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = build_demo(checkpoint)
    try:
        address = launch(page, block=False)
        send = {"files": ("rows.csv", b"text\n" + b"good film\n" * 500)}
        assert httpx.post(f"{address}gradio_api/upload", files=send).status_code == 507
        assert "answered" in Client(address, verbose=False).predict(0, "a good film", api_name="/answer")
    finally:
        page.close()

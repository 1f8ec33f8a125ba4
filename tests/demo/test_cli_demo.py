# SPDX-License-Identifier: Apache-2.0
"""`hf-sidenet demo` before a browser comes, and what the page's API takes."""

import signal
import socket
import sys
import time

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from hf_sidenet.demo import build_demo, launch
from hf_sidenet.demo.batch_files import UploadError
from hf_sidenet.demo.service import Demo

from ..cli.test_cli import run
from .browser import serving


@pytest.mark.medium
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "Error: DIRECTORY: "),
        (["{image}", "--pair"], "--pair must be False for"),
        (["{text}", "--pair", "--example", "one"], "Error: --example: must be given twice per pair, got 1."),
        (["{text}", "--port", "0"], "Error: --port: "),
        (
            ["{image}", "--example", "nowhere.png"],
            "--example: must be existing pictures, got 'nowhere.png'.",
        ),
        (["{exported}"], "Error: DIRECTORY: must be a checkpoint, got the exported folder"),
    ],
)
def test_impossible_arguments(checkpoint, image_checkpoint, tmp_path, arguments, message):
    (tmp_path / "manifest.json").write_text("{}")
    places = {"text": checkpoint, "image": image_checkpoint, "exported": tmp_path}
    done = run("demo", *(each.format(**places) for each in arguments))
    assert (done.code, done.out) == (2, "")
    assert message in done.last


def test_a_port_that_is_taken(checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("demo", checkpoint, "--port", port)
    assert done.code == 1
    assert done.last.startswith(f"Error: --port must be free on 127.0.0.1, got {port}: ")


def test_without_gradio(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("demo", checkpoint)
    assert (done.code, done.last) == (1, 'Error: This needs gradio: pip install "hf_sidenet[space]"')


def test_pairs(checkpoint):
    pairs = Demo(str(checkpoint), is_pair=True)
    assert "answered" in pairs.answer(pairs.dial.chosen, "one film", "another film")
    assert pairs.again(pairs.dial.chosen, "one film", "") == ""
    with pytest.raises(ValueError, match="the second text is empty"):
        pairs.answer(pairs.dial.chosen, "one film", " ")


@pytest.fixture(scope="module")
def demo(checkpoint):
    return Demo(str(checkpoint))


@pytest.fixture(scope="module")
def client(checkpoint):
    page = build_demo(checkpoint)
    yield Client(launch(page, block=False), verbose=False)
    page.close()


@pytest.mark.parametrize("index", [-1, "one too far", 1e9, float("nan"), None, "far"])
def test_a_setting_that_is_none(demo, tmp_path, index):
    (tmp_path / "rows.csv").write_text("text\na film\n")
    last = len(demo.dial.positions) - 1
    index = last + 1 if index == "one too far" else index
    for call, given in (
        (demo.move, ()),
        (demo.answer, ("a film",)),
        (demo.batch, (tmp_path / "rows.csv", tmp_path, print)),
    ):
        with pytest.raises(UploadError, match=f"must be one of the settings 0 to {last}, got"):
            call(index, *given)


def test_a_slider_that_is_moved_says_no_error_again(demo):
    assert demo.again(0, "  ") == ""
    assert demo.again(0, "x" * 20_001) == ""
    assert "answered" in demo.again(0, "a film")


def test_a_text_that_is_cut_is_told(demo):
    assert "tokens were read" not in demo.answer(0, "a film")
    limit = demo.answering.reader.max_length
    assert f"Only the first {limit:,} tokens were read." in demo.answer(0, "film " * limit)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_of_a_file(checkpoint, tmp_path, how):
    (tmp_path / "rows.csv").write_text("text\n" + f"{'film ' * 400}\n" * 4000)
    with serving(checkpoint) as server:
        client = Client(server.address, verbose=False)
        job = client.submit(0, handle_file(tmp_path / "rows.csv"), api_name="/batch")
        while not (job.status().progress_data or job.done()):
            time.sleep(0.05)
        assert not job.done()
        assert server.stop(how) == 0, server.text
        assert "was stopped." in server.text


@pytest.mark.medium
def test_the_api_bounds_its_inputs(client, tmp_path):
    assert "answered" in client.predict(0, "a film", api_name="/answer")
    with pytest.raises(AppError, match="at most 20,000 characters: the text has 20,001"):
        client.predict(0, "x" * 20_001, api_name="/answer")
    (tmp_path / "rows.csv").write_text("text\n" + "a\n" * 10_001)
    with pytest.raises(AppError, match="at most 10,000 rows, got more"):
        client.predict(0, handle_file(tmp_path / "rows.csv"), api_name="/batch")


def test_a_file_that_the_visitor_did_not_bring(image_checkpoint, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    page = build_demo(image_checkpoint)
    try:
        address = f"{launch(page, block=False)}gradio_api/call/answer"
        brought = Client(address.removesuffix("gradio_api/call/answer"), verbose=False)
        assert "answered" in brought.predict(0, handle_file(tmp_path / "secret.png"), api_name="/answer")
        given = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}
        event = httpx.post(address, json={"data": [0, given]}).json()["event_id"]
        assert httpx.get(f"{address}/{event}").text.startswith("event: error")
    finally:
        page.close()


def test_too_large_an_upload(client, tmp_path):
    (tmp_path / "rows.csv").write_text("text\n" + "a" * 11 * 2**20)
    with pytest.raises(Exception, match="exceeds the maximum file size of 10485760 bytes"):
        client.predict(0, handle_file(tmp_path / "rows.csv"), api_name="/batch")

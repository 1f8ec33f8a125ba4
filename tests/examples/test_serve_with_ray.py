# SPDX-License-Identifier: Apache-2.0
"""A server with one deployment per stage, as a user starts it, on loopback."""

import asyncio
import contextlib
import ipaddress
import json
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import grpc
import psutil
import pytest
import torch
from ray.serve.generated import serve_pb2, serve_pb2_grpc

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.inference import SideNetRunner

from ..benchmark.checkpoints import save_text_checkpoint
from .commands import run, sentences
from .ray_folder import FOLDER, module


pytestmark = pytest.mark.slow
TEXTS = [text for text, _ in sentences(120)]
# Only what hangs takes so long: tests wait for what has to happen, however busy the machine is.
HANGS_S = 900


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "checkpoint"
    # One before the first block, on which the next one builds.
    save_text_checkpoint(folder, (0, 3), chain=[[0.5], [0.0, 0.0]])
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint):
    """What one process answers to every text."""
    runner = SideNetRunner(*load_checkpoint(checkpoint))
    return {text: (each.label, each.exit_index) for text, each in zip(TEXTS, runner.predict(TEXTS), strict=True)}


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t0\n" for text in TEXTS))
    return path


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    def __init__(self, checkpoint, folder):
        self.port, self.metrics_port = free_port(), free_port()
        self.url, self.log, self.rows = f"http://127.0.0.1:{self.port}", folder / "log.txt", folder / "rows.jsonl"
        command = [
            sys.executable, FOLDER / "serve_with_ray.py", checkpoint, "--port", self.port, "--replicas", "1",
            "--cpus", "0.5", "--api-cpus", "0.5", "--metrics-port", self.metrics_port, "--max-rows", "8",
            "--max-bytes", "5000", "--timeout-s", str(HANGS_S), "--watch-share", "1", "--watch-limit", "0.9",
            "--watch-file", self.rows,
        ]  # fmt: skip
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)

    def wait(self):
        end = time.monotonic() + HANGS_S
        while self.process.poll() is None and time.monotonic() < end:
            if "Ctrl-C stops" in self.log.read_text():
                return
            time.sleep(0.5)
        raise AssertionError(self.log.read_text()[-4000:])

    def ask(self, path, body=None):
        """Status and JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers), timeout=HANGS_S
            ) as found:
                return found.status, json.loads(found.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=HANGS_S) as found:
            return found.read().decode()


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    started = Server(checkpoint, tmp_path_factory.mktemp("server"))
    try:
        started.wait()
        yield started
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(HANGS_S) == 0, started.log.read_text()[-4000:]
    finally:
        started.process.kill()


def test_answers_are_those_of_one_process(server, expected):
    found = []
    for start in range(0, 40, 8):
        status, answers = server.ask("/classify", {"inputs": TEXTS[start : start + 8]})
        assert status == 200
        found += [(each["label"], each["exit"]) for each in answers]
    assert found == [expected[text] for text in TEXTS[:40]]
    assert {exit for _, exit in found} == {0, 1, 2}
    status, (answer,) = server.ask("/classify", {"inputs": TEXTS[0]})
    assert (answer["label"], answer["exit"]) == expected[TEXTS[0]]
    assert 0.5 <= answer["score"] <= 1


def test_theta_of_a_request(server):
    for thresholds, exit in ((1.0, 2), (0.0, 0), ([1.0, 0.0], 1)):
        body = {"inputs": TEXTS[:4], "parameters": {"thresholds": thresholds}}
        status, answers = server.ask("/classify", body)
        assert (status, {each["exit"] for each in answers}) == (200, {exit})


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/classify", {"inputs": TEXTS[:9]}, 422, "`inputs` must be at most 8, got 9"),
        ("/classify", {"inputs": []}, 422, "at least 1"),
        ("/classify", {"inputs": ""}, 422, "at least 1"),
        ("/classify", {"inputs": 3}, 422, "valid string"),
        ("/classify", {"inputs": "a", "theta": 1}, 422, "Extra inputs are not permitted"),
        ("/classify", {"inputs": "a", "parameters": {"thresholds": -1}}, 422, "greater than or equal to 0"),
        ("/classify", {"inputs": "a", "parameters": {"thresholds": [0.5]}}, 422, "one value per SideNet (2), got 1"),
        ("/classify", b"{", 422, "JSON"),
        ("/classify", {"inputs": "a" * 6000}, 413, "at most 5000 bytes"),
        ("/classify", None, 405, "Method Not Allowed"),
        ("/nothing", None, 404, "Not Found"),
    ],
)
def test_errors_say_what_to_do(server, path, body, status, message):
    found, detail = server.ask(path, body)
    assert (found, message in json.dumps(detail)) == (status, True), detail


def test_health_model_and_what_is_watched(server):
    assert server.ask("/health") == (200, {"status": "ok", "stages": 3})
    _, model = server.ask("/model")
    assert model["checkpoint"] == "checkpoint"
    assert (model["classes"], model["exit_layers"], len(model["thresholds"])) == (["bad", "good"], [0, 3], 2)
    before = server.ask("/watch")[1]["num_chosen"]
    for text in TEXTS[:60]:
        server.ask("/classify", {"inputs": text})
    end = time.monotonic() + HANGS_S
    while (report := server.ask("/watch")[1])["num_chosen"] < before + 60 and time.monotonic() < end:
        time.sleep(0.2)
    assert report["num_chosen"] >= before + 60
    assert 0 < report["num_early"] < report["num_chosen"]
    assert not report["alarm"]
    # The file follows every few seconds.
    while len(lines := server.rows.read_text().splitlines()) < 50 and time.monotonic() < end:
        time.sleep(0.2)
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 50
    assert server.rows.stat().st_mode & 0o777 == 0o600
    assert {row["label"] for row in rows} <= {"bad", "good"}
    assert {row["text"] for row in rows} <= set(TEXTS)


def listening(server):
    """(host, port) of every process of a server."""
    found = set()
    parent = psutil.Process(server.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {each.laddr for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    return {(ipaddress.ip_address(address.ip.removeprefix("::ffff:")), address.port) for address in found}


def test_what_others_reach_asks_for_a_token(server):
    exposed = [port for host, port in listening(server) if not host.is_loopback]
    # Of the API, three stages and the monitor.
    assert len(exposed) == 5
    for port in exposed:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(None))
            with pytest.raises(grpc.RpcError) as refused:
                serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(request, timeout=HANGS_S)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_unfinished_bodies_hold_up_nobody(server):
    async def attack():
        head = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        answers, writers = [], []

        async def hold():
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writers.append(writer)
            writer.write(head)
            answers.append(await reader.read())

        held = [asyncio.ensure_future(hold()) for _ in range(300)]
        while len(answers) < 300 - 256:
            await asyncio.sleep(0.01)
        health = await asyncio.to_thread(server.ask, "/health")
        for writer in writers:
            writer.close()
        for each in held:
            each.cancel()
        return answers, health

    answers, health = asyncio.run(attack())
    assert health[0] == 200
    assert {each.split()[1] for each in answers} == {b"503"}
    # Those who hold them have gone.
    end = time.monotonic() + HANGS_S
    while server.ask("/classify", {"inputs": TEXTS[0]})[0] != 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert server.ask("/classify", {"inputs": TEXTS[0]})[0] == 200


def test_metrics(server):
    server.ask("/classify", {"inputs": TEXTS[:8]})
    wanted = (
        r'sidenet_rows_total\{.*exit="0".*\} [1-9]',
        r'sidenet_requests_total\{.*path="/classify".*status="200".*\} [1-9]',
        r'sidenet_stage_waiting_rows\{.*stage="1".*\} \d', r'sidenet_stage_ms_bucket\{.*stage="2"',
        r"sidenet_request_ms_count\{.*\} [1-9]", r"sidenet_watch_alarm\{.*\} 0", r"sidenet_watch_rows\{.*\} [1-9]",
    )  # fmt: skip
    # Ray collects every few seconds.
    end = time.monotonic() + HANGS_S
    while time.monotonic() < end:
        found = re.sub("ray_", "", server.metrics())
        if all(re.search(pattern, found) for pattern in wanted):
            return
        time.sleep(1)
    missing = [pattern for pattern in wanted if not re.search(pattern, found)]
    raise AssertionError((missing, sorted({line.split("{")[0] for line in found.splitlines() if "sidenet" in line})))


def test_nothing_is_lost_while_replicas_are_killed(server, expected):
    load_test, processes = module("load_test"), module("serve_processes")
    bodies = [{"inputs": TEXTS[i % len(TEXTS)]} for i in range(400)]

    async def load_and_kill():
        load, killed = load_test.Load(), []
        options = {"progress": False, "timeout_s": HANGS_S, "load": load}
        sending = asyncio.ensure_future(load_test.send_load(server.url, bodies, 16, **options))
        for answered, stage in ((50, "stage_0"), (200, "stage_2")):
            while sum(load.statuses.values()) < answered:
                await asyncio.sleep(0.01)
            killed.append(processes.kill_a_replica("sidenet", stage, server.process.pid))
        assert not sending.done()
        return await sending, killed

    load, killed = asyncio.run(load_and_kill())
    assert len(set(killed)) == 2
    assert load.statuses == {200: 400}
    for number, (answer,) in load.answers.items():
        assert (answer["label"], answer["exit"]) == expected[bodies[number]["inputs"]]
    # The killed replicas come back.
    end = time.monotonic() + HANGS_S
    while server.ask("/health")[0] != 200 and time.monotonic() < end:
        time.sleep(0.2)
    assert server.ask("/health")[0] == 200


def test_beside_the_plain_mainnet(checkpoint, texts_file, tmp_path):
    found = run(
        FOLDER / "compare_serving.py", checkpoint, "--file", texts_file, "--output-dir", tmp_path,
        "--plain-replicas", 1, "--requests", 200, "--rounds", 1, "--concurrency", 8, "--port", free_port(),
        "--metrics-port", free_port(), "--timeout-s", HANGS_S,
    )  # fmt: skip
    for server in ("sidenets", "plain"):
        assert re.search(rf"\| {server} \| \d+ \(\d+ to \d+\) \| \d+ \| \d+ \| \d+\.\d \| 0 \|", found), found
    assert re.search(r"a replica of stage 0 killed: 200 rows in .* 0 of 200 requests without an answer", found), found
    costs = tmp_path / "serving.csv"
    planned = run(FOLDER / "plan_replicas.py", costs, "--requests-per-second", 10, 100000)
    for process in ("api", "proxy", "stage_0", "stage_1", "stage_2", "all"):
        assert re.search(rf"\| sidenets \| {process} \| \**\d+\** \| \**[\d,]+\** \|", planned), planned
    run(FOLDER / "plan_replicas.py", texts_file, code=1)


def test_the_load_test_as_a_user_types_it(server, texts_file):
    found = run(FOLDER / "load_test.py", server.url, "--file", texts_file, "--requests", 40, "--concurrency", 4)
    assert re.search(r"40 rows in .* p99 \d+ ms; 0 of 40 requests without an answer", found)
    assert "exit 0" in found
    run(FOLDER / "load_test.py", "http://192.0.2.1:80", "--file", texts_file, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "(?s)error: .*nowhere"),
        (["CHECKPOINT", "--watch-share", "0.1"], "error: `config.calibration` must have a target `disagreement"),
        (["CHECKPOINT", "--thresholds", "-1"], "error: `thresholds`"),
        (["CHECKPOINT", "--replicas", "1", "2"], "error: `replicas` must be one for all stages, or one for each of 3"),
        pytest.param(
            ["CHECKPOINT", "--gpus", "1"],
            "error: --gpus: must be 0 on a machine without a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(checkpoint, arguments, message):
    given = [checkpoint if each == "CHECKPOINT" else each for each in arguments]
    assert re.search(message, run(FOLDER / "serve_with_ray.py", *given, code=1))


def test_ctrl_c_while_it_starts(checkpoint):
    command = [
        sys.executable,
        FOLDER / "serve_with_ray.py",
        checkpoint,
        "--port",
        free_port(),
        "--metrics-port",
        free_port(),
    ]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(list(map(str, command)), **streams) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert any("Started Serve" in line for line in lines)
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=HANGS_S)[0]
        finally:
            process.kill()
    assert process.returncode == 0, rest
    assert rest.rstrip().endswith("Stopped."), rest

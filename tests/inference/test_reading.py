# SPDX-License-Identifier: Apache-2.0
"""A row that cannot be read gets an error, and no other row does, on every way in."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import BatchEncoding

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import RowError, SingleStage, Stages
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.monitoring import ShadowMonitor, WatchedRunner
from tests.models.tiny import bert_with_sidenets

from .words import word_tokenizer


HALF = "a film \ud83d"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.config.thresholds = [0.6, 0.6]
    return model


@pytest.fixture
def tokenizer():
    return word_tokenizer()


class Choosy:
    """A processor of somebody's own, which cannot read some texts, or forgets them."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, texts, text_pair=None, **kwargs):
        given = [texts] if isinstance(texts, str) else texts
        if "unreadable" in given:
            raise RuntimeError("cannot read this")
        encoded = self.tokenizer(texts, text_pair, **kwargs)
        if "forgotten" in given:
            return {name: values[:-1] for name, values in encoded.items()}
        return encoded


BAD = [HALF, (HALF, "a film"), ("a film", HALF), "unreadable", "forgotten", None, 7, ("a", "b", "c"), ("a", None), ()]
WHY = [
    r"a text must be valid Unicode, got '\\ud83d' at 7, half of a surrogate pair.",
    r"a text must be valid Unicode, got '\\ud83d' at 7",
    r"a text must be valid Unicode, got '\\ud83d' at 7",
    "cannot read this",
    "`processor` must return one row per text, 1, got 0",
    "a row must be a text, a pair of texts or a dict of model inputs, got one of type NoneType",
    "got one of type int",
    r"got one of type \['str', 'str', 'str'\]",
    r"got one of type \['str', 'NoneType'\]",
    r"got one of type \[\]",
]


def mixed():
    """Good rows, and a bad one after each."""
    good = [f"film {'good ' * i}" for i in range(len(BAD))]
    return [row for pair in zip(good, BAD, strict=True) for row in pair]


@pytest.fixture
def expected(model, tokenizer):
    return list(SideNetRunner(model, tokenizer).predict(mixed()[::2]))


def assert_only_the_bad_failed(found, expected):
    for i, why in enumerate(WHY):
        assert found[2 * i].label == expected[i].label
        torch.testing.assert_close(found[2 * i].logits, expected[i].logits, rtol=0, atol=1e-5)
        with pytest.raises(RowError, match=why):
            raise found[2 * i + 1].error


@pytest.mark.parametrize("routing", ["pooled", "gates", "all_blocks"])
def test_predict(model, tokenizer, expected, routing):
    runner = SideNetRunner(model, Choosy(tokenizer), batch_size=4, routing=routing)
    assert_only_the_bad_failed(list(runner.predict(mixed())), expected)


def test_submit(model, tokenizer, expected):
    async def all_at_once(runner):
        return await asyncio.gather(*(runner.submit(row) for row in mixed()), return_exceptions=True)

    with SideNetRunner(model, Choosy(tokenizer), batch_size=32) as runner:
        for _ in range(2):
            found = asyncio.run(all_at_once(runner))
            for i, why in enumerate(WHY):
                assert found[2 * i].label == expected[i].label
                with pytest.raises(RowError, match=why):
                    raise found[2 * i + 1]


def test_single_stage(model, tokenizer):
    stages = Stages(model)
    stage = SingleStage(stages, 0, reader=RowReader(stages, Choosy(tokenizer)))
    steps = stage.begin([([row], (0.0, 0.0)) for row in mixed()])
    assert all(step.answered[0].error is None for step in steps[::2])
    for step, why in zip(steps[1::2], WHY, strict=True):
        with pytest.raises(RowError, match=why):
            raise step.answered[0].error


def test_watched(model, tokenizer, expected):
    monitor = ShadowMonitor(0.5, share=1.0)
    watched = WatchedRunner(SideNetRunner(model, Choosy(tokenizer), batch_size=4), monitor)
    assert_only_the_bad_failed(list(watched.predict(mixed())), expected)
    report = monitor.report()
    assert (report.num_chosen, report.num_failed) == (len(BAD), len(BAD))


@pytest.mark.parametrize("routing", ["pooled", "per_batch", "gates", "all_blocks"])
def test_rows_that_cannot_be_in_one_batch(model, routing):
    rows = [{"inputs_embeds": torch.randn(3, width)} for width in (32, 16, 32, 8, 32)]
    found = list(SideNetRunner(model, batch_size=8, routing=routing).predict(rows))
    assert [each.error is None for each in found] == [True, False, True, False, True]
    assert "row 1 failed" in str(found[1].error)


def test_the_source_of_the_rows_breaks_off_after_the_answers(model):
    def source():
        yield from ({"input_ids": [5, 6, 7 + i]} for i in range(5))
        raise OSError("the file ended")

    stream = SideNetRunner(model, batch_size=2).predict(source())
    assert [next(stream).place for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="the file ended"):
        next(stream)


def test_an_interruption_passes(model):
    def source():
        yield {"input_ids": [5]}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(SideNetRunner(model, batch_size=2).predict(source()))


# --- many rows at once


def test_many_rows_are_read_as_each_alone(model, tokenizer, monkeypatch):
    raw = [
        *(f"film {'good ' * (i % 7)}" for i in range(40)),
        *({"input_ids": [5] * (1 + i % 5)} for i in range(20)),
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 0], "labels": 1},
        {"input_ids": [5, 6, 7], "attention_mask": [0, 1, 0]},
        {"attention_mask": [1, 1], "input_ids": [5, 6]},
        {"input_ids": torch.tensor([5, 6])},
        {"input_ids": np.array([5, 6])},
        {"inputs_embeds": torch.randn(3, 32)},
    ]
    bad = [
        {"input_ids": []},
        {"input_ids": [5, -1]},
        {"input_ids": [5, 999_999]},
        {"input_ids": [5.5]},
        {"input_ids": [[5]]},
        {"input_ids": [5] * 600},
        {"input_ids": [5, 6], "attention_mask": [0, 0]},
        {"input_ids": [5, 6], "attention_mask": [1]},
        {"input_ids": [5], "color": [5]},
        {"attention_mask": [1]},
        {},
    ]
    rows = raw + bad
    reader = RowReader(Stages(model), tokenizer)
    alone = [reader.read([place], [row], [(0.5, 0.6)])[0] for place, row in enumerate(rows)]
    one_by_one = []
    monkeypatch.setattr(
        reader, "_row", lambda place, *rest: one_by_one.append(place) or RowReader._row(reader, place, *rest)
    )
    together = reader.read(range(len(rows)), rows, [(0.5, 0.6)] * len(rows))
    for a, b in zip(alone[: len(raw)], together, strict=False):
        assert (a.place, a.length, a.thresholds, a.kind) == (b.place, b.length, b.thresholds, b.kind)
        assert list(a.inputs) == list(b.inputs)
        for name, value in a.inputs.items():
            assert torch.equal(value, b.inputs[name])
            assert value.dtype == b.inputs[name].dtype
    assert [str(each) for each in alone[len(raw) :]] == [str(each) for each in together[len(raw) :]]
    assert [each for each in together[len(raw) :] if not isinstance(each, RowError)] == []
    # Only tensors and bad rows.
    assert one_by_one == [*range(len(raw) - 3, len(rows))]


# --- what is no iterable of rows


NO_ROWS = {
    "text": ("a great film", r"got a str. Pass one text as `\[text\]`"),
    "bytes": (b"film", "got a bytes. Pass one text"),
    "dict": ({"input_ids": [5, 6]}, r"got a dict. Pass one row as `\[row\]`"),
    "columns": ({"text": ["good", "bad"]}, "got a dict. .* the column of texts"),
    "encoding": (BatchEncoding({"input_ids": [[5, 6]]}), "got a BatchEncoding"),
    "frame": (pd.DataFrame({"text": ["good", "bad"]}), r'got a DataFrame. Pass a column, `frame\["text"\]`'),
    "table": (pa.table({"text": ["good"]}), "got a Table"),
    "splits": (DatasetDict({"train": Dataset.from_dict({"text": ["good"]})}), "got a DatasetDict"),
    "tensor": (torch.tensor([[5, 6]]), "got a Tensor. Pass one entry per row"),
    "array": (np.zeros((4, 4, 3)), "got a ndarray. Pass one entry per row"),
    "picture": (Image.new("RGB", (4, 4)), r"got a Image. Pass one row as `\[row\]`"),
    "number": (5, "got a int"),
    "nothing": (None, "got a NoneType"),
}


@pytest.mark.parametrize("kind", NO_ROWS)
def test_one_row_or_a_table_is_refused(model, tokenizer, kind):
    rows, message = NO_ROWS[kind]
    runner = SideNetRunner(model, tokenizer)
    stage = SingleStage(runner.stages, 0, reader=runner.reader)
    watched = WatchedRunner(runner, ShadowMonitor(0.5, share=1.0))
    for take in (
        runner.predict,
        runner.measure,
        lambda rows: runner.start(rows) if rows is not None else runner.measure(rows),
        watched.predict,
        lambda rows: stage.begin([(rows, (1.0, 1.0))]),
    ):
        with pytest.raises(ValueError, match=f"`rows` must be an iterable of rows, {message}"):
            take(rows)


@pytest.mark.parametrize(
    "rows",
    [
        ["good film", "bad"],
        ("good film", "bad"),
        pd.Series(["good film", "bad"]),
        np.array(["good film", "bad"]),
        Dataset.from_dict({"text": ["good film", "bad"]})["text"],
        Dataset.from_dict({"input_ids": [[4, 8], [5]], "labels": [0, 1]}),
        (text for text in ("good film", "bad")),
        zip(["good", "bad"], ["film", "plot"], strict=True),
    ],
    ids=["list", "tuple", "series", "array", "column", "data set", "generator", "zip"],
)
def test_whatever_gives_rows_is_taken(model, tokenizer, rows):
    assert [each.error for each in SideNetRunner(model, tokenizer).predict(rows)] == [None, None]


# --- one tokenizer, several readers


def test_readers_that_share_a_tokenizer_do_not_cut_each_others_texts(model, tokenizer):
    stages, text = Stages(model), " ".join(["good"] * 40)
    readers = {limit: RowReader(stages, tokenizer, limit) for limit in (8, 20, 64)}

    def lengths(limit):
        for _ in range(150):
            found = readers[limit].read(range(4), [text, "bad", text, (text, "bad")], [(1.0, 1.0)] * 4)
            yield [row.length for row in found]

    with ThreadPoolExecutor(6) as pool:
        seen = dict(pool.map(lambda i: (i, list(lengths((8, 20, 64)[i % 3]))), range(6)))
    for i, found in seen.items():
        longest = (8, 20, 42)[i % 3]
        assert found == [[longest, 3, longest, min((8, 20, 64)[i % 3], 44)]] * 150
    # Nor is what somebody gave another than before.
    assert tokenizer.backend_tokenizer.truncation is None
    assert len(tokenizer(text)["input_ids"]) == 42

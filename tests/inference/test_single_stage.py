# SPDX-License-Identifier: Apache-2.0
"""A chain whose stages know nothing of each other gives the runner's answers."""

import pickle

import pytest
import torch

from hf_sidenet.export import OnnxStages, export_onnx
from hf_sidenet.inference import SideNetRunner, SingleStage, Stages
from hf_sidenet.inference.reading import RowReader
from hf_sidenet.inference.rows import Batch, Row, pack, unpack

from ..models import tiny
from ..models.naive import spread_out


def text_rows(count):
    ids = tiny.texts(count)["input_ids"]
    return [{"input_ids": row[: 1 + i % len(row)]} for i, row in enumerate(ids)]


def image_rows(count):
    return [{"pixel_values": image} for image in tiny.images(count)["pixel_values"]]


def model_of(kind):
    torch.manual_seed(0)
    if kind.startswith("text"):
        model, inputs = tiny.bert_with_sidenets((0, 2) if "input" in kind else (1, 3)), tiny.texts(32)
    else:
        model, inputs = tiny.resnet_with_sidenet((0, 2) if "input" in kind else (1, 2)), tiny.images(32)
    return spread_out(model, inputs).eval()


def chain_of(stages, **kwargs):
    readers = [RowReader(stages), *[None] * (len(stages) - 1)]
    return [SingleStage(stages, i, reader=reader, **kwargs) for i, reader in enumerate(readers)]


@torch.no_grad()
def middle(model, raw):
    """θ of each SideNet that half of all rows exceed."""
    full = [model(**{name: value[None] for name, value in row.items()}, thresholds=1.0).exit_logits for row in raw]
    return model.task.confidence(torch.cat(full))[:, :-1].quantile(0.5, dim=0).tolist()


def sent(packet):
    """As another process gets it."""
    return pickle.loads(pickle.dumps(packet, protocol=5))


def answers(chain, requests):
    """Of every request, in the order of its rows; all of a stage's packets run together."""
    found = [[] for _ in requests]
    steps = list(enumerate(chain[0].begin(requests)))
    for stage in chain[1:]:
        waiting = []
        for request, step in steps:
            found[request] += step.answered
            waiting += [(request, sent(packet)) for packet in step.staying]
        ran = stage.go_on([packet for _, packet in waiting])
        steps = [(request, step) for (request, _), step in zip(waiting, ran, strict=True)]
    for request, step in steps:
        found[request] += step.answered
        assert not step.staying
    return [sorted(each, key=lambda prediction: prediction.place) for each in found]


@pytest.mark.parametrize(
    ("kind", "rows", "chain"),
    [
        ("text", text_rows, None),
        ("image", image_rows, None),
        ("text from input", text_rows, None),
        ("image from input", image_rows, None),
        ("text from input", text_rows, [[0.7], [0.3, 0.4]]),
        ("image", image_rows, [[0.7], [0.0, 0.0]]),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_are_the_runners(kind, rows, chain, batch_size):
    model = model_of(kind)
    model.config.chain = chain
    raw = rows(24)
    runner = SideNetRunner(model, thresholds=middle(model, raw), routing="pooled")
    expected = list(runner.predict(raw))
    assert {each.exit_index for each in expected} == {0, 1, 2}
    stages = Stages(model)
    chain = chain_of(stages, batch_size=batch_size)
    sizes = [1, 7, 16]
    parts = torch.arange(24).split(sizes)
    found = answers(chain, [([raw[i] for i in part], runner.thresholds) for part in parts])
    assert [len(each) for each in found] == sizes
    for got, want in zip([each for part in found for each in part], expected, strict=True):
        assert (got.label, got.exit_index) == (want.label, want.exit_index)
        torch.testing.assert_close(got.logits, want.logits)
    assert [each.place for each in found[2]] == list(range(16))


def test_requests_keep_their_own_theta():
    model = model_of("text")
    raw = text_rows(6)
    whole, first = answers(chain_of(Stages(model)), [(raw, (1.0, 1.0)), (raw, (0.0, 0.0))])
    assert {each.exit_index for each in whole} == {2}
    assert {each.exit_index for each in first} == {0}


def test_bad_rows_are_their_requests_own():
    model = model_of("text")
    raw = text_rows(3)
    found = answers(chain_of(Stages(model)), [([raw[0], {"input_ids": [-1]}], (1.0, 1.0)), (raw, (1.0, 1.0))])
    assert [each.error is None for each in found[0]] == [True, False]
    assert "row 1: `input_ids` must be in" in str(found[0][1].error)
    assert all(each.error is None for each in found[1])


class RefusesNan(Stages):
    """As memory that does not suffice for some rows."""

    def __call__(self, index, hidden, inputs):
        if hidden is not None and hidden.isnan().any():
            raise RuntimeError("not a number")
        return super().__call__(index, hidden, inputs)


def test_a_row_that_fails_at_a_later_stage():
    chain = chain_of(RefusesNan(model_of("text")))
    raw = text_rows(4)
    steps = chain[0].begin([(raw[:2], (1.0, 1.0)), (raw[2:], (1.0, 1.0))])
    packets = [sent(packet) for step in steps for packet in step.staying]
    packets[1].hidden = packets[1].hidden * float("nan")
    bad, good = chain[1].go_on(packets[::-1])
    assert bad.answered == good.failed == []
    assert [(each.place, str(each.error)) for each in bad.failed] == [
        (place, f"row {place} failed at stage 1: RuntimeError: not a number") for place in (0, 1)
    ]
    assert [len(packet) for packet in good.staying] == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_packet_is_the_same_on_the_other_side(dtype):
    rows = [Row(i, {"input_ids": torch.arange(n)}, n, (0.5,)) for i, n in ((3, 2), (5, 4))]
    ids = torch.tensor([[0, 1, 0, 0], [0, 1, 2, 3]])
    batch = Batch(rows, {"input_ids": ids}, torch.randn(2, 4, 3).to(dtype))
    packet = sent(pack(batch))
    assert len(packet) == 2
    got = unpack(packet, torch.device("cpu"))
    assert got.hidden.dtype == dtype
    assert torch.equal(got.hidden, batch.hidden)
    assert torch.equal(got.inputs["input_ids"], ids)
    assert [(row.place, row.length, row.thresholds, row.kind) for row in got.rows] == [
        (row.place, row.length, row.thresholds, row.kind) for row in rows
    ]
    assert torch.equal(got.rows[0].inputs["input_ids"], torch.arange(2))


@pytest.mark.slow
def test_a_process_opens_its_own_file_only(tmp_path):
    model = model_of("text")
    export_onnx(model, tmp_path / "onnx")
    whole = OnnxStages.load(tmp_path / "onnx")
    last = OnnxStages.load(tmp_path / "onnx", only=2)
    packet = SingleStage(whole, 1).go_on(
        [packet for step in chain_of(whole)[0].begin([(text_rows(3), (1.0, 1.0))]) for packet in step.staying]
    )[0].staying[0]  # fmt: skip
    (step,) = SingleStage(last, 2).go_on([packet])
    assert [each.exit_index for each in step.answered] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"`index` must be the open stage, \[2\], got 1"):
        last(1, torch.zeros(1, 3, 32), {"attention_mask": torch.ones(1, 3).long()})
    with pytest.raises(ValueError, match="`only` must be between 0 and 2, got 3"):
        OnnxStages.load(tmp_path / "onnx", only=3)


@pytest.mark.parametrize(
    ("index", "kwargs", "message"),
    [
        (3, {}, "`index` must be between 0 and 2, got 3"),
        (1, {"batch_size": 0}, "`batch_size` must be an integer ≥ 1, got 0"),
        (0, {}, "`reader` must be given for stage 0 only, got None for stage 0"),
    ],
)
def test_impossible_arguments(index, kwargs, message):
    with pytest.raises(ValueError, match=message):
        SingleStage(Stages(model_of("text")), index, **kwargs)

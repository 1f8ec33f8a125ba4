# SPDX-License-Identifier: Apache-2.0
"""A SideNet before the first block, as a stage of its own, in every way to run rows."""

import pytest
import torch

from hf_sidenet.export import OnnxStages, TorchStages, export_onnx, export_torch
from hf_sidenet.inference import SideNetRunner, Stages
from hf_sidenet.inference.routings import ALL_BLOCKS, GATES, PER_BATCH, POOLED
from hf_sidenet.inference.stages import InputStage

from ..models import tiny
from ..models.naive import spread_out


def model_of(kind):
    torch.manual_seed(0)
    if kind == "text":
        return spread_out(tiny.bert_with_sidenets((0, 1, 3)), tiny.texts(32))
    return spread_out(tiny.resnet_with_sidenet((0, 2)), tiny.images(32))


def rows_of(kind, count=40):
    if kind == "image":
        return [{"pixel_values": image} for image in tiny.images(count)["pixel_values"]]
    ids = tiny.texts(count)["input_ids"]
    return [{"input_ids": row[: 1 + i % len(row)]} for i, row in enumerate(ids)]


def middle(model, rows):
    """θ at which a part of the rows stays at each SideNet."""
    with torch.no_grad():
        every = [model(**{k: v[None] for k, v in row.items()}, thresholds=1.0).exit_logits[0, :-1] for row in rows]
    return torch.stack(every).softmax(-1).amax(-1).quantile(0.6, dim=0).tolist()


def assert_same(found, expected):
    assert [each.exit_index for each in found] == [each.exit_index for each in expected]
    torch.testing.assert_close(
        torch.stack([each.logits for each in found]), torch.stack([each.logits for each in expected]),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def runner_of(stages, thresholds, **kwargs):
    return SideNetRunner(stages, batch_size=4, pool_size=8, thresholds=thresholds, **kwargs)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_every_routing_gives_the_answers_of_the_model(kind):
    model, rows = model_of(kind), rows_of(kind)
    thresholds = middle(model, rows)
    expected = list(runner_of(model, thresholds, routing=GATES).predict(rows))
    assert len({each.exit_index for each in expected}) == len(model.config.exit_layers) + 1
    for routing in (POOLED, PER_BATCH, ALL_BLOCKS):
        assert_same(list(runner_of(model, thresholds, routing=routing).predict(rows)), expected)
    # A third of the rows leave at the input, whatever θ the others have.
    own = torch.tensor([[0.0, *thresholds[1:]] if i % 3 else [1.0] * len(thresholds) for i in range(len(rows))])
    found = list(runner_of(model, thresholds, routing=POOLED).predict(rows, own))
    assert [each.exit_index == 0 for each in found] == [i % 3 > 0 for i in range(len(rows))]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_rows_that_exit_there_never_reach_the_mainnet(kind):
    model, rows = model_of(kind), rows_of(kind)
    stages = Stages(model)
    assert isinstance(stages.modules[0], InputStage)
    assert not any(name.startswith("mainnet") for name, _ in stages.modules[0].named_modules())
    calls = []
    for stage in stages.modules[1:]:
        stage.register_forward_pre_hook(lambda *_: calls.append(1))
    thresholds = [0.0] + [1.0] * (len(stages) - 2)
    for routing in (POOLED, PER_BATCH):
        assert {each.exit_index for each in runner_of(stages, thresholds, routing=routing).predict(rows)} == {0}
    assert calls == []


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_exported(kind, format, tmp_path):
    model, rows = model_of(kind), rows_of(kind)
    thresholds = middle(model, rows)
    expected = list(runner_of(model, thresholds, routing=GATES).predict(rows))
    export = export_onnx if format == "onnx" else export_torch
    assert export(model, tmp_path / "out").largest_difference < 1e-5
    stages = OnnxStages.load(tmp_path / "out") if format == "onnx" else TorchStages.load(
        tmp_path / "out", trust_programs=True
    )  # fmt: skip
    assert [stage.outputs for stage in stages.manifest.stages[:2]] == [["logits"], ["x_c", "logits"]]
    assert "hidden" not in stages.manifest.stages[1].inputs
    assert_same(list(runner_of(stages, thresholds).predict(rows)), expected)
    with pytest.raises(ValueError, match="`hidden` must be given for every stage that starts after a block, got None"):
        stages(2, None, {})


@pytest.mark.medium
def test_compiled():
    model, rows = model_of("text"), rows_of("text", 12)
    thresholds = middle(model, rows)
    expected = list(runner_of(model, thresholds, routing=GATES).predict(rows))
    assert_same(list(runner_of(model, thresholds, compile={"backend": "eager"}).predict(rows)), expected)


@pytest.mark.slow
def test_int8(tmp_path):
    model, rows = model_of("text"), rows_of("text")
    export_onnx(model, tmp_path / "out", int8=True, progress=False)
    thresholds = middle(model, rows)
    found = list(runner_of(OnnxStages.load(tmp_path / "out"), thresholds).predict(rows))
    expected = list(runner_of(model, thresholds, routing=GATES).predict(rows))
    # The SideNet itself stays as it is.
    assert [each.exit_index == 0 for each in found] == [each.exit_index == 0 for each in expected]

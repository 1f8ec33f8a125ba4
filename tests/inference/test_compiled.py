# SPDX-License-Identifier: Apache-2.0
"""Compiled stages: one graph each, without the blocks that another stage runs, and the answers of the model."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import Stages
from hf_sidenet.inference.compiled import CompiledStages
from hf_sidenet.inference.routings import all_exits
from tests.models import test_modeling_layoutlm
from tests.models.naive import every_exit
from tests.models.tiny import bert_with_sidenets, resnet_with_sidenet

from .flood import assert_answers, one_by_one, token_rows


pytestmark = pytest.mark.medium


THETA = (0.6, 0.6)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.config.thresholds = list(THETA)
    return model


def counting(counts):
    """A backend that runs graphs as they are and notes how many matrix products each has."""

    def compiler(graph, _):
        products = [node for node in graph.graph.nodes if "mm" in str(node.target) and node.op == "call_function"]
        counts.append(len(products))
        return graph

    return aot_autograd(fw_compiler=compiler)


@pytest.mark.slow
def test_a_stage_is_one_graph_with_its_own_blocks_only(model):
    # Of one block: query, key, value, output and the two of the feed-forward.
    per_block = 6
    counts = []
    stages = CompiledStages(Stages(model), {"backend": counting(counts)})
    inputs = {"input_ids": torch.randint(3, 99, (5, 7)), "attention_mask": torch.ones(5, 7, dtype=torch.long)}
    hidden = None
    with torch.inference_mode():
        for k in range(3):
            hidden, _ = stages(k, hidden, inputs)
    attention = 0 if model.config._attn_implementation == "sdpa" else 2
    head, pooler_and_classifier = 2, 2
    per_block += attention
    assert len(counts) == 3
    assert counts[0] == per_block + head
    assert counts[1] == 2 * per_block + head
    assert counts[2] == per_block + pooler_and_classifier


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic shapes", "filled up"])
def test_the_runner_gives_the_same_answers_compiled(model, dynamic):
    raw = token_rows(60, 30, bad_every=17)
    options = {"backend": "aot_eager", "dynamic": dynamic}
    runner = SideNetRunner(model, batch_size=8, compile=options, routing="pooled")
    assert_answers(list(runner.predict(raw)), one_by_one(model, raw, THETA))


def test_boxes_are_filled_up_with_the_tokens():
    layoutlm = test_modeling_layoutlm.TestLayoutLM()
    model, inputs = layoutlm.model(), layoutlm.inputs(5)
    stages = CompiledStages(Stages(model), {"backend": "eager", "dynamic": False})
    with torch.inference_mode():
        layoutlm.assert_same(all_exits(stages, inputs), every_exit(model, inputs))


def test_filled_up_there_are_few_shapes():
    model = bert_with_sidenets((2,))
    counts = []
    options = {"backend": counting(counts), "dynamic": False}
    runner = SideNetRunner(model, batch_size=8, thresholds=0.6, compile=options, routing="pooled", pool_size=8)
    list(runner.predict(token_rows(300, 60)))
    # Lengths of 32 and 64, rows in powers of two up to 16 in the second stage.
    assert len(counts) <= 2 + 2 * 5


@pytest.mark.parametrize(("dynamic", "expected"), [(True, [1, 2, 2, 3, 3]), (False, [1, 2, 2, 2, 3])])
def test_it_tells_how_many_graphs_it_needed(model, dynamic, expected):
    stages = CompiledStages(Stages(model), {"backend": counting([]), "dynamic": dynamic})
    found = []
    for rows, tokens in ((1, 9), (3, 9), (4, 30), (4, 1), (9, 9)):
        ids = torch.full((rows, tokens), 5)
        with torch.inference_mode():
            stages(0, None, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        found.append(stages.num_forms)
    # Filled up, one token is 32 like nine.
    assert found == expected


def test_images_filled_up():
    torch.manual_seed(0)
    model = resnet_with_sidenet((1, 2))
    rows = [{"pixel_values": torch.randn(3, 32, 32)} for _ in range(13)]
    options = {"backend": "aot_eager", "dynamic": False}
    runner = SideNetRunner(model, batch_size=5, thresholds=0.5, compile=options, routing="pooled")
    for row, prediction in zip(rows, runner.predict(rows), strict=True):
        with torch.no_grad():
            output = model(row["pixel_values"][None], thresholds=0.5)
        assert prediction.exit_index == output.exit_index.item()
        scale = output.logits.abs().max()
        assert (prediction.logits - output.logits[0]).abs().max() <= 1e-5 * scale


@pytest.mark.slow
def test_with_the_real_compiler():
    torch.manual_seed(0)
    model = bert_with_sidenets((2,))
    raw = [row for row in token_rows(40, 12) if len(row["input_ids"]) > 1][:32]
    runner = SideNetRunner(model, batch_size=8, thresholds=0.6, compile=True, routing="pooled")
    assert_answers(list(runner.predict(raw)), one_by_one(model, raw, (0.6,)))

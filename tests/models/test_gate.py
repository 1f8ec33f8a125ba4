# SPDX-License-Identifier: Apache-2.0
import threading

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hf_sidenet.models import SideNetForSequenceClassification
from hf_sidenet.models.errors import StopForward
from hf_sidenet.models.gate import Run, install, run_mainnet
from hf_sidenet.models.mainnet import find_blocks

from .compiling import another_thread_compiles


TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 37, "vocab_size": 99}


def bert():
    return BertForSequenceClassification(BertConfig(**TINY)).eval()


def test_find_blocks_of_bert():
    blocks = find_blocks(bert())
    assert blocks.names == [f"bert.encoder.layer.{i}" for i in range(4)]
    assert not blocks.gate_after


def test_blocks_can_be_named():
    mainnet = bert()
    for path in ("encoder.layer", "bert.encoder.layer", "layer"):
        assert find_blocks(mainnet, path).names[0] == "bert.encoder.layer.0"
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1], blocks="encoder.layer")
    assert model.config.blocks == "encoder.layer"
    with pytest.raises(ValueError, match=r"`blocks='decoder'` must name exactly one .* found none, .*encoder.layer"):
        find_blocks(mainnet, "decoder")


class Blocks(nn.Module):
    """A MainNet in miniature whose blocks take an argument of unknown kind."""

    def __init__(self, block):
        super().__init__()
        self.layers = nn.ModuleList([block(), block(), block()])

    def forward(self, x, extra):
        for layer in self.layers:
            x = layer(x, extra)
        return x


class AddsRows(nn.Module):
    def forward(self, hidden, surprise):
        return hidden + (surprise if isinstance(surprise, torch.Tensor) else surprise.value)


class AddsMask(nn.Module):
    def forward(self, hidden, attention_mask):
        return hidden + attention_mask


def keep_rows(keep):
    return lambda index, hidden, rows: torch.tensor(keep) if rows is None else None


def run(block, extra, keep=(0, 2), batch=3):
    mainnet = Blocks(block)
    install(mainnet, find_blocks(mainnet))
    return run_mainnet(mainnet, Run(keep_rows(list(keep))), x=torch.zeros(batch, 1), extra=extra)


def test_unknown_per_row_argument_is_refused():
    # Two rows could be anything too: with a batch of two they would look like the batch's.
    for rows in (2, 3):
        with pytest.raises(ValueError, match=rf"'surprise' of shape \({rows}, 1\) may .*PER_ROW or SHARED"):
            run(Ignores, torch.ones(rows, 1))


class Ignores(nn.Module):
    def forward(self, hidden, surprise):
        return hidden


class IgnoresMask(nn.Module):
    def forward(self, hidden, attention_mask):
        return hidden


class AddsBias(nn.Module):
    def forward(self, hidden, position_bias):
        return hidden + position_bias.sum()


def test_a_known_argument_with_fewer_axes_is_shared():
    # (heads, sequence, sequence) with as many heads as rows, and one row that stays: nothing would fail.
    assert run(AddsBias, torch.tensor([[1.0], [10.0], [100.0]]), keep=[2]).tolist() == [[0.0], [0.0], [333.0]]


def test_a_known_argument_with_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"'attention_mask' must have one row per example, 3, or one for all, got"):
        run(IgnoresMask, torch.ones(2, 1))


class TakesAnything(nn.Module):
    def forward(self, hidden, *args):
        return hidden + sum(args)


def test_positional_arguments_without_names_are_not_lost():
    mainnet = Blocks(TakesAnything)
    mainnet.forward = lambda x: mainnet.layers[2](mainnet.layers[1](mainnet.layers[0](x, 1), 2, 4), 8, 16)
    install(mainnet, find_blocks(mainnet))
    assert run_mainnet(mainnet, Run(keep_rows([0, 2])), x=torch.zeros(3, 1)).tolist() == [[31.0], [0.0], [31.0]]


def test_unknown_object_is_refused():
    class Cache:
        value = 1.0

    with pytest.raises(ValueError, match="'surprise' is a Cache"):
        run(AddsRows, Cache())


def test_unknown_argument_without_rows_passes():
    assert run(AddsRows, torch.ones(1, 1)).tolist() == [[3.0], [0.0], [3.0]]


def test_known_arguments_are_cut_and_rows_put_back():
    mask = torch.tensor([[1.0], [10.0], [100.0]])
    # Row 1 leaves after the first block and comes back as zeros.
    assert run(AddsMask, mask).tolist() == [[3.0], [0.0], [300.0]]


def test_two_exits_use_the_original_mask():
    mainnet = Blocks(AddsMask)
    install(mainnet, find_blocks(mainnet))
    choices = {1: torch.tensor([1, 2]), 2: torch.tensor([1])}
    mask = torch.tensor([[1.0], [10.0], [100.0]])
    out = run_mainnet(mainnet, Run(lambda i, hidden, rows: choices[i]), x=torch.zeros(3, 1), extra=mask)
    assert out.tolist() == [[0.0], [0.0], [300.0]]


def test_everybody_leaves():
    def stop(index, hidden, rows):
        raise StopForward

    mainnet = Blocks(AddsMask)
    install(mainnet, find_blocks(mainnet))
    assert run_mainnet(mainnet, Run(stop), x=torch.zeros(3, 1), extra=torch.ones(3, 1)) is None
    # The next plain call is not affected.
    assert mainnet(torch.zeros(1, 1), torch.ones(1, 1)).item() == 3


def test_an_error_inside_a_run_leaves_nothing_behind():
    def fail(index, hidden, rows):
        raise RuntimeError("inside")

    mainnet = Blocks(AddsMask)
    install(mainnet, find_blocks(mainnet))
    with pytest.raises(RuntimeError, match="inside"):
        run_mainnet(mainnet, Run(fail), x=torch.zeros(1, 1), extra=torch.ones(1, 1))
    assert mainnet(torch.zeros(1, 1), torch.ones(1, 1)).item() == 3


def test_installing_twice_changes_nothing():
    mainnet = bert()
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    hooks = [len(block._forward_pre_hooks) for block in find_blocks(mainnet).modules]
    again = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[2, 3])
    assert [len(block._forward_pre_hooks) for block in find_blocks(mainnet).modules] == hooks
    inputs = {"input_ids": torch.randint(3, 99, (3, 5))}
    assert model(**inputs, thresholds=0.0).exit_logits.shape[1] == 2
    assert again(**inputs, thresholds=0.0).exit_logits.shape[1] == 3


class Smuggles(nn.Module):
    """Reads rows from a place no gate can see."""

    rows = None

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden_states, attention_mask=None, *args, **kwargs):
        out = self.inner(hidden_states, attention_mask, *args, **kwargs)
        bias = Smuggles.rows[: len(out), None, None]
        return out + bias.to(out)


def test_a_mainnet_whose_answers_change_when_a_row_leaves_is_refused():
    mainnet = bert()
    mainnet.bert.encoder.layer[3] = Smuggles(mainnet.bert.encoder.layer[3])
    Smuggles.rows = torch.tensor([1.0, 500.0, -300.0])
    with torch.no_grad():
        mainnet.classifier.weight.normal_(0, 1)
    with pytest.raises(ValueError, match="cannot be split: answers change"):
        SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])


def test_a_compiled_plain_mainnet_stays_one_graph():
    torch._dynamo.reset()
    mainnet = bert()
    install(mainnet, find_blocks(mainnet))
    inputs = {"input_ids": torch.randint(3, 99, (3, 5))}
    compiled = torch.compile(mainnet, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(**inputs).logits, mainnet(**inputs).logits)


@torch.compiler.disable
def meet(barrier):
    barrier.wait()


def answers_of_two_threads(call):
    """Of two calls that are between the same blocks at the same time, with other rows each."""
    barrier, found = threading.Barrier(2, timeout=60), {}

    def visit_keeping(keep):
        def visit(index, hidden, rows):
            meet(barrier)
            return keep if rows is None else None

        return visit

    def ask(name, batch, keep):
        mask = torch.arange(1.0, batch + 1).unsqueeze(1)
        found[name] = call(visit_keeping(torch.tensor(keep)), torch.zeros(batch, 1), mask).flatten().tolist()

    threads = [threading.Thread(target=ask, args=case) for case in (("three", 3, [0, 2]), ("four", 4, [1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("how", ["while another compiles", "compiled"])
def test_threads_do_not_see_each_other(how):
    mainnet = Blocks(AddsMask)
    install(mainnet, find_blocks(mainnet))

    def call(visit, x, mask):
        return run_mainnet(mainnet, Run(visit), x=x, extra=mask)

    if how == "compiled":
        torch._dynamo.reset()
        found = answers_of_two_threads(torch.compile(call, backend="eager"))
    else:
        with another_thread_compiles():
            found = answers_of_two_threads(call)
    assert found == {"three": [3.0, 0.0, 9.0], "four": [0.0, 6.0, 0.0, 0.0]}

# SPDX-License-Identifier: Apache-2.0
import copy
import json
import threading

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_sidenet.models import SideNetForSequenceClassification
from hf_sidenet.models.errors import StopForward
from hf_sidenet.models.gate import Run, install, run_mainnet
from hf_sidenet.models.layout import ONE_FOR_ALL, Layout
from hf_sidenet.models.observe import observe

from .compiling import another_thread_compiles
from .naive import blocks_of


TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 37, "vocab_size": 99}


def bert():
    return BertForSequenceClassification(BertConfig(**TINY)).eval()


def test_a_model_without_a_list_is_split_by_work():
    mainnet = Miniature([2.0, 3.0, 4.0])
    assert layout_of(mainnet).blocks == ["first", "second", "third"]


def test_blocks_can_be_named():
    mainnet = bert()
    for path in ("encoder.layer", "bert.encoder.layer", "layer"):
        model = SideNetForSequenceClassification.from_mainnet(copy.deepcopy(mainnet), exit_layers=[1], blocks=path)
        assert model.layout.blocks == [f"bert.encoder.layer.{i}" for i in range(4)]
        assert model.config.blocks == path
    with pytest.raises(ValueError, match=r"`blocks='decoder'` must name exactly one .* found none, .*encoder.layer"):
        SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1], blocks="decoder")


WIDTH = 16


class Part(nn.Module):
    """Does some work, and passes on what it was given and what it says about rows."""

    def __init__(self, factor):
        super().__init__()
        self.weight = nn.Parameter(factor * torch.eye(WIDTH))

    def forward(self, hidden, extra=None):
        return hidden @ self.weight + (0 if extra is None else extra)


class Miniature(nn.Module):
    """A MainNet of a few parts, called in a way that a test chooses."""

    def __init__(self, factors, between=lambda net, hidden, extra: net.chain(hidden, extra)):
        super().__init__()
        self.first, self.second, self.third = (Part(factor) for factor in factors)
        self.between = between

    def chain(self, hidden, extra):
        return self.third(self.second(self.first(hidden), extra), extra)

    def forward(self, hidden, extra=None, return_dict=True):
        return SequenceClassifierOutput(logits=self.between(self, hidden, extra)[..., 0])


def rows_of(lengths, extra=None):
    generator = torch.Generator().manual_seed(len(lengths))
    hidden = torch.randn(len(lengths), 2, WIDTH, generator=generator)
    return {"hidden": hidden, "extra": None if extra is None else extra(hidden)}


def layout_of(mainnet, extra=None):
    return observe(mainnet, lambda lengths: rows_of(lengths, extra), None, has_tokens=False)


def check_rows_leave(mainnet, extra=None):
    """Rows leave at two gates, and nothing changes for the others."""
    layout = layout_of(mainnet, extra)
    install(mainnet, layout)
    inputs = rows_of(range(6), extra)
    with torch.no_grad():
        expected = mainnet(**inputs).logits
        leaving = {1: torch.tensor([0, 2, 3, 5]), 2: torch.tensor([1, 3])}
        found = run_mainnet(mainnet, Run(lambda index, hidden, rows: leaving[index]), **inputs).logits
    # Of 0, 2, 3 and 5, the second and the fourth.
    torch.testing.assert_close(found[[2, 5]], expected[[2, 5]])
    assert not torch.isclose(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]]).any()
    return layout


BETWEEN = {
    "straight on": lambda net, hidden, extra: net.chain(hidden, extra),
    "code between": lambda net, hidden, extra: net.third(net.second(net.first(hidden, extra) * 2, extra), extra),
    "a shortcut past the gates": lambda net, hidden, extra: net.chain(hidden, extra) + hidden,
    "an output that is used twice": lambda net, hidden, extra: (lambda one: net.third(net.second(one, extra), one))(
        net.first(hidden, extra)
    ),
    "a shape alone": lambda net, hidden, extra: (
        lambda one: net.third(net.second(one, extra), torch.ones(one.shape[0], 1, WIDTH) * hidden)
    )(net.first(hidden, extra)),
    "rows on axis 1": lambda net, hidden, extra: net.chain(hidden.transpose(0, 1), extra).transpose(0, 1),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_rows_leave_whatever_stands_between_the_blocks(between):
    check_rows_leave(Miniature([2.0, 3.0, 4.0], BETWEEN[between]))


EXTRAS = {
    "one entry per row": lambda hidden: hidden[:, :1] * 3,
    "one for all rows": lambda hidden: torch.arange(float(WIDTH)),
    "one for all, with an axis of one": lambda hidden: torch.ones(1, 2, WIDTH),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_other_arguments_are_cut_if_they_have_rows(extra):
    layout = check_rows_leave(Miniature([2.0, 3.0, 4.0]), EXTRAS[extra])
    axis = layout.segments[1].given["extra"].axis
    assert axis == {"one entry per row": 0, "one for all rows": None}.get(extra, ONE_FOR_ALL)


def test_an_argument_of_one_for_all_may_get_one_per_row_later():
    mainnet = Miniature([2.0, 3.0, 4.0])
    install(mainnet, layout_of(mainnet, lambda hidden: torch.ones(1, 2, WIDTH)))
    inputs = rows_of(range(4), lambda hidden: hidden * 5)
    with torch.no_grad():
        expected = mainnet(**inputs).logits
        keep = {1: torch.tensor([1, 2]), 2: None}
        found = run_mainnet(mainnet, Run(lambda index, hidden, rows: keep[index]), **inputs).logits
    torch.testing.assert_close(found[[1, 2]], expected[[1, 2]])


def test_rows_folded_with_another_axis():
    def between(net, hidden, extra):
        out = net.second(net.first(hidden))
        return net.third(out.flatten(0, 1).unsqueeze(1)).unflatten(0, (len(hidden), 2)).squeeze(2)

    # There x_c is what the second part returned, whose rows are on an axis of their own.
    assert check_rows_leave(Miniature([2.0, 3.0, 4.0], between)).gates[1].after


def test_a_module_that_runs_several_times():
    def between(net, hidden, extra):
        for _ in range(4):
            hidden = net.first(hidden, extra)
        return hidden

    mainnet = Miniature([2.0, 3.0, 4.0], between)
    layout = layout_of(mainnet)
    assert layout.blocks == ["first"] * 4
    install(mainnet, layout)
    inputs = rows_of(range(3))
    with torch.no_grad():
        seen = []
        keep = {1: None, 2: torch.tensor([0, 2]), 3: None}

        def visit(index, hidden, rows):
            seen.append(hidden)
            return keep[index]

        found = run_mainnet(mainnet, Run(visit), **inputs).logits
        torch.testing.assert_close(found[[0, 2]], mainnet(**inputs).logits[[0, 2]])
    assert [len(x) for x in seen] == [3, 3, 2]


def test_an_argument_that_was_not_there_is_refused():
    mainnet = Miniature([2.0, 3.0, 4.0])
    install(mainnet, layout_of(mainnet))
    inputs = rows_of(range(3), lambda hidden: hidden)
    with pytest.raises(
        ValueError, match=r"'extra' of shape \(3, 2, 16\) was not there when this MainNet was observed"
    ):
        run_mainnet(mainnet, Run(lambda index, hidden, rows: torch.tensor([0])), **inputs)
    # Without rows that leave, nothing needs to be known.
    assert run_mainnet(mainnet, Run(lambda *_: None), **inputs) is not None


def test_an_argument_with_another_number_of_rows_is_refused():
    mainnet = Miniature([2.0, 3.0, 4.0], lambda net, hidden, extra: net.third(net.second(net.first(hidden)), extra))
    install(mainnet, layout_of(mainnet, lambda hidden: hidden * 2))
    inputs = rows_of(range(3)) | {"extra": torch.ones(2, 2, WIDTH)}
    with pytest.raises(ValueError, match=r"'extra' must have one entry per row, 3, or one for all on axis 0, got"):
        run_mainnet(mainnet, Run(lambda index, hidden, rows: torch.tensor([0])), **inputs)


class Cupboard:
    """Holds rows where no gate can see them."""

    def __init__(self, rows):
        self.rows = rows

    def __radd__(self, other):
        return other + self.rows


def test_an_object_that_may_hold_rows_is_refused():
    with pytest.raises(ValueError, match="argument 'extra' of second is a Cupboard"):
        layout_of(Miniature([2.0, 3.0, 4.0]), lambda hidden: Cupboard(hidden))


def test_rows_on_two_axes_are_refused():
    def square(net, hidden, extra):
        rows = net.first(hidden, None)[:, 0]
        return net.third(net.second((rows @ rows.T).unsqueeze(-1).expand(-1, -1, WIDTH)))[:, :2]

    with pytest.raises(ValueError, match=r"of second must hold the rows on one axis, but it has shape \(3, 3, 16\)"):
        layout_of(Miniature([2.0, 3.0, 4.0], square))


def test_fewer_than_two_blocks_are_refused():
    with pytest.raises(ValueError, match=r"must have at least 2 blocks, .* found .*first"):
        layout_of(Miniature([2.0, 3.0, 4.0], lambda net, hidden, extra: net.first(hidden, extra)))


def test_a_mainnet_that_runs_otherwise_for_other_rows_is_refused():
    def between(net, hidden, extra):
        parts = (net.first, net.second, net.third) if len(hidden) == 3 else (net.third, net.second, net.first)
        for part in parts:
            hidden = part(hidden, extra)
        return hidden

    with pytest.raises(ValueError, match="Miniature cannot be split: with other rows, third runs in another order"):
        layout_of(Miniature([2.0, 3.0, 4.0], between))


def test_a_mainnet_that_fails_says_on_what():
    def between(net, hidden, extra):
        raise RuntimeError("no such kernel")

    with pytest.raises(ValueError, match=r"fails on example rows, hidden \(3, 2, 16\) \(no such kernel\)"):
        layout_of(Miniature([2.0, 3.0, 4.0], between))


def test_a_layout_is_recorded_and_read():
    mainnet = Miniature([2.0, 3.0, 4.0])
    layout = layout_of(mainnet, lambda hidden: torch.ones(1, 2, WIDTH))
    recorded = json.loads(json.dumps(layout.to_dict()))
    assert Layout.from_dict(recorded) == layout
    with pytest.raises(ValueError, match="`layout` must have version 1, got 2"):
        Layout.from_dict({**recorded, "version": 2})
    recorded["segments"][1]["given"]["hidden"] = 1
    with pytest.raises(ValueError, match="`layout` is damaged: it is not what was observed"):
        Layout.from_dict(recorded)
    del mainnet.second
    with pytest.raises(ValueError, match="must name modules of the MainNet, which has none called 'second'"):
        install(mainnet, layout)


def installed():
    mainnet = Miniature([2.0, 3.0, 4.0])
    install(mainnet, layout_of(mainnet, lambda hidden: hidden))
    return mainnet


def test_everybody_leaves():
    def stop(index, hidden, rows):
        raise StopForward

    mainnet = installed()
    before = mainnet(**rows_of(range(3))).logits
    assert run_mainnet(mainnet, Run(stop), **rows_of(range(3))) is None
    # The next plain call is not affected.
    assert torch.equal(mainnet(**rows_of(range(3))).logits, before)


def test_an_error_inside_a_run_leaves_nothing_behind():
    def fail(index, hidden, rows):
        raise RuntimeError("inside")

    mainnet = installed()
    before = mainnet(**rows_of(range(3))).logits
    with pytest.raises(RuntimeError, match="inside"):
        run_mainnet(mainnet, Run(fail), **rows_of(range(3)))
    assert torch.equal(mainnet(**rows_of(range(3))).logits, before)


def test_installing_twice_changes_nothing():
    mainnet = bert()
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    hooks = [len(block._forward_pre_hooks) for block in blocks_of(model)]
    again = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[2, 3])
    assert [len(block._forward_pre_hooks) for block in blocks_of(model)] == hooks
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
    Smuggles.rows = torch.tensor([1.0, 500.0, -300.0, 20.0, 7.0])
    with torch.no_grad():
        mainnet.classifier.weight.normal_(0, 1)
    with pytest.raises(
        ValueError, match=r"cannot be split: when rows exit after .1. blocks, the others' answers change"
    ):
        SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])


def test_a_compiled_plain_mainnet_stays_one_graph():
    torch._dynamo.reset()
    mainnet = bert()
    SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
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
        inputs = rows_of(range(batch), lambda hidden: hidden)
        found[name] = call(visit_keeping(torch.tensor(keep)), **inputs)

    threads = [threading.Thread(target=ask, args=case) for case in (("three", 3, [0, 2]), ("four", 4, [1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("how", ["while another compiles", "compiled"])
def test_threads_do_not_see_each_other(how):
    mainnet = installed()
    inputs = {"three": 3, "four": 4}
    expected = {name: mainnet(**rows_of(range(count), lambda hidden: hidden)).logits for name, count in inputs.items()}

    def call(visit, hidden, extra):
        return run_mainnet(mainnet, Run(visit), hidden=hidden, extra=extra).logits

    with torch.no_grad():
        if how == "compiled":
            torch._dynamo.reset()
            found = answers_of_two_threads(torch.compile(call, backend="eager"))
        else:
            with another_thread_compiles():
                found = answers_of_two_threads(call)
    for name, stays in (("three", [0, 2]), ("four", [1])):
        left = [i for i in range(inputs[name]) if i not in stays]
        torch.testing.assert_close(found[name][stays], expected[name][stays])
        assert (found[name][left] == 0).all()

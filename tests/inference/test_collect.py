# SPDX-License-Identifier: Apache-2.0
import time
from types import SimpleNamespace

import pytest
import torch

from hf_sidenet.inference.collect import collect_stages, stage_milliseconds
from hf_sidenet.inference.precision import cast_copy
from hf_sidenet.inference.stages import Stages
from hf_sidenet.measurement.records import collect
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.models.tasks import SINGLE_LABEL

from ..models import tiny


class Chain:
    """Three stages on numbers that can be followed by hand: x_c is `input_ids` plus 1 per stage, SideNets double it.

    Args:
        seconds (`tuple[float, ...]`): that each stage takes.
    """

    device, dtype, input_names = torch.device("cpu"), torch.float32, ("input_ids",)
    modality, task = TEXT, SINGLE_LABEL
    config = SimpleNamespace(exit_layers=[1, 2])

    def __init__(self, seconds=(0, 0, 0)):
        self.seconds = seconds
        self.calls = []

    def __len__(self):
        return 3

    def __call__(self, index, hidden, inputs):
        self.calls.append(index)
        time.sleep(self.seconds[index])
        hidden = inputs["input_ids"].float() if hidden is None else hidden
        return (None, hidden) if index == 2 else (hidden + 1, 2 * hidden)


def labeled(inputs, labels=None):
    count = len(next(iter(inputs.values())))
    return {**inputs, "labels": torch.tensor(labels) if labels else torch.arange(count) % 3}


def text_batches():
    """Of two lengths, one with padding."""
    masked = tiny.texts(5, seed=1) | {"attention_mask": torch.ones(5, 9, dtype=torch.long)}
    masked["attention_mask"][2, 4:] = 0
    short = {"input_ids": tiny.texts(3, seed=2)["input_ids"][:, :4], "attention_mask": torch.ones(3, 4).long()}
    return [labeled(masked), labeled(short)]


def test_every_exit_of_a_chain_by_hand():
    batches = [
        {"input_ids": torch.tensor([[1, 2], [3, 4]]), "labels": torch.tensor([0, 1])},
        {"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([1])},
    ]
    records = collect_stages(Chain(), batches)
    assert records.exit_logits.tolist() == [
        [[2, 4], [4, 6], [3, 4]],
        [[6, 8], [8, 10], [5, 6]],
        [[10, 12], [12, 14], [7, 8]],
    ]
    assert records.labels.tolist() == [0, 1, 1]
    assert torch.equal(records.mainnet_logits, records.exit_logits[:, -1])


def test_rows_without_a_label_are_left_out():
    batch = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "labels": torch.tensor([-100, 1])}
    assert collect_stages(Chain(), [batch]).exit_logits.tolist() == [[[6, 8], [8, 10], [5, 6]]]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_stages_of_a_model_say_what_the_model_says(kind):
    if kind == "text":
        model, batches = tiny.bert_with_sidenets(), text_batches()
    else:
        model, batches = tiny.resnet_with_sidenet(), [labeled(tiny.images(4)), labeled(tiny.images(2))]
    ours, expected = collect_stages(Stages(model), batches), collect(model, batches, progress=False)
    torch.testing.assert_close(ours.exit_logits, expected.exit_logits, rtol=0, atol=1e-5)
    assert torch.equal(ours.labels, expected.labels)


def test_another_classifier_is_compared_with_in_its_own_precision():
    model = tiny.bert_with_sidenets()
    batches = text_batches()
    records = collect_stages(Stages(cast_copy(model, "bfloat16")), batches, reference=model.mainnet)
    assert (records.exit_logits.dtype, records.mainnet_logits.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(records.mainnet_logits, collect(model, batches, progress=False).mainnet_logits)


def test_inputs_that_the_stages_do_not_take_are_named():
    batch = {"input_ids": torch.ones(1, 2).long(), "token_type_ids": torch.ones(1, 2).long(), "labels": [0]}
    with pytest.raises(ValueError, match=r"inputs of the stages, \['input_ids'\], .* got \['token_type_ids'\]"):
        collect_stages(Chain(), [batch])
    with pytest.raises(ValueError, match="every batch must have `labels`"):
        collect_stages(Chain(), [{"input_ids": torch.ones(1, 2).long()}])


def test_times_are_per_row_and_of_the_stages_that_ran():
    chain = Chain(seconds=(0.02, 0.01, 0.04))
    batches = [{"input_ids": torch.ones(4, 2), "labels": torch.zeros(4).long()}] * 2
    (found,) = stage_milliseconds(chain, batches, repeats=1)
    # A batch of four rows takes 20, 30 and 70 ms up to each exit.
    assert found[0] == pytest.approx(5, rel=0.5)
    assert found[1] == pytest.approx(7.5, rel=0.5)
    assert found[2] == pytest.approx(17.5, rel=0.5)
    # The first exit runs one stage, the last all three, equally often.
    counts = [chain.calls.count(index) for index in range(3)]
    assert counts == [3 * counts[2], 2 * counts[2], counts[2]]

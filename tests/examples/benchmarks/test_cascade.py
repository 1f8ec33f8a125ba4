# SPDX-License-Identifier: Apache-2.0
"""A cascade of two classifiers: who answers, and its threshold against trying all of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.benchmark.plain import PlainChain
from hf_sidenet.inference.rows import collate
from hf_sidenet.models.tasks import SINGLE_LABEL

from ...benchmark.cases import rows_of
from ...models.tiny import bert, texts


ROWS = st.lists(
    st.tuples(st.sampled_from([-4.0, -2.0, -1.0, 0.5, 1.0, 2.0, 3.0]), st.integers(0, 1), st.integers(0, 1)),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def cascade(script):
    return script("cascade")


@pytest.mark.parametrize("threshold", [0.0, None, 1.0])
@torch.no_grad()
def test_the_large_model_is_asked_only_where_the_small_one_is_not_sure(cascade, threshold):
    torch.manual_seed(1)
    small, large = bert(num_hidden_layers=1, initializer_range=1.0), bert(initializer_range=1.0)
    batch = collate(rows_of([9] * 12), {}, torch.device("cpu"))
    batch.inputs = texts(12)
    own, other = small(**batch.inputs).logits, large(**batch.inputs).logits
    sure = SINGLE_LABEL.confidence(own)
    threshold = sure.sort().values[6].item() if threshold is None else threshold
    asked = []
    large.register_forward_hook(lambda *_: asked.append(1))
    answer = cascade.by_cascade(PlainChain(small), PlainChain(large), threshold)
    logits, exit_index = answer(batch, torch.zeros(12, 0))
    assert exit_index.tolist() == [0 if s > threshold else 1 for s in sure.tolist()]
    for i in range(12):
        torch.testing.assert_close(logits[i], (own, other)[exit_index[i]][i], rtol=1e-4, atol=1e-5)
    assert len(asked) == (threshold > 0)
    assert set(exit_index.tolist()) == ({0} if threshold == 0 else {1} if threshold == 1 else {0, 1})


# No accuracy is within rounding of one that can be reached, and is not that one.
@given(ROWS, st.fractions(0, 1, max_denominator=24).map(float))
def test_the_threshold_is_the_lowest_that_is_accurate_enough(cascade, rows, accuracy):
    logits = torch.tensor([[0.0, value] for value, _, _ in rows])
    large, labels = torch.tensor([row[1] for row in rows]), [row[2] for row in rows]

    def reached(threshold):
        small = SINGLE_LABEL.confidence(logits) > threshold
        return (torch.where(small, logits.argmax(-1), large) == torch.tensor(labels)).double().mean().item()

    found = cascade.cascade_threshold(logits, large, labels, accuracy)
    possible = [0.0, *SINGLE_LABEL.confidence(logits).tolist(), 1.0]
    enough = [threshold for threshold in possible if reached(threshold) >= accuracy - 1e-9]
    if not enough:
        assert found == 1.0
        return
    assert reached(found) >= accuracy - 1e-9
    # As many rows for the small model as the lowest has.
    assert (SINGLE_LABEL.confidence(logits) > found).sum() == (SINGLE_LABEL.confidence(logits) > min(enough)).sum()

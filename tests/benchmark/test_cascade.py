# SPDX-License-Identifier: Apache-2.0
"""The cascade's threshold against trying all of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.benchmark.cascade import cascade_threshold
from hf_sidenet.models.tasks import SINGLE_LABEL


ROWS = st.lists(
    st.tuples(st.sampled_from([-4.0, -2.0, -1.0, 0.5, 1.0, 2.0, 3.0]), st.integers(0, 1), st.integers(0, 1)),
    min_size=1,
    max_size=12,
)


# No accuracy is within rounding of one that can be reached, and is not that one.
@given(ROWS, st.fractions(0, 1, max_denominator=24).map(float))
def test_it_is_the_lowest_that_is_accurate_enough(rows, accuracy):
    logits = torch.tensor([[0.0, value] for value, _, _ in rows])
    large, labels = torch.tensor([row[1] for row in rows]), [row[2] for row in rows]

    def reached(threshold):
        small = SINGLE_LABEL.confidence(logits) > threshold
        return (torch.where(small, logits.argmax(-1), large) == torch.tensor(labels)).double().mean().item()

    found = cascade_threshold(logits, large, labels, accuracy)
    possible = [0.0, *SINGLE_LABEL.confidence(logits).tolist(), 1.0]
    enough = [threshold for threshold in possible if reached(threshold) >= accuracy - 1e-9]
    if not enough:
        assert found == 1.0
        return
    assert reached(found) >= accuracy - 1e-9
    # As many rows for the small model as the lowest has.
    assert (SINGLE_LABEL.confidence(logits) > found).sum() == (SINGLE_LABEL.confidence(logits) > min(enough)).sum()

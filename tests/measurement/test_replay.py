# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from hf_sidenet.measurement.metrics import replay

from .models import texts, tiny_bert


def test_equals_the_live_model():
    model, batch = tiny_bert(), texts(16)
    model.config.temperatures = [2.0, 0.5, 1.0]
    thresholds = [0.6, 0.9]
    with torch.no_grad():
        full = model(**batch, thresholds=1.0).exit_logits
        live = model(**batch, thresholds=thresholds).exit_index
    assert torch.equal(replay(full, thresholds, model.config.temperatures), live)
    assert len(live.unique()) > 1


def test_by_default_nobody_leaves():
    assert replay(torch.randn(4, 3, 2) * 100).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("temperatures", [[1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, float("inf")], [1.0, "1"]])
def test_impossible_temperatures_are_refused(temperatures):
    with pytest.raises(ValueError, match="`temperatures` must"):
        replay(torch.zeros(2, 2, 2), 0.5, temperatures)

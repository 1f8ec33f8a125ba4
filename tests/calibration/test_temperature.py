# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F

from hf_sidenet.calibration import fit_temperature, fit_temperatures


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_finds_the_temperature_that_made_the_labels(true):
    logits = 3 * torch.randn(20_000, 4)
    labels = torch.multinomial((logits / true).softmax(-1), 1).squeeze(1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    loss = [F.cross_entropy(logits / t, labels).item() for t in (found / 1.02, found, found * 1.02)]
    assert loss[1] == min(loss)


def test_one_per_exit_and_broken_rows_do_not_count():
    logits = torch.randn(200, 2, 3)
    labels = torch.randint(0, 3, (200,))
    broken = logits.clone()
    broken[:50, 0, 1] = torch.nan
    first, second = fit_temperatures(broken, labels)
    assert first == fit_temperature(logits[50:, 0], labels[50:])
    assert second == fit_temperature(logits[:, 1], labels)


def test_no_rows_change_nothing():
    assert fit_temperature(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)) == 1.0


def test_sure_and_always_right_stays_finite():
    assert 0.05 <= fit_temperature(torch.tensor([[9.0, 0.0]] * 10), torch.zeros(10, dtype=torch.long)) < 0.06

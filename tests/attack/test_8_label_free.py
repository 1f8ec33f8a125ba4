# SPDX-License-Identifier: Apache-2.0
"""Labels that are the MainNet's own answers say nothing about its temperature."""

import pytest

from hf_sidenet.attaching.checkpoint import recalibrate
from hf_sidenet.calibration import calibrate, parse_targets

from ..calibration.cases import costs, records
from .cases import answered, prepared, texts


@pytest.mark.parametrize("has_labels", [True, False], ids=["as a monitor keeps them", "without labels"])
def test_own_answers_leave_the_temperature_alone(checkpoint, has_labels):
    model, tokenizer = checkpoint
    rows = answered(checkpoint, texts()) if has_labels else prepared(tokenizer, [-100] * 240)
    found = recalibrate(model, tokenizer, rows, target="disagreement<=0.1", progress=False)
    assert found.calibration.temperatures[-1] == 1.7


def test_it_is_found_from_labels_and_kept_where_it_is_told():
    design, certification, targets = records(500, seed=1), records(2000), parse_targets("disagreement<=0.1")
    found = calibrate(design, certification, costs(), targets).temperatures
    kept = calibrate(design, certification, costs(), targets, mainnet_temperature=1.7).temperatures
    assert kept[:-1] == found[:-1]
    assert kept[-1] == 1.7 != found[-1]

# SPDX-License-Identifier: Apache-2.0
import json
import math

from hf_sidenet.io.json import json_text


def test_numbers_that_json_has_not_become_null_wherever_they_are():
    document = {"a": math.nan, 1: [math.inf, (-math.inf, 2.5)], "b": {"c": math.nan, "d": "θ"}}
    text = json_text(document)
    found = json.loads(text, parse_constant=lambda name: None)
    assert found == {"a": None, "1": [None, [None, 2.5]], "b": {"c": None, "d": "θ"}}
    assert "θ" in text
    assert math.isnan(document["a"])

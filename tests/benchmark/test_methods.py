# SPDX-License-Identifier: Apache-2.0
"""Methods: names, twins, and their rows."""

from dataclasses import replace

import pytest
import torch

from hf_sidenet.benchmark.methods import COMPILED, OURS, PLAIN, Method, check_methods, twin_of
from hf_sidenet.inference.rows import Row

from .cases import Echo, echo_method, rows_of


def test_the_twin_is_the_plain_one_of_the_same_precision_engine_and_order():
    plain = echo_method("plain")
    others = [
        echo_method("plain", bucketed=True),
        replace(plain, precision="bfloat16"),
        replace(plain, engine=COMPILED),
    ]
    methods = [*others, plain, echo_method("ours", OURS), echo_method("ours", OURS, bucketed=True)]
    assert twin_of(methods[-2], methods) is plain
    assert twin_of(methods[-1], methods) is others[0]
    assert twin_of(plain, methods) is None
    assert twin_of(echo_method("ours", OURS), others) is None
    named = echo_method("rival", OURS, twin=others[1].name)
    assert twin_of(named, methods) is others[1]


def test_names_say_everything():
    assert echo_method("runner", OURS, bucketed=True).name == "runner, float32, eager, by length"
    assert echo_method("plain").name == "plain, float32, eager, mixed"


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least one method, got none"):
        check_methods([])
    with pytest.raises(ValueError, match="got more than one 'echo, float32, eager, mixed'"):
        check_methods([echo_method(), echo_method()])
    with pytest.raises(ValueError, match=r"`twin` of 'echo, .*' must be the name of another method, got 'nobody'"):
        check_methods([echo_method(twin="nobody")])
    with pytest.raises(ValueError, match="got 'echo, float32, eager, mixed'"):
        check_methods([echo_method(twin="echo, float32, eager, mixed")])
    with pytest.raises(ValueError, match=r"`group` must be one of .* got 'theirs'"):
        Method("echo", "theirs", "float32", "eager", False, make=lambda *_: Echo())
    check_methods([echo_method(), echo_method(bucketed=True)])


def test_rows_get_theta_and_dtype():
    image = Row(0, {"pixel_values": torch.randn(3, 4, 4)}, 0, (0.5,))
    method = echo_method("ours", OURS, thresholds=(0.7, 0.8), dtype=torch.bfloat16)
    (changed,) = method.rows([image])
    assert changed.thresholds is method.thresholds
    assert changed.inputs["pixel_values"].dtype == torch.bfloat16
    assert image.inputs["pixel_values"].dtype == torch.float32
    assert image.thresholds == (0.5,)
    (text,) = method.rows(rows_of([4]))
    assert text.inputs["input_ids"].dtype == torch.long
    (same,) = echo_method("plain", PLAIN).rows([image])
    assert same.inputs["pixel_values"] is image.inputs["pixel_values"]

# SPDX-License-Identifier: Apache-2.0
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForSequenceClassification
from transformers.utils import logging as hf_logging

from hf_sidenet.inference.precision import cast_copy, check_precision, parse_dtype, precision_of
from hf_sidenet.models import SideNetForSequenceClassification

from ..models import tiny


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Lines that `check_precision` writes."""
    logging.Logger.warning_once.cache_clear()
    # transformers keeps its lines from the root logger.
    monkeypatch.setattr(hf_logging.get_logger(), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_sidenet.inference.precision"), "disabled", False)
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def rotary():
    """A MainNet with buffers that `from_pretrained` does not round."""
    tokens = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ModernBertConfig(vocab_size=99, num_labels=3, **sizes, **tokens)
    mainnet = ModernBertForSequenceClassification(config).eval()
    return SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])


def exit_logits(model, inputs):
    dtype = model.dtype
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    with torch.no_grad():
        return model(**inputs, thresholds=1.0).exit_logits


def test_the_precision_of_what_serves():
    assert precision_of(tiny.bert_with_sidenets().to(torch.bfloat16)) == "bfloat16"
    assert precision_of(SimpleNamespace(dtype=torch.float32)) == "float32"
    assert precision_of(SimpleNamespace(dtype=torch.float32, precision="int8 (ONNX Runtime)")) == "int8 (ONNX Runtime)"


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
@pytest.mark.parametrize("kind", ["text", "image", "rotary"])
def test_a_cast_copy_is_what_users_will_load(kind, dtype, tmp_path):
    model, inputs = {
        "text": lambda: (tiny.bert_with_sidenets(), tiny.texts(8)),
        "image": lambda: (tiny.resnet_with_sidenet(), tiny.images(8)),
        "rotary": lambda: (rotary(), tiny.texts(8)),
    }[kind]()
    before = exit_logits(model, inputs)
    model.config.name_or_path = "me/mine"
    copy = cast_copy(model, dtype)
    assert copy.dtype == parse_dtype(dtype)
    assert (copy.training, copy.config.name_or_path) == (False, "me/mine")
    copy.save_pretrained(tmp_path)
    # BatchNorm, and the MainNet, which says it too.
    assert all(x.dtype in (copy.dtype, torch.int64) for x in copy.sidenets.state_dict().values())
    config = json.loads((tmp_path / "config.json").read_text())
    assert {config["dtype"], config["mainnet_config"]["dtype"]} == {precision_of(copy)}
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.dtype == copy.dtype
    answers = exit_logits(copy, inputs)
    assert torch.equal(answers, exit_logits(loaded, inputs))
    assert answers.isfinite().all()
    for (name, ours), (_, theirs) in zip(copy.named_buffers(), loaded.named_buffers(), strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    # The model itself stays, and the copy is near it.
    assert torch.equal(exit_logits(model, inputs), before)
    torch.testing.assert_close(answers.float(), before, rtol=0, atol=0.05 * before.abs().max().item())


def test_buffers_that_loading_keeps_are_not_rounded():
    copy = cast_copy(rotary(), "bfloat16")
    assert {x.dtype for name, x in copy.named_buffers() if "inv_freq" in name} == {torch.float32}


@pytest.mark.parametrize("dtype", ["int8", "float64", torch.int8, "half"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=r"`dtype` must be one of \('float32', 'bfloat16', 'float16'\), got '"):
        cast_copy(tiny.bert_with_sidenets(), dtype)


@pytest.mark.parametrize(
    ("calibrated", "serving", "command"),
    [
        ("float32", "bfloat16", "DIRECTORY --dtype bfloat16 ..."),
        ("bfloat16", "float32", "DIRECTORY --dtype float32 ..."),
        ("float32", "int8 (ONNX Runtime)", "DIRECTORY --checkpoint CHECKPOINT ..."),
        ("int8 (ONNX Runtime)", "float32 (ONNX Runtime)", "DIRECTORY --checkpoint CHECKPOINT ..."),
    ],
)
def test_another_precision_than_the_certified_is_told_once(calibrated, serving, command, warnings):
    config = SimpleNamespace(calibration={"precision": calibrated})
    check_precision(config, serving)
    check_precision(config, serving)
    (line,) = warnings()
    assert line.startswith(f"θ was calibrated in {calibrated}, but the model runs in {serving}, which")
    assert line.endswith(f"hf-sidenet recalibrate {command}")


@pytest.mark.parametrize(
    ("calibration", "serving"),
    [
        (None, "bfloat16"),
        ({}, "bfloat16"),
        ({"precision": "bfloat16"}, "bfloat16"),
        ({"precision": "float32"}, "float32 (ONNX Runtime)"),
        ({"precision": "float32 (ONNX Runtime)"}, "float32"),
    ],
)
def test_nothing_is_told_where_nothing_differs(calibration, serving, warnings):
    check_precision(SimpleNamespace(calibration=calibration), serving)
    assert warnings() == []

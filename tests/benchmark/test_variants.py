# SPDX-License-Identifier: Apache-2.0
"""Which precisions and engines are compared, and which checkpoint is used in each."""

import pytest
import torch
from transformers import AutoTokenizer

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.catalog import Catalog
from hf_sidenet.benchmark.methods import COMPILED, EAGER, ONNX_RUNTIME, OURS
from hf_sidenet.benchmark.variants import Settings
from hf_sidenet.models import BertWithSideNetForSequenceClassification
from tests.examples.commands import minilm
from tests.models.naive import every_exit
from tests.models.tiny import bert

from .checkpoints import NAMES
from .test_catalog import answers_of, image_rows, text_rows


def stored(directory, folder, precision="bfloat16", names=None):
    """The checkpoint in a precision, optionally with other class names."""
    model, processor = load_checkpoint(directory, dtype=getattr(torch, precision))
    if names is not None:
        for config in (model.config, model.config.mainnet_config):
            config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_one_checkpoint_per_precision(text_checkpoint, tmp_path):
    also = tuple(stored(text_checkpoint, tmp_path / name) for name in "ab")
    message = "`also` must name one checkpoint per precision, got two in bfloat16: '.*b'"
    with pytest.raises(ValueError, match=message):
        Catalog(Settings(text_checkpoint, also=also))


def test_the_same_classes(text_checkpoint, tmp_path):
    also = stored(text_checkpoint, tmp_path / "swapped", names=["good", "bad"])
    message = r"`also` must have the classes \['bad', 'good'\], like the checkpoint, got .* \['good', 'bad'\]"
    with pytest.raises(ValueError, match=message):
        Catalog(Settings(text_checkpoint, also=(also,)))


def test_the_same_vocabulary(text_checkpoint, tmp_path):
    size = len(AutoTokenizer.from_pretrained(minilm())) + 1
    mainnet = bert(vocab_size=size, num_labels=2, **NAMES)
    model = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1, 3])
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"`also` must have a vocabulary of size 30522, .* with 30523"):
        Catalog(Settings(text_checkpoint, also=(str(tmp_path / "other"),)))


@pytest.mark.parametrize(
    ("precisions", "engines", "message"),
    [
        (("float32", "bfloat16"), (ONNX_RUNTIME,), "ONNX Runtime, runs, got 'bfloat16', which eager or compiled runs"),
        (("float32", "int8"), (EAGER, COMPILED), "eager or compiled, runs, got 'int8', which ONNX Runtime runs"),
        (("float8",), (EAGER, ONNX_RUNTIME), "eager or ONNX Runtime, runs, got 'float8', which none runs"),
    ],
)
def test_a_precision_that_no_chosen_engine_runs(text_checkpoint, precisions, engines, message):
    with pytest.raises(ValueError, match=f"`precisions` must have precisions that a chosen engine, {message}"):
        Catalog(Settings(text_checkpoint, precisions=precisions, engines=engines))


def test_a_checkpoint_that_no_chosen_engine_runs(text_checkpoint, tmp_path):
    also = stored(text_checkpoint, tmp_path / "also")
    with pytest.raises(ValueError, match=r"`also` must have precisions that a chosen engine, .* got 'bfloat16'"):
        Catalog(Settings(text_checkpoint, engines=(ONNX_RUNTIME,), also=(also,)))


def test_what_some_engines_leave_out_is_said_once(text_checkpoint):
    settings = Settings(text_checkpoint, precisions=("bfloat16",), engines=(EAGER, COMPILED, ONNX_RUNTIME))
    methods = Catalog(settings).methods()
    assert [each.name for each in methods if each.note == "bfloat16 does not run in ONNX Runtime"] == [
        "plain MainNet, bfloat16, eager, mixed"
    ]
    settings = Settings(text_checkpoint, precisions=("float32", "bfloat16"), engines=(EAGER, COMPILED))
    assert not [each for each in Catalog(settings).methods() if "does not run in" in each.note]


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["text", "image"])
def test_float32_is_held_to_float32_however_the_checkpoint_is_stored(kind, request, tmp_path):
    base = stored(request.getfixturevalue(f"{kind}_checkpoint"), tmp_path / "base")
    rows = text_rows() if kind == "text" else image_rows()
    for row in rows:
        # As they are read for a checkpoint that is stored so.
        row.inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in row.inputs.items()}
    catalog = Catalog(Settings(base, precisions=("float32", "bfloat16")))
    logits = catalog.reference.exit_logits(rows)
    for model, close in ((load_checkpoint(base, dtype=torch.float32)[0], True), (catalog.base.model, False)):
        for row in rows:
            inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in row.inputs.items()}
            own = every_exit(model, {k: v.unsqueeze(0) for k, v in inputs.items()}).float()[0]
            assert torch.allclose(logits[row.place], own, rtol=1e-4, atol=1e-4 * own.abs().max()) == close
    for method in catalog.methods():
        if (method.group, method.precision) == (OURS, "float32"):
            labels, exits = method.expected(rows)
            assert answers_of(method, rows) == (labels.tolist(), exits.tolist())
    # No second model is loaded unless needed.
    assert Catalog(Settings(base, precisions=("bfloat16",))).choice.for_reference().precision == "bfloat16"

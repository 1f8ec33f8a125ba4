# SPDX-License-Identifier: Apache-2.0
"""Evidence is about one set of weights and one way to read rows, and about nothing that came of them since."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer
from transformers.utils import logging as transformers_logging

from hf_sidenet.export.exported import ONNX, VERSION, ExportedAbout, Manifest
from hf_sidenet.inference import SideNetRunner
from hf_sidenet.inference import settled as settled_module
from hf_sidenet.inference.certificate import certificate, source_weights, why_not_certified
from hf_sidenet.inference.precision import cast_copy
from hf_sidenet.io.fingerprint import answering_fields, fingerprint_weights
from hf_sidenet.models import BertWithSideNetForSequenceClassification
from hf_sidenet.models.modalities import TEXT

from ..hub.folder import EVIDENCE
from ..models import tiny


def certified(processor=None, max_length=None, **kwargs):
    model = tiny.bert_with_sidenets(thresholds=[0.4, 0.5], temperatures=[1.5, 1.25, 1.0], **kwargs)
    model.config.calibration = {**EVIDENCE, "certified": certificate(model, processor, max_length)}
    return model


def reloaded(model, folder, **kwargs):
    model.save_pretrained(folder)
    return BertWithSideNetForSequenceClassification.from_pretrained(folder, **kwargs).eval()


def test_a_checkpoint_stays_certified(tmp_path):
    tokenizer = tiny.tokenizer()
    model = certified(tokenizer, 64)
    assert why_not_certified(model, tokenizer, 64) is None
    loaded = reloaded(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # What a call leaves behind in the tokenizer is no other tokenizer.
    tokenizer(["a good film"], truncation=True, max_length=3, padding=True)
    assert why_not_certified(loaded, tokenizer, 64) is None
    assert why_not_certified(loaded, AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False), 64) is None
    elsewhere = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
    assert why_not_certified(elsewhere.eval()) is None
    # Nothing is claimed, so nothing is untrue.
    loaded.config.calibration = None
    assert why_not_certified(loaded) is None


def nudged(module):
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1


WEIGHTS = "its weights are not those for which θ was certified"
CHANGES = {
    "MainNet": (lambda model: nudged(model.mainnet), WEIGHTS),
    "head": (lambda model: nudged(model.mainnet.classifier), WEIGHTS),
    "SideNet": (lambda model: nudged(model.sidenets[1]), WEIGHTS),
    "statistics of a SideNet": (lambda model: model.sidenets[0].norm.running_mean.add_(0.1), WEIGHTS),
    "θ": (
        lambda model: model.config.thresholds.__setitem__(0, 0.3),
        "θ changed: [0.4, 0.5] when θ was certified, [0.3, 0.5] now",
    ),
    "temperatures": (
        lambda model: model.config.temperatures.__setitem__(2, 2.0),
        "its temperatures changed: [1.5, 1.25, 1.0] when θ was certified, [1.5, 1.25, 2.0] now",
    ),
    "chain": (
        lambda model: vars(model.config).update(chain=[[0.5], [0.0, 0.0]]),
        "how its SideNets build on each other changed: None when θ was certified, [[0.5], [0.0, 0.0]] now",
    ),
    "classes": (
        lambda model: model.config.id2label.update({0: "x"}),
        "its classes changed: ['LABEL_0', 'LABEL_1', 'LABEL_2'] when θ was certified, ['x', 'LABEL_1', 'LABEL_2'] now",
    ),
    "pooling": (
        lambda model: model.config.pooling.__setitem__(0, "cls"),
        "the pooling of its SideNets changed: ['auto', 'auto'] when θ was certified, ['cls', 'auto'] now",
    ),
    "activation": (
        lambda model: setattr(model.config, "hidden_act", "relu"),
        '`hidden_act` of its MainNet changed: "gelu" when θ was certified, "relu" now',
    ),
    "padding token": (
        lambda model: setattr(model.mainnet.config, "pad_token_id", 7),
        "`pad_token_id` of its MainNet changed: 0 when θ was certified, 7 now",
    ),
    "precision": (
        lambda model: model.to(torch.bfloat16),
        "its precision changed: float32 when θ was certified, bfloat16 now",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_became_another_model_is_not_certified(change, tmp_path):
    model = certified()
    call, reason = CHANGES[change]
    call(model)
    assert why_not_certified(model) == reason
    if change != "precision":
        assert why_not_certified(reloaded(model, tmp_path)) == why_not_certified(model)


def test_fields_that_change_no_answer(tmp_path):
    """Of training, of the call, or that only another version of transformers has."""
    model = certified()
    model.config.update({"hidden_dropout_prob": 0.5, "use_cache": False, "output_hidden_states": True})
    del model.config.calibration["certified"]["mainnet"]["hidden_act"]
    model.config.calibration["certified"]["mainnet"]["no_longer"] = "1"
    assert why_not_certified(model) is None
    assert why_not_certified(reloaded(model, tmp_path)) is None


@pytest.mark.parametrize("mainnet", [tiny.bert, tiny.resnet])
def test_a_config_is_the_same_when_it_was_saved(mainnet, tmp_path):
    config = mainnet().config
    config.save_pretrained(tmp_path)
    assert answering_fields(type(config).from_pretrained(tmp_path)) == answering_fields(config)


def test_loading_in_another_precision(tmp_path):
    assert "precision" in why_not_certified(reloaded(certified(), tmp_path, dtype=torch.bfloat16))


def test_another_tokenizer_and_another_length():
    tokenizer = tiny.tokenizer()
    model = certified(tokenizer, 64)
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["dreadful"])
    assert why_not_certified(model, other).startswith("the tokenizer or image processor is not the one")
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    assert "tokenizer" in why_not_certified(model, left)
    assert (
        why_not_certified(model, tokenizer, 32)
        == "the length at which texts are truncated changed: 64 when θ was certified, 32 now"
    )


@pytest.mark.parametrize(("precision", "certified_in"), [("float32", True), ("int8", False)])
def test_an_exported_folder_is_as_certified_as_what_it_was_exported_from(precision, certified_in):
    model = certified()
    manifest = Manifest(
        format=ONNX,
        format_version=VERSION,
        precision=precision,
        dtype="float32",
        modality=TEXT,
        input_names=["input_ids"],
        max_length=None,
        stages=[],
        sha256={"stage_0.onnx": "ab"},
        versions={},
        weights=fingerprint_weights(model),
    )
    assert (why_not_certified(ExportedAbout(model.config, manifest)) is None) == certified_in
    # Its files may have been calibrated themselves.
    folder = ExportedAbout(model.config, manifest)
    model.config.calibration = {**EVIDENCE, "certified": certificate(folder)}
    assert why_not_certified(folder) is None
    other = replace(manifest, sha256={"stage_0.onnx": "cd"}, weights="ef")
    assert "its weights are not those" in why_not_certified(ExportedAbout(model.config, other))


def test_evidence_that_names_no_weights():
    model = certified()
    model.config.calibration = EVIDENCE
    assert why_not_certified(model) == "the evidence does not say which weights it covers"


def test_weights_that_are_not_loaded():
    model = certified().to("meta")
    assert "not loaded" in why_not_certified(model)


def test_all_precisions_come_from_one_set_of_weights(tmp_path):
    model = certified()
    source = source_weights(model)
    cast = cast_copy(model, "bfloat16")
    cast.config.calibration = {**EVIDENCE, "certified": certificate(cast), "source_weights": source}
    assert source_weights(reloaded(cast, tmp_path)) == source
    nudged(cast.sidenets[0])
    assert source_weights(cast) != source


def test_a_tokenizer_made_from_its_vocabulary(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny.WORDS]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    model = certified(tokenizer)
    reloaded(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert why_not_certified(model, AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)) is None


@pytest.mark.parametrize("change", ["nothing", "weights", "length", "tokenizer"])
def test_a_runner_says_what_is_not_certified(change):
    transformers_logging.warning_once.cache_clear()
    tokenizer = tiny.tokenizer()
    model = certified(tokenizer, 512)
    if change == "weights":
        nudged(model.sidenets[0])
    if change == "tokenizer":
        tokenizer.add_tokens(["dreadful"])
    runner = SideNetRunner(model, tokenizer, routing="gates", max_length=32 if change == "length" else None)
    seen = []
    handler = tiny.Collecting(seen)
    settled_module.logger.addHandler(handler)
    try:
        for _ in range(2):
            assert [answer.error for answer in runner.predict(["a good film"])] == [None]
    finally:
        settled_module.logger.removeHandler(handler)
    told = [line for line in seen if line.startswith("Not certified")]
    assert told == ([] if change == "nothing" else [f"Not certified: {runner.not_certified}."])
    assert (runner.not_certified is None) == (change == "nothing")

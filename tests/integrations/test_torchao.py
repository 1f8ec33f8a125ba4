# SPDX-License-Identifier: Apache-2.0
"""MainNets that torchao quantized: `quantization_config` of `from_pretrained`, with SideNets or before they come."""

import json
import logging

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TorchAoConfig, pipeline
from transformers.utils import logging as hf_logging

from hf_sidenet import BertWithSideNetForSequenceClassification, SideNetRunner
from hf_sidenet.attaching.checkpoint import evaluate_checkpoint, load_checkpoint, recalibrate
from hf_sidenet.benchmark.variants import Checkpoint
from hf_sidenet.export import export_onnx, export_torch
from hf_sidenet.hub import check_shareable
from hf_sidenet.inference.compiled import CompiledStages
from hf_sidenet.inference.precision import cast_copy, precision_of
from hf_sidenet.inference.stages import Stages
from hf_sidenet.io.fingerprint import fingerprint_model
from hf_sidenet.training.heads import HeadTraining

from ..attached import sentences
from ..benchmark.checkpoints import save_text_checkpoint
from ..models import tiny
from .cases import check_rows_leave, every_exit_of, labeled, middle_threshold, trainer_of


quantization = pytest.importorskip("torchao.quantization")

TEXTS = tiny.texts(24)
KINDS = ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig")


def config_of(kind=KINDS[0], keep=("sidenets",)):
    return TorchAoConfig(getattr(quantization, kind)(version=2), modules_to_not_convert=list(keep))


def load(folder, **kwargs):
    return BertWithSideNetForSequenceClassification.from_pretrained(folder, **kwargs).eval()


def quantized_names(model):
    return {name for name, value in model.named_parameters() if type(value).__module__.startswith("torchao.")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float")
    tiny.bert_with_sidenets().save_pretrained(path)
    return path


@pytest.fixture
def warnings(caplog, monkeypatch):
    logging.Logger.warning_once.cache_clear()
    # transformers keeps its lines from the root logger.
    monkeypatch.setattr(hf_logging.get_logger(), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_sidenet.inference.precision"), "disabled", False)
    return lambda: [record.getMessage() for record in caplog.records if "θ was calibrated" in record.getMessage()]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_leave_a_quantized_model(kind, folder, tmp_path):
    model = load(folder, quantization_config=config_of(kind))
    assert len(quantized_names(model)) == 4 * 6 + 2
    assert not any(name.startswith("sidenets") for name in quantized_names(model))
    plain = every_exit_of(load(folder), TEXTS)
    assert 1e-4 < (every_exit_of(model, TEXTS) - plain).abs().max() < 0.2 * plain.abs().max()
    theta = middle_threshold(model, TEXTS)
    # Rounding to int8 is by row for activations, and by weight otherwise, so rows that stay do not notice.
    out = check_rows_leave(model, model, TEXTS, theta, atol=1e-5)
    rows = [{"input_ids": ids} for ids in TEXTS["input_ids"]]
    answers = list(SideNetRunner(model, batch_size=8, thresholds=theta).predict(rows))
    assert [answer.exit_index for answer in answers] == out.exit_index.tolist()
    torch.testing.assert_close(torch.stack([each.logits for each in answers]), out.logits, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".py"}
    again = load(tmp_path)
    assert quantized_names(again) == quantized_names(model)
    assert torch.equal(every_exit_of(again, TEXTS), every_exit_of(model, TEXTS))
    assert precision_of(again) == precision_of(model) == f"{kind}+float32 (torchao)"
    assert fingerprint_model(again) == fingerprint_model(model) != fingerprint_model(load(folder))
    again.mainnet.save_pretrained(tmp_path / "mainnet")
    mainnet = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mainnet").eval()
    with torch.no_grad():
        assert torch.equal(mainnet(**TEXTS).logits, every_exit_of(model, TEXTS)[:, -1])


@pytest.mark.medium
def test_stages_of_a_quantized_model_are_compiled(folder):
    model = load(folder, quantization_config=config_of())
    stages, (hidden, expected) = CompiledStages(Stages(model), {"backend": "eager"}), Stages(model)(0, None, TEXTS)
    with torch.no_grad():
        state, logits = stages(0, None, TEXTS)
    torch.testing.assert_close((state, logits), (hidden, expected), rtol=0, atol=1e-5)


def test_sidenets_are_spared_where_nothing_is_named(folder):
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))
    names = quantized_names(load(folder, quantization_config=config))
    assert len(names) == 4 * 6 + 2
    assert not any(name.startswith("sidenets") for name in names)
    assert config.modules_to_not_convert is None


def test_sidenets_are_quantized_where_others_are_named(folder):
    model = load(folder, quantization_config=config_of(keep=["mainnet.classifier"]))
    names = quantized_names(model)
    assert {"sidenets.0.dense.weight", "sidenets.1.out_proj.weight"} < names
    assert "mainnet.classifier.weight" not in names
    check_rows_leave(model, model, TEXTS, middle_threshold(model, TEXTS), atol=1e-5)


@pytest.mark.parametrize("given", ["folder", "model"])
def test_sidenets_on_a_mainnet_that_was_quantized_before(given, tmp_path):
    tiny.bert().save_pretrained(tmp_path / "plain")
    config = config_of(keep=[])
    if given == "folder":
        mainnet, options = str(tmp_path / "plain"), {"quantization_config": config}
    else:
        load_plain = AutoModelForSequenceClassification.from_pretrained
        mainnet, options = load_plain(tmp_path / "plain", quantization_config=config), {}
    model = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1, 3], **options)
    assert len(quantized_names(model)) == 4 * 6 + 2
    before = [value.clone() for value in model.sidenets.parameters()]
    # They learn, on the features of the quantized MainNet.
    trainer_of(model, tmp_path / "trainer", labeled(TEXTS)).train()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.sidenets.parameters(), strict=True))
    model.eval().save_pretrained(tmp_path / "attached")
    again = load(tmp_path / "attached")
    assert quantized_names(again) == quantized_names(model)
    assert torch.equal(every_exit_of(again, TEXTS), every_exit_of(model, TEXTS))
    check_rows_leave(again, again, TEXTS, middle_threshold(again, TEXTS), atol=1e-5)


def test_the_precision_is_never_taken_for_float32(folder, warnings):
    plain = load(folder)
    quantization.quantize_(plain.mainnet, quantization.Int8WeightOnlyConfig(version=2))
    assert precision_of(plain) == "Int8Tensor+float32 (torchao)"
    model = load(folder, quantization_config=config_of(), dtype=torch.bfloat16)
    assert precision_of(model) == "Int8WeightOnlyConfig+bfloat16 (torchao)"
    model.config.calibration = {"precision": "float32"}
    SideNetRunner(model)
    (line,) = warnings()
    assert line.startswith(
        "θ was calibrated in float32, but the model runs in Int8WeightOnlyConfig+bfloat16 (torchao)"
    )
    assert line.endswith("hf_sidenet.attaching.checkpoint.recalibrate(model, processor, rows, target=...)")
    model.config.calibration = {"precision": precision_of(model)}
    SideNetRunner(model)
    SideNetRunner(model, compile=True)
    assert len(warnings()) == 1


def test_what_a_quantized_model_cannot_do_is_refused(folder, tmp_path):
    model = load(folder, quantization_config=config_of())
    message = (
        r"`model` must not be quantized for {}, got Int8WeightOnlyConfig\+float32 \(torchao\): pass the original model"
    )
    with pytest.raises(ValueError, match=message.format("a copy in torch.bfloat16")):
        cast_copy(model, "bfloat16")
    for export in (export_onnx, export_torch):
        with pytest.raises(ValueError, match=message.format("an export")):
            export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="You cannot perform fine-tuning on purely quantized models"):
        trainer_of(model, tmp_path / "trainer", labeled(TEXTS))
    model.save_pretrained(tmp_path / "quantized")
    with pytest.raises(ValueError, match="must not be quantized for the benchmark"):
        Checkpoint(str(tmp_path / "quantized"), None, torch.device("cpu"))


@pytest.mark.medium
def test_it_is_recalibrated_as_it_serves(tmp_path, warnings):
    save_text_checkpoint(tmp_path / "float")
    plain, _ = load_checkpoint(tmp_path / "float")
    model, tokenizer = load_checkpoint(tmp_path / "float", quantization_config=config_of())
    model.config.calibration = {"precision": "float32"}
    splits = sentences(validation=400, test=40)
    evaluate_checkpoint(model, tokenizer, splits["test"], progress=False)
    assert len(warnings()) == 1
    model.config.calibration = None
    found = recalibrate(
        model,
        tokenizer,
        splits["validation"],
        target="disagreement<=0.3",
        reference=plain.mainnet,
        progress=False,
    )
    assert (found.verdict, found.model) == ("attach", model)
    evidence = model.config.calibration
    assert evidence["precision"] == found.precision == "Int8WeightOnlyConfig+float32 (torchao)"
    assert evidence["reference_precision"] == "float32"
    model.save_pretrained(tmp_path / "quantized")
    tokenizer.save_pretrained(tmp_path / "quantized")
    assert check_shareable(tmp_path / "quantized").errors == []
    again, _ = load_checkpoint(tmp_path / "quantized")
    texts = splits["test"]["text"][:4]
    answers = pipeline("text-classification", model=str(tmp_path / "quantized"), trust_remote_code=True)(texts)
    expected = SideNetRunner(model, tokenizer).predict(texts)
    assert [answer["label"] for answer in answers] == [one.label for one in expected]
    assert json.loads((tmp_path / "quantized" / "config.json").read_text())["calibration"] == evidence
    assert again.config.thresholds == found.config.thresholds
    SideNetRunner(again)
    # Only the line from before: θ is for what serves now.
    assert len(warnings()) == 1
    # With SideNets for what the quantized blocks compute.
    retrained = recalibrate(
        model,
        tokenizer,
        splits["validation"],
        target="disagreement<=0.3",
        train=splits["train"],
        retrain=HeadTraining(max_epochs=1),
        reference=plain.mainnet,
        progress=False,
    )
    assert retrained.config.calibration["sidenet_precision"] == found.precision
    retrained.model.save_pretrained(tmp_path / "retrained")
    tokenizer.save_pretrained(tmp_path / "retrained")
    loaded, _ = load_checkpoint(tmp_path / "retrained")
    expected = SideNetRunner(retrained.model, tokenizer).predict(texts)
    assert [one.confidence for one in SideNetRunner(loaded, tokenizer).predict(texts)] == [
        one.confidence for one in expected
    ]
    assert len(warnings()) == 1

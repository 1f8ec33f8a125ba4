# SPDX-License-Identifier: Apache-2.0
"""The model that serves is the one certified: other precisions and runtimes, against the given classifier."""

import copy
import json
import logging
import re
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader
from transformers.utils import logging as hf_logging

from hf_sidenet.attaching.checkpoint import load_checkpoint, recalibrate
from hf_sidenet.calibration import parse_targets, split_rows
from hf_sidenet.data.rows import prepare_rows
from hf_sidenet.inference.collect import collect_stages
from hf_sidenet.inference.precision import cast_copy
from hf_sidenet.inference.stages import Stages
from hf_sidenet.measurement import collect
from hf_sidenet.models.modalities import TEXT

from ..attached import Runs, pictures, sentences


pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def rows():
    return sentences()["validation"]


@pytest.fixture
def made(runs):
    """A fresh model and tokenizer per test."""
    result = runs.text()
    return copy.deepcopy(result.model).eval(), result.processor


@pytest.fixture
def again(made, rows):
    def call(model=None, **kwargs):
        options = {"target": "disagreement<=0.1", "batch_size": 16, "progress": False, **kwargs}
        return recalibrate(model or made[0], made[1], options.pop("validation", rows), **options)

    return call


class Named:
    """A chain with a precision, like the stages of an exported folder, and optionally slow."""

    def __init__(self, model, precision="int8 (ONNX Runtime)", seconds=0.0):
        stages = Stages(model)
        self.stages, self.precision, self.seconds = stages, precision, seconds
        self.config = copy.deepcopy(model.config)
        self.device, self.dtype = stages.device, stages.dtype
        self.input_names, self.modality, self.task = stages.input_names, stages.modality, stages.task
        self.max_length, self.check_mode = stages.max_length, stages.check_mode

    def __len__(self):
        return len(self.stages)

    def __call__(self, index, hidden, inputs):
        time.sleep(self.seconds)
        return self.stages(index, hidden, inputs)


def certified_rows(model, processor, rows):
    """The certification rows of the last calibration as batches."""
    prepared = prepare_rows({"validation": rows}, model.config, processor, modality=TEXT)["validation"]
    evidence = model.config.calibration
    split = split_rows(len(prepared), evidence["certification_fraction"], evidence["seed"])
    chosen = [prepared.dataset[i] for i in split.certification.tolist()]
    return DataLoader(chosen, 16, collate_fn=prepared.collate_fn)


def shifted(model):
    """A MainNet whose logits lie so far from zero that bfloat16, not float32, rounds their difference away."""
    with torch.no_grad():
        model.mainnet.classifier.bias += 4096
    return model


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_a_cast_checkpoint_is_calibrated_as_it_will_serve(made, again, rows, tmp_path, runs, dtype):
    model, processor = made
    before = copy.deepcopy(model.config.to_dict())
    found = again(dtype=dtype, target="accuracy_drop<=0.1")
    name = str(dtype).removeprefix("torch.")
    assert (found.verdict, found.precision, found.model.dtype) == ("attach", name, getattr(torch, name))
    evidence = found.model.config.calibration
    assert (evidence["precision"], evidence["reference"], evidence["reference_precision"]) == (
        name, "stored", "float32",
    )  # fmt: skip
    # The given model is unchanged.
    assert model.dtype == torch.float32
    assert model.config.to_dict() == before
    assert found.config is found.model.config
    # The evidence describes the cast model, compared with the given MainNet.
    records = collect(
        found.model, certified_rows(found.model, processor, rows), reference=model.mainnet, progress=False
    )
    (target,) = parse_targets("accuracy_drop<=0.1")
    config = found.model.config
    expected = target.measure(records, records.route(config.thresholds, config.temperatures), "paired")
    entry = evidence["targets"][0]
    assert (entry["num_bad"], entry["num_helped"], entry["num_rows"]) == (
        expected.num_bad, expected.num_helped, expected.num_rows,
    )  # fmt: skip
    assert found.costs.flops == again(target="flops<=0.95").costs.flops
    # The folder has and records that precision.
    found.save(tmp_path / "out", report=runs.text().report)
    loaded, _ = load_checkpoint(tmp_path / "out")
    assert loaded.dtype == found.model.dtype
    assert type(loaded).from_pretrained(tmp_path / "out").dtype == found.model.dtype
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == name
    batch = processor(rows["text"][:8], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours, theirs = found.model(**batch), loaded(**batch)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.exit_index, theirs.exit_index)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Certified in {name} against the float32 classifier" in card
    assert f"for this checkpoint, θ and precision ({name})." in card
    assert "P(the MainNet before it was cast, in float32, is right)" in card
    assert f"All weights were then cast from float32 to {name}." in card
    assert "accuracy, MainNet in float32" in card


def test_the_precision_of_the_checkpoint_is_no_other_one(made, again):
    model, _ = made
    found = again(dtype="float32")
    assert found.model is model
    evidence = model.config.calibration
    assert (evidence["reference"], evidence["reference_precision"]) == ("inside", "float32")


def test_risks_are_measured_against_the_classifier_as_it_was(made, again):
    model = shifted(made[0])
    assert again(model, target="accuracy_drop<=0.1").verdict == "attach"
    evidence = copy.deepcopy(model.config.calibration)
    # In bfloat16 the MainNet gives a single answer, so no row may reach it.
    refused = again(model, target="accuracy_drop<=0.1", dtype="bfloat16", trust_labels=True)
    assert (refused.verdict, refused.precision) == ("do not attach", "bfloat16")
    assert refused.reason.startswith("no threshold is certified")
    assert refused.model is model
    assert refused.config is model.config
    assert model.config.calibration == evidence
    # Compared with itself it does well.
    cast = cast_copy(model, "bfloat16")
    found = again(model, target="accuracy_drop<=0.1", dtype="bfloat16", reference=cast.mainnet, trust_labels=True)
    assert found.verdict == "attach"
    evidence = found.config.calibration
    assert (evidence["reference"], evidence["reference_precision"]) == ("other", "bfloat16")


def test_numbers_that_do_not_fit_are_refused(made, again):
    model = made[0]
    with torch.no_grad():
        model.mainnet.classifier.weight *= 1e6
    assert again(model).precision == "float32"
    with pytest.raises(ValueError, match=r"finite logits, but \d+ of 240 rows have others in float16"):
        again(model, dtype="float16")


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(hf_logging.get_logger("hf_sidenet"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_reference_that_would_be_lost_is_told(again, made, told):
    cast = again(dtype="bfloat16").model
    assert not any("calibrated against" in line for line in told())
    evidence = again(cast).model.config.calibration
    assert (evidence["reference"], evidence["reference_precision"]) == ("inside", "bfloat16")
    assert [line for line in told() if "against a classifier in float32; it is now" in line]
    # No warning if the user names a reference.
    told_before = len(told())
    again(again(dtype="bfloat16").model, reference=cast.mainnet)
    assert not any("calibrated against" in line for line in told()[told_before:])


def test_stages_are_calibrated_instead_of_the_model(made, again):
    model, _ = made
    before = copy.deepcopy(model.config.to_dict())
    stages = Named(cast_copy(model, "bfloat16"), seconds=0.004)
    found = again(stages=stages, target="accuracy_drop<=0.1")
    assert (found.verdict, found.precision) == ("attach", "int8 (ONNX Runtime)")
    assert found.model is model
    assert model.config.to_dict() == before
    evidence = stages.config.calibration
    assert found.config is stages.config
    assert stages.config.thresholds == found.calibration.selection.chosen.thresholds != before["thresholds"]
    assert (evidence["precision"], evidence["reference"], evidence["reference_precision"]) == (
        "int8 (ONNX Runtime)", "stored", "float32",
    )  # fmt: skip
    # The same as for the model behind the chain.
    cast = again(dtype="bfloat16", target="accuracy_drop<=0.1")
    assert stages.config.temperatures == pytest.approx(cast.config.temperatures, rel=1e-2)
    assert evidence["targets"][0]["num_bad"] == pytest.approx(cast.config.calibration["targets"][0]["num_bad"], abs=2)
    # FLOPs and parameters of the model; its own time, of 4 ms or more per stage and 16 rows.
    assert found.costs.flops == cast.costs.flops
    assert found.costs.params == cast.costs.params
    milliseconds = found.costs.milliseconds
    assert [time >= 0.25 * count for count, time in enumerate(milliseconds, 1)] == [True] * len(milliseconds)
    assert found.costs.mainnet_milliseconds == milliseconds[-1]
    assert found.costs.device == "cpu, int8 (ONNX Runtime)"


def test_a_time_limit_is_one_for_the_stages(made, again):
    # Each stage takes 0.5 ms per row, which the torch model does not.
    stages = Named(made[0], seconds=0.008)
    assert again(stages=stages, target="latency_ms<=0.4").verdict == "do not attach"
    found = again(stages=stages, target=f"latency_ms<={0.5 * len(stages) + 0.4}")
    assert found.verdict == "attach"


@pytest.fixture(scope="module")
def exported(runs):
    """The folders of the same checkpoint for ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    from hf_sidenet.export.onnx_export import export_onnx

    model = copy.deepcopy(runs.text().model).eval()
    for name in ("float32", "int8"):
        export_onnx(model, runs.folder / name, processor=runs.text().processor, int8=name == "int8", progress=False)
    return runs.folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "int8"])
def test_an_exported_folder(name, exported, made, again, rows):
    from hf_sidenet.export.onnx import OnnxStages

    model, processor = made
    stages = OnnxStages.load(exported / name)
    assert (stages.config.calibration is None) == (name == "int8")
    found = again(stages=stages, target="accuracy_drop<=0.1")
    assert (found.verdict, found.precision) == ("attach", f"{name} (ONNX Runtime)")
    evidence = stages.config.calibration
    assert (evidence["precision"], evidence["reference"], evidence["reference_precision"]) == (
        f"{name} (ONNX Runtime)", "stored", "float32",
    )  # fmt: skip
    assert "onnxruntime" in evidence["versions"]
    # The checkpoint's record of the rows counts, although the int8 folder had no evidence.
    assert evidence["num_calibrations"] == 2
    assert evidence["validation_fingerprint"] == model.config.calibration["validation_fingerprint"]
    # Checked by hand against the float32 MainNet.
    loader = certified_rows(SimpleNamespace(config=stages.config), processor, rows)
    records = collect_stages(stages, loader, reference=model.mainnet)
    (target,) = parse_targets("accuracy_drop<=0.1")
    expected = target.measure(records, records.route(stages.config.thresholds, stages.config.temperatures), "paired")
    entry = evidence["targets"][0]
    assert (entry["num_bad"], entry["num_helped"]) == (expected.num_bad, expected.num_helped)
    if name == "float32":
        again(target="accuracy_drop<=0.1")
        assert stages.config.temperatures == pytest.approx(model.config.temperatures, rel=1e-4)
        assert stages.config.thresholds == pytest.approx(model.config.thresholds, abs=1e-4)


def test_one_target_in_several_precisions_and_runtimes_is_one_more_look(made, again):
    counts = []
    for options in ({}, {"dtype": "bfloat16"}, {"stages": Named(made[0])}, {"stages": Named(made[0], "int4")}):
        counts.append(again(copy.deepcopy(made[0]), **options).config.calibration["num_calibrations"])
    assert counts == [2, 2, 2, 2]


def test_impossible_arguments(made, again):
    model = made[0]
    with pytest.raises(ValueError, match=r"`dtype` must be one of .*, got 'int8'"):
        again(dtype="int8")
    stages = Named(model)
    with pytest.raises(ValueError, match=r"`dtype` must not be given with `stages`, .* got 'bfloat16'"):
        again(dtype="bfloat16", stages=stages)
    stages.config.id2label = {0: "no", 1: "yes"}
    with pytest.raises(ValueError, match=r"`stages. must have the same id2label as .model., got .*'no'.*'bad'"):
        again(stages=stages)


def test_pictures_in_bfloat16(runs, tmp_path):
    """The code of the card runs, although an image processor makes float32."""
    result = runs.image()
    rows = pictures()["validation"]
    target = "disagreement<=0.2"
    found = recalibrate(
        result.model, result.processor, rows, target=target, dtype="bfloat16", batch_size=16, progress=False
    )
    assert (found.verdict, found.config.calibration["precision"]) == ("attach", "bfloat16")
    found.save(tmp_path / "out", report=result.report)
    rows[0]["image"].save(tmp_path / "image.png")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    (use, _) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(use, names)
    assert names["model"].dtype == torch.bfloat16
    assert names["answer"] in ("bad", "good")


def test_a_checkpoint_in_another_precision_is_evaluated_with_a_warning(runs, made, told):
    from hf_sidenet.attaching.checkpoint import evaluate_checkpoint

    logging.Logger.warning_once.cache_clear()
    test = sentences()["test"]
    evaluate_checkpoint(cast_copy(made[0], "bfloat16"), made[1], test, num_resamples=10, progress=False)
    assert [line for line in told() if line.startswith("θ was calibrated in float32, but the model runs in bfloat16")]

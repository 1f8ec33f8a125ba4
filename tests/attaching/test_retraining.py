# SPDX-License-Identifier: Apache-2.0
"""SideNets retrained on what they read in another precision or runtime, before calibrating."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint, recalibrate
from hf_sidenet.attaching.retraining import (
    places_after_blocks,
    read_stages,
    retrain_sidenets,
    trained_precision,
    with_sidenets,
)
from hf_sidenet.calibration import split_rows
from hf_sidenet.data.rows import SomeRows, prepare_rows
from hf_sidenet.inference.certificate import why_not_certified
from hf_sidenet.inference.precision import cast_copy
from hf_sidenet.inference.stages import Stages
from hf_sidenet.io.fingerprint import fingerprint_weights
from hf_sidenet.measurement import accuracy
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.training.heads import HeadTraining, sidenet_logits

from ..attached import Runs, sentences
from ..models import tiny


pytestmark = pytest.mark.medium

SETTINGS = HeadTraining(max_epochs=3, batch_size=32, learning_rate=3e-3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def attached(runs):
    """Without an exit before the first block, which would answer everything."""
    return runs.text(exit_layers=[1, 2])


@pytest.fixture(scope="module")
def rows():
    return sentences()


@pytest.fixture
def made(attached):
    """A fresh model and tokenizer per test."""
    return copy.deepcopy(attached.model).eval(), attached.processor


@pytest.fixture
def again(made, rows):
    def call(**kwargs):
        options = {"target": "disagreement<=0.1", "batch_size": 16, "progress": False, "retrain": SETTINGS, **kwargs}
        validation = options.pop("validation", rows["validation"])
        return recalibrate(made[0], made[1], validation, train=options.pop("train", rows["train"]), **options)

    return call


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def all_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_cast_checkpoint(made, again, attached, tmp_path):
    model, processor = made
    before, config = state_of(model), copy.deepcopy(model.config.to_dict())
    plain = again(dtype="bfloat16", retrain=None)
    found = again(dtype="bfloat16")
    assert found.verdict == "attach"
    # The given model is as it was, and the MainNet is only cast.
    assert all_equal(state_of(model), before)
    assert model.config.to_dict() == config
    cast = cast_copy(model, "bfloat16")
    assert all_equal(state_of(found.model.mainnet), state_of(cast.mainnet))
    for index, own in enumerate(found.model.sidenets):
        assert own.norm.weight.dtype == torch.bfloat16
        assert not all_equal(state_of(own), state_of(cast.sidenets[index]))
    # Evidence is about the new weights, which are another look at the rows.
    evidence, other = found.config.calibration, plain.config.calibration
    assert (evidence["sidenet_precision"], other["sidenet_precision"]) == ("bfloat16", "float32")
    assert (evidence["reference"], evidence["reference_precision"]) == ("stored", "float32")
    assert evidence["certified"]["weights"] == fingerprint_weights(found.model) != other["certified"]["weights"]
    assert evidence["look"] != other["look"]
    third = again(dtype="bfloat16", retrain=replace(SETTINGS, seed=1)).config.calibration
    assert [each["num_calibrations"] for each in (other, evidence, third)] == [2, 2, 3]
    assert why_not_certified(found.model, processor) is None
    found.save(tmp_path / "out", report=attached.report)
    loaded, _ = load_checkpoint(tmp_path / "out")
    assert all_equal(state_of(loaded), state_of(found.model))
    assert why_not_certified(loaded, processor) is None
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "cast from float32 to bfloat16. The SideNets were retrained on what they read in bfloat16." in card
    # Evidence for the old SideNets says nothing about the new ones.
    loaded.config = plain.config
    assert why_not_certified(loaded, processor) == "its weights are not those for which θ was certified"


def test_without_another_precision_the_given_model_stays(made, again):
    before = state_of(made[0])
    found = again()
    assert all_equal(state_of(made[0]), before)
    assert found.model is not made[0]
    assert found.config.calibration["reference"] == "inside"
    # The MainNet is shared, not copied.
    assert found.model.mainnet.classifier.weight is made[0].mainnet.classifier.weight


def test_weights_of_earlier_exits_are_fitted_anew(made, again):
    model, _ = made
    chain = [[0.123], [0.0, 0.0]]
    model.config.chain = chain
    assert again(retrain=None).config.chain == chain
    found = again(dtype="bfloat16")
    assert found.config.chain != chain
    assert not any((found.config.chain or chain)[1])
    assert found.config.calibration["certified"].get("chain") == found.config.chain
    assert model.config.chain == chain


def test_certification_rows_train_nothing(made, again, rows):
    evidence = made[0].config.calibration
    validation = rows["validation"]
    split = split_rows(len(validation), evidence["certification_fraction"], evidence["seed"])

    def retrained(which):
        labels = torch.tensor(validation["label"][:])
        labels[which] = 1 - labels[which]
        changed = validation.remove_columns("label").add_column("label", labels.tolist())
        changed = changed.cast_column("label", validation.features["label"])
        found = again(validation=changed, target="flops<=0.99", trust_labels=True)
        return state_of(found.model.sidenets)

    expected = retrained(torch.tensor([], dtype=torch.long))
    assert all_equal(retrained(split.certification), expected)
    assert not all_equal(retrained(split.design), expected)


class Turned:
    """A chain whose x_c has the other sign, and whose blocks see none of it."""

    def __init__(self, model):
        self.stages = Stages(model)
        self.config, self.task, self.modality = self.stages.config, self.stages.task, self.stages.modality
        self.device, self.dtype = self.stages.device, self.stages.dtype
        self.input_names = self.stages.input_names

    def __len__(self):
        return len(self.stages)

    def __call__(self, index, hidden, inputs):
        hidden, logits = self.stages(index, None if hidden is None else -hidden, inputs)
        return None if hidden is None else -hidden, logits


def prepared(model, processor, rows, name):
    return prepare_rows({name: rows[name]}, model.config, processor, modality=TEXT)[name]


def test_they_learn_what_the_chain_computes(made, rows):
    model, processor = made
    chain = Turned(model)
    parts = {name: SomeRows(prepared(model, processor, rows, name), name) for name in rows}
    sidenets = retrain_sidenets(
        chain, parts["train"], parts["validation"], SETTINGS, teacher=model.mainnet, batch_size=16, progress=False
    )
    features, logits = read_stages(chain, parts["test"], every_exit=True, progress=False)
    labels = parts["test"].labels
    for index, candidate in places_after_blocks(model).items():
        old = sidenet_logits(model.sidenets[index], features[candidate])
        new = sidenet_logits(sidenets[index], features[candidate])
        assert accuracy(new, labels) > 0.75
        assert accuracy(new, labels) > accuracy(old, labels) + 0.1
        # Rows keep their order, although texts of similar length run together.
        with torch.no_grad():
            batch = parts["test"].rows.collate_fn([parts["test"].dataset[3]])
            exits = model(**{k: v for k, v in batch.items() if k != "labels"}, thresholds=1.0).exit_logits[0]
        torch.testing.assert_close(logits[index][3], exits[index], rtol=1e-3, atol=1e-4)


def test_a_sidenet_before_the_first_block_stays(made, rows):
    tokenizer = made[1]
    mainnet = tiny.bert(vocab_size=len(tokenizer), num_labels=2)
    model = tiny.BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[0, 2]).eval()
    parts = [SomeRows(prepared(model, tokenizer, rows, name), name) for name in ("train", "validation")]
    sidenets = retrain_sidenets(Stages(model), *parts, SETTINGS, teacher=mainnet, progress=False)
    assert list(sidenets) == [1]
    changed = with_sidenets(model, sidenets)
    assert all_equal(state_of(changed.sidenets[0]), state_of(model.sidenets[0]))
    assert not all_equal(state_of(changed.sidenets[1]), state_of(model.sidenets[1]))


def test_what_they_were_trained_on():
    stored = {"reference": "stored", "reference_precision": "float32", "precision": "bfloat16"}
    assert trained_precision({}) is None
    assert trained_precision({"reference": "given", "precision": "bfloat16"}) == "bfloat16"
    assert trained_precision(stored) == "float32"
    assert trained_precision({**stored, "sidenet_precision": "int8 (ONNX Runtime)"}) == "int8 (ONNX Runtime)"


def test_impossible_arguments(made, again):
    with pytest.raises(ValueError, match=r"`train` must be given with `retrain`: .*, got None"):
        again(train=None)
    with pytest.raises(
        ValueError, match=r"`retrain` must have the `hidden_size` of the checkpoint's SideNets, 32, got 16"
    ):
        again(retrain=HeadTraining(hidden_size=16))
    with pytest.raises(ValueError, match=r"`stages` must be `OnnxStages` to retrain .*, got Stages"):
        again(stages=Stages(made[0]))


@pytest.fixture(scope="module")
def exported(runs, attached):
    """The folders of the same checkpoint for ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    from hf_sidenet.export.onnx_export import export_onnx

    model = copy.deepcopy(attached.model).eval()
    for name in ("float32", "int8"):
        export_onnx(model, runs.folder / name, processor=attached.processor, int8=name == "int8", progress=False)
        (runs.folder / name / "LICENSE").write_text("mine")
    return runs.folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "int8"])
def test_an_exported_folder(name, exported, made, again, tmp_path):
    from hf_sidenet.export.onnx import OnnxStages

    model, processor = made
    before = contents(exported / name)
    stages = OnnxStages.load(exported / name, num_threads=1)
    plain = again(stages=OnnxStages.load(exported / name), retrain=None)
    found = again(stages=stages)
    assert (found.verdict, found.precision) == ("attach", f"{name} (ONNX Runtime)")
    assert found.config.calibration["sidenet_precision"] == f"{name} (ONNX Runtime)"
    assert found.config.calibration["look"] != plain.config.calibration["look"]
    found.save(tmp_path / "out")
    assert contents(exported / name) == before
    made_now = OnnxStages.load(tmp_path / "out")
    assert why_not_certified(made_now, processor) is None
    assert (tmp_path / "out" / "LICENSE").read_text() == "mine"
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(before)
    # x_c and the MainNet's logits are bit for bit those of the given folder; the SideNets' logits are not.
    inputs = processor(["a fine film", "dull and slow"], padding=True, return_tensors="pt")
    inputs = {each: inputs[each] for each in stages.input_names}
    hidden, logits = None, []
    for index in range(len(stages)):
        old, new = stages(index, hidden, inputs), made_now(index, hidden, inputs)
        logits.append(torch.equal(old[1], new[1]))
        hidden = old[0]
        assert hidden is None or torch.equal(new[0], hidden)
    assert logits == [False] * (len(stages) - 1) + [True]
    # The manifest tells the two sets of weights apart.
    assert made_now.manifest.retrained_from == fingerprint_weights(model) == stages.manifest.weights
    assert made_now.manifest.weights not in (None, stages.manifest.weights)
    # Evidence about the checkpoint, or about the folder as exported, is not evidence about this folder.
    for evidence in (model.config.calibration, plain.config.calibration):
        certified = {**evidence["certified"], "precision": made_now.precision}
        made_now.config.thresholds, made_now.config.temperatures = certified["thresholds"], certified["temperatures"]
        made_now.config.calibration = {**evidence, "certified": certified}
        assert why_not_certified(made_now, processor) == "its weights are not those for which θ was certified"
    # Another target for the retrained SideNets, without training.
    later = again(stages=OnnxStages.load(tmp_path / "out"), retrain=None, target="disagreement<=0.15")
    assert later.sidenet_precision == f"{name} (ONNX Runtime)"
    assert later.config.calibration["source_weights"] == made_now.manifest.weights
    later.save(tmp_path / "out", overwrite=True)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["retrained_from"] == stages.manifest.weights
    # In place, and a second time.
    twice = again(stages=OnnxStages.load(tmp_path / "out"))
    twice.save(tmp_path / "out", overwrite=True)
    assert why_not_certified(OnnxStages.load(tmp_path / "out"), processor) is None
    folder = twice.stages.directory
    del twice
    assert not folder.exists()

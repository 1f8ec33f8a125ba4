# SPDX-License-Identifier: Apache-2.0
"""`attach` from Python: what each row is used for, and what comes back. The folder is tested in
test_checkpoint_folder.py, the report in tests/report, the command in test_cli.py."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_sidenet.attaching.attach import attach
from hf_sidenet.attaching.checkpoint import recalibrate
from hf_sidenet.attaching.steps import all_candidates
from hf_sidenet.calibration import RepeatedRowsError, TooFewRowsError, split_rows
from hf_sidenet.data.rows import prepare_rows
from hf_sidenet.measurement import collect
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.training.heads import HeadTraining
from hf_sidenet.training.joint import JointTraining

from ..attached import save_text_mainnet, sentences
from ..models import tiny


HEADS = HeadTraining(max_epochs=2, batch_size=32, learning_rate=3e-3)


@pytest.fixture(scope="module")
def splits():
    return sentences()


@pytest.fixture(scope="module")
def mainnet(tmp_path_factory, splits):
    return save_text_mainnet(tmp_path_factory.mktemp("mainnet") / "classifier", splits["train"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(mainnet, splits, cache):
    def call(model=mainnet, *, train=None, validation=None, test=None, **kwargs):
        options = {"target": "accuracy_drop<=0.05", "batch_size": 16, "progress": False, "heads": HEADS, **kwargs}
        return attach(
            model, train or splits["train"], validation or splits["validation"], test, cache_dir=cache, **options
        )

    return call


def relabeled(rows, which):
    """The same rows, some with the other class."""
    flipped = set(which)
    labels = [1 - label if i in flipped else label for i, label in enumerate(rows["label"][:])]
    return rows.remove_columns("label").add_column("label", labels).cast_column("label", rows.features["label"])


def weights(result):
    return torch.cat([p.flatten() for p in result.model.sidenets.parameters()])


@pytest.mark.medium
def test_certification_rows_certify_and_nothing_else(run, splits, mainnet):
    rows = prepare_rows(
        splits,
        AutoModelForSequenceClassification.from_pretrained(mainnet).config,
        AutoTokenizer.from_pretrained(mainnet),
        modality=TEXT,
    )
    split = split_rows(len(rows["validation"]), 0.75, 0)
    first = run()
    # Other labels of a few certification rows: another accuracy there, and the same model and temperatures.
    other = run(validation=relabeled(splits["validation"], split.certification[:3].tolist()))
    assert torch.equal(weights(first), weights(other))
    for name in ("temperatures", "exit_layers", "pooling"):
        assert getattr(first.model.config, name) == getattr(other.model.config, name)
    vectors = [[point["thresholds"] for point in result.report["path"]] for result in (first, other)]
    shared = min(map(len, vectors))
    assert vectors[0][:shared] == vectors[1][:shared]
    assert first.report["path"][0]["accuracy"] != other.report["path"][0]["accuracy"]
    # Design rows do change it.
    moved = run(validation=relabeled(splits["validation"], split.design[:30].tolist()))
    assert first.model.config.temperatures != moved.model.config.temperatures


@pytest.mark.medium
def test_the_same_call_gives_the_same_result(run):
    first, again = run(), run()
    assert torch.equal(weights(first), weights(again))
    assert first.model.config.thresholds == again.model.config.thresholds
    walks = [[(p["thresholds"], p["risks"]) for p in result.report["path"]] for result in (first, again)]
    assert walks[0] == walks[1]
    counts = [result.report["calibration"]["num_calibrations"] for result in (first, again)]
    assert counts[0] == counts[1]
    assert run(target="accuracy_drop<=0.06").report["calibration"]["num_calibrations"] > counts[0]


@pytest.mark.medium
def test_the_records_are_those_of_the_model(run, splits, mainnet):
    result = run(test=splits["test"])
    rows = prepare_rows({"test": splits["test"]}, result.model.config, result.processor, modality=TEXT)["test"]
    batches = [rows.collate_fn([rows.dataset[i] for i in range(k, k + 8)]) for k in range(0, len(rows), 8)]
    live = collect(result.model, batches, progress=False)
    torch.testing.assert_close(live.exit_logits, result.test_records.exit_logits, rtol=0, atol=1e-4)
    assert result.evaluation.num_rows == len(splits["test"])


@pytest.mark.medium
def test_sidenets_that_build_on_each_other(run, splits, mainnet):
    # N-grams know something that this MainNet does not.
    noisy, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(mainnet),
        AutoTokenizer.from_pretrained(mainnet),
    )
    torch.manual_seed(1)
    with torch.no_grad():
        noisy.get_input_embeddings().weight.add_(0.05 * torch.randn(noisy.get_input_embeddings().weight.shape))
    options = {"exit_layers": [0, 1], "chain": True, "ensemble": True, "target": "flops<=0.9", "test": splits["test"]}
    result = run(noisy, processor=tokenizer, **options)
    chain = result.model.config.chain
    assert [len(weights) for weights in chain] == [*range(1, len(result.model.config.exit_layers) + 1)]
    assert any(chain[-1])
    assert (result.report["settings"]["chain"], result.report["settings"]["ensemble"]) == (True, True)
    rows = prepare_rows({"test": splits["test"]}, result.model.config, result.processor, modality=TEXT)["test"]
    batches = [rows.collate_fn([rows.dataset[i] for i in range(k, k + 8)]) for k in range(0, len(rows), 8)]
    live = collect(result.model, batches, progress=False)
    torch.testing.assert_close(live.exit_logits, result.test_records.exit_logits, rtol=0, atol=1e-4)
    # Measured against the MainNet's own answers.
    torch.testing.assert_close(live.mainnet_logits, result.test_records.mainnet_logits, rtol=0, atol=1e-4)
    assert (live.mainnet_logits - live.exit_logits[:, -1]).abs().max() > 0.1


@pytest.mark.medium
def test_a_model_object_stays_as_it_was(run, mainnet):
    model = AutoModelForSequenceClassification.from_pretrained(mainnet)
    before = copy.deepcopy(model.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(mainnet)
    result = run(model, processor=tokenizer, tune="joint", joint=JointTraining(num_epochs=1), target="flops<=0.9")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tuned = result.model.mainnet.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in tuned.items())
    assert not any(p.requires_grad for p in result.model.mainnet.parameters())
    with pytest.raises(ValueError, match="`processor` must be given"):
        run(model)


@pytest.mark.medium
@pytest.mark.parametrize("reference", ["given", "tuned"])
def test_the_reference_of_a_tuned_model(run, mainnet, splits, reference):
    joint = JointTraining(num_epochs=1, learning_rate=1e-3)
    result = run(
        tune="joint", joint=joint, reference=reference, target="flops<=0.95", test=splits["test"], max_exits=1
    )
    own = result.test_records.exit_logits[:, -1]
    assert torch.equal(result.test_records.mainnet_logits, own) == (reference == "tuned")
    assert result.report["settings"]["reference"] == reference


@pytest.mark.medium
@pytest.mark.parametrize("poolings", [["ngrams"], ["embeddings"], ["ngrams+embeddings", "mean"], None])
def test_an_exit_before_the_first_block(run, splits, mainnet, poolings):
    """Its records are the answers of the model with it."""
    result = run(target="flops<=0.5", test=splits["test"], exit_layers=[0], poolings=poolings)
    config = result.model.config
    assert config.exit_layers == [0]
    assert config.pooling[0] in (poolings or ("ngrams", "embeddings", "ngrams+embeddings"))
    tokenizer = AutoTokenizer.from_pretrained(mainnet)
    assert config.input_sidenet["special_ids"] == sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id})
    inputs = tokenizer(splits["test"]["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        live = result.model(**{name: inputs[name] for name in ("input_ids", "attention_mask")}, thresholds=1.0)
    torch.testing.assert_close(live.exit_logits, result.test_records.exit_logits, rtol=1e-4, atol=1e-4)
    assert result.report["candidates"][0]["exit_layer"] == 0


@pytest.mark.parametrize(
    ("row", "exit_layers", "tried"),
    [
        ({"input_ids": [1]}, None, True),
        ({"inputs_embeds": [[1.0]]}, None, False),
        ({"inputs_embeds": [[1.0]]}, [0, 1], True),
        ({"input_ids": [1]}, [1], False),
    ],
)
def test_what_is_tried_before_the_first_block(row, exit_layers, tried):
    """Rows without token ids can still be attached to, by default without that exit."""
    found = all_candidates(tiny.bert_with_sidenets(), exit_layers, row=row)
    assert any(candidate.exit_layer == 0 for candidate in found) == tried
    assert any(candidate.exit_layer == 1 for candidate in found)


def test_disagreement_needs_no_labels(run, splits):
    bare = {name: rows.add_column("labels", [-100] * len(rows)) for name, rows in splits.items()}
    tokenizer = AutoTokenizer.from_pretrained(run().model.config.name_or_path)
    ready = {name: [{**tokenizer(row["text"]), "labels": -100} for row in rows] for name, rows in bare.items()}
    del ready["test"]
    result = run(train=ready["train"], validation=ready["validation"], target="disagreement<=0.1", processor=tokenizer)
    assert result.report["data"]["validation"]["has_labels"] is False
    assert result.report["mainnet"]["validation_accuracy"] == 1.0
    with pytest.raises(ValueError, match="`ensemble` needs validation rows with labels"):
        run(**ready, target="disagreement<=0.1", processor=tokenizer, ensemble=True)
    with pytest.raises(ValueError, match=r"`train` must have labels for accuracy_drop<=0.05, but \d+ of"):
        run(train=ready["train"], validation=ready["validation"], processor=tokenizer)


def test_too_few_rows_are_refused_before_the_work(run):
    with pytest.raises(TooFewRowsError, match=r"needs at least (299|300) certification rows") as error:
        run(target="accuracy_drop<=0.01")
    assert error.value.num_rows == 180


def test_training_rows_cannot_certify(run, splits):
    with pytest.raises(RepeatedRowsError, match=r"180 of 180 certification rows \(100.0%\) repeat a training or"):
        run(validation=splits["train"])


def test_a_verdict_without_a_checkpoint(run, tmp_path):
    result = run(target="flops<=0.01", exit_layers=[1, 2], output_dir=tmp_path / "out")
    assert (result.verdict, result.model) == ("do not attach", None)
    assert not (tmp_path / "out").exists()
    assert json.loads(result.report.to_json())["verdict"] == "do not attach"
    with pytest.raises(ValueError, match=r"there is no checkpoint to save: no threshold is within the budget"):
        result.save(tmp_path / "out")


@pytest.mark.medium
def test_unnamed_classes_get_the_names_of_the_rows(run, mainnet, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(mainnet)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    model.config.label2id = {"LABEL_0": 0, "LABEL_1": 1}
    result = run(model, processor=AutoTokenizer.from_pretrained(mainnet))
    assert result.model.config.id2label == {0: "bad", 1: "good"}
    result.model.save_pretrained(tmp_path)
    assert type(result.model).from_pretrained(tmp_path).mainnet.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.medium
def test_recalibrating_on_the_same_rows_is_counted(run, splits):
    result = run()
    count = result.model.config.calibration["num_calibrations"]
    again = recalibrate(
        result.model, result.processor, splits["validation"], target="disagreement<=0.1", batch_size=16, progress=False
    )
    assert again.verdict == "attach"
    evidence = result.model.config.calibration
    assert evidence["num_calibrations"] == count + 1
    assert (evidence["reference"], evidence["num_certification_rows"]) == ("inside", 180)
    assert evidence["targets"][0]["target"] == "disagreement<=0.1"


@pytest.mark.medium
def test_the_same_target_in_another_precision_is_no_second_look(run, splits):
    result = run()
    first = result.model.config.calibration
    options = {"target": first["targets"][0]["target"], "batch_size": 16, "progress": False}
    args = (result.processor, splits["validation"])
    cast = recalibrate(copy.deepcopy(result.model), *args, dtype="bfloat16", **options).model
    assert cast.config.calibration["precision"] == "bfloat16"
    back = recalibrate(copy.deepcopy(cast), *args, dtype="float32", **options).model
    same = recalibrate(copy.deepcopy(result.model), *args, **options).model
    for model in (cast, back, same):
        assert model.config.calibration["num_calibrations"] == first["num_calibrations"]
    other = recalibrate(copy.deepcopy(cast), *args, **{**options, "target": "accuracy_drop<=0.07"}).model
    assert other.config.calibration["num_calibrations"] == first["num_calibrations"] + 1


@pytest.mark.medium
def test_another_reference_is_another_calibration(run, splits, mainnet):
    result, counts = run(), []
    model = copy.deepcopy(result.model)
    model.config.calibration = None
    for scale in (1.0, 0.9, 0.8, 0.8):
        reference = AutoModelForSequenceClassification.from_pretrained(mainnet)
        reference.classifier.weight.data *= scale
        found = recalibrate(
            model,
            result.processor,
            splits["validation"],
            target="accuracy_drop<=0.1",
            reference=reference,
            dtype="bfloat16",
            batch_size=16,
            progress=False,
        )
        counts.append(found.config.calibration["num_calibrations"])
    assert counts == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tune": "all"}, "`tune` must be one of"),
        ({"reference": "best"}, "`reference` must be one of"),
        ({"test_method": "t"}, "`test_method` must be one of"),
        ({"confidence_level": 1.0}, r"`confidence_level` must be in \(0, 1\), got 1.0"),
        ({"exit_layers": [7]}, "`exit_layer` must be between 1 and 3, got 7"),
        ({"poolings": ["gap"]}, "does not fit a sequence of tokens"),
        ({"certification_fraction": 2}, r"`certification_fraction` must be in \(0, 1\)"),
    ],
)
def test_bad_arguments(run, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run(**kwargs)


def test_a_checkpoint_with_sidenets_is_refused(run, tmp_path):
    run().model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be a plain classifier, but .* has SideNets: recalibrate it"):
        run(str(tmp_path))
